"""Which ways to serve the model are built: the precisions that the spec asks for, each as the backend wants it."""

from pathlib import Path

from build_images.engine_builder.backend import Backend, Candidate
from build_images.engine_builder.choose import FALLBACK
from build_images.engine_builder.request import BuildRequest


def candidates_of(
    request: BuildRequest, backend: Backend, work: Path
) -> tuple[list[Candidate], dict[str, str]]:
    """What is built first; and each asked-for precision that cannot be, with the reason. work: a folder for files."""
    asked, there = request.spec.precisions, backend.precisions()
    left_out = {
        precision: f"backend {request.target.backend} cannot build it on this machine"
        for precision in asked
        if precision not in there
    }
    wanted = [precision for precision in asked if precision in there]
    made: list[Candidate] = []
    if "fp32" in wanted:
        made.append(fallback(request))
    if "fp16" in wanted:
        made.append(_fp16(request, backend, work))
    if "int8" in wanted:
        made += [_int8(backend, method, file, work) for method, file in request.int8.items()]
    return made or [fallback(request)], left_out


def fallback(request: BuildRequest) -> Candidate:
    """FP32: built when it is asked for, or when nothing that was asked for is accurate enough."""
    return Candidate(name=FALLBACK, precision="fp32", source=request.onnx)


def _fp16(request: BuildRequest, backend: Backend, work: Path) -> Candidate:
    from build_images.engine_builder import precision  # needs onnx, which nothing else here does

    target = work / "fp16.onnx"
    if backend.precision_by_flag():
        source, kept = precision.flagged(request.onnx, target)
        return Candidate(name="fp16", precision="fp16", source=source, fp32_nodes=kept)
    precision.write_fp16(request.onnx, target)
    return Candidate(name="fp16", precision="fp16", source=target)


def _int8(backend: Backend, method: str, file: Path, work: Path) -> Candidate:
    name = f"int8-{method}"
    if not backend.precision_by_flag():
        return Candidate(name=name, precision="int8", source=file)
    from build_images.engine_builder import precision

    source, kept = precision.flagged(file, work / f"{name}.onnx")  # what is not quantised runs in FP16 there
    return Candidate(name=name, precision="int8", source=source, fp32_nodes=kept)

"""What is written beside an engine: every candidate's numbers, and the manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.tree import tree_files
from build_images.engine_builder.backend import Layers
from build_images.engine_builder.bench import Bench, Profile
from build_images.engine_builder.choose import Choice
from sluice.manifest import OF_ENGINE, OF_ONNX, EngineManifest
from sluice.plan import HEAD_BYTES, TENSORRT, read_header, version_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that a build found. one_profile, layers, timing_cache: None where there is none."""

    profiles: Mapping[str, Profile]
    choice: Choice
    one_profile: Mapping[str, Any] | None
    layers: Layers | None
    timing_cache: Mapping[str, Any] | None
    weights_sha256: str | None

    @property
    def best(self) -> Profile:
        """The winner's."""
        return self.profiles[self.choice.name]


def report_of(bench: Bench, found: Outcome) -> dict[str, Any]:
    """`report.json`, plain JSON."""
    here = bench.runs_here
    return {
        "schema": 2,
        "chosen": found.choice.name,
        "reason": found.choice.reason,
        "ranked_by": bench.ranked_by,
        "rejected": dict(found.choice.rejected),
        "candidates": {name: one.to_dict() for name, one in found.profiles.items()},
        "bars": {name: bar.cosine for name, bar in bench.spec.accuracy.items()},
        "accuracy_samples": len(bench.request.samples),
        "accuracy_of": OF_ENGINE if here else OF_ONNX,
        "measured": here,
        "why_not_measured": None if here else bench.why_not_timed,
        "includes": bench.backend.includes() if here else None,
        "one_profile": found.one_profile,
        "layers": found.layers.slowest if found.layers else None,
        "timing_cache": found.timing_cache,
        "threads": bench.threads,
        "device": bench.backend.device(),
    }


def manifest_of(bench: Bench, found: Outcome, folder: Path) -> EngineManifest:
    """The manifest of the engine that lies in `folder`."""
    request, best = bench.request, found.best
    spec, target = request.spec, request.target
    engine = folder / best.engine.name
    cache = found.timing_cache or {}
    return EngineManifest.from_json(
        {
            "schema": 1,
            "service": spec.service,
            "arch": target.arch,
            "backend": target.backend,
            "backend_version": _version(bench, engine),
            "builder_image": target.image,
            "precision": best.candidate.precision,
            "onnx_sha256": request.onnx_sha256,  # the FP32 model; calibration_sha256 tells the rest of the way
            "engine_file": engine.name,
            "engine_sha256": tree_files(folder)[engine.name].sha256,
            "calibration_sha256": request.calibration_sha256 if best.candidate.precision == "int8" else None,
            "timing_cache_sha256": cache.get("sha256"),
            "weights_sha256": found.weights_sha256,
            "build_seconds": best.build_seconds,
            "profiles": _profiles(bench),
            **spec.signature.to_dict(),
            "axes": spec.to_dict()["model"]["axes"],
            "accuracy": {name: one.to_dict() for name, one in best.accuracy.items()},
            "accuracy_of": OF_ENGINE if bench.runs_here else OF_ONNX,
            "performance": _performance(bench, best),
            "device": bench.backend.device(),
        }
    )


def _version(bench: Bench, engine: Path) -> str:
    """With its build number, which TensorRT's bindings keep to themselves and its plans do not."""
    if bench.request.target.backend != TENSORRT:
        return bench.backend.version()
    with engine.open("rb") as file:
        return version_text(read_header(file.read(HEAD_BYTES)).version)


def _profiles(bench: Bench) -> list[dict[str, Any]]:
    """[{input: {least, best, most}}]: the optimisation profiles, for backends that have them."""
    if bench.backend.engine_file.endswith(".onnx"):
        return []
    return [
        {
            name: {"least": list(shape.least), "best": list(shape.best), "most": list(shape.most)}
            for name, shape in profile.items()
        }
        for profile in bench.settings.profiles
    ]


def _performance(bench: Bench, best: Profile) -> dict[str, Any]:
    if not bench.runs_here:
        return {"measured": False, "why": bench.why_not_timed}
    return {
        **best.timings[bench.ranked_by].to_dict(),
        "shape": bench.ranked_by,
        "threads": bench.threads,
        "peak_memory_bytes": best.peak_memory_bytes,
        "includes": bench.backend.includes(),
    }

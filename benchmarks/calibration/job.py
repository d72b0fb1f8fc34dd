"""One calibration by one tool, alone in a fresh process, so that its peak memory is its own.

python -m benchmarks.calibration.job JOB.json    # prints {seconds, cpu_seconds, peak_bytes, files, ..}

Invariant: nothing but NumPy is imported before the tool is known. ModelOpt runs this module under a Python of its own,
which has neither the product's packages nor the versions that they want.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.shipped import shipped

REPO: Final = Path(__file__).resolve().parents[2]
OURS: Final = "ours"
ORT_ENTROPY: Final = "ONNX Runtime entropy"
ORT_STRIDED: Final = "ONNX Runtime entropy, one at a time"
ORT_MINMAX: Final = "ONNX Runtime minmax"
MODELOPT: Final = "ModelOpt entropy"
METHODS: Final = (
    "percentile",
    "minmax",
    "entropy",
)  # the two that a spec has by default, and what the others use
Timed = Callable[[], dict[str, Any]]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    made = TOOLS[job["tool"]](job)
    began, used = time.perf_counter(), time.process_time()
    found = made()
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    print(json.dumps({**took, "peak_bytes": peak_bytes(), **found}))


def peak_bytes() -> int:
    """The most physical memory that this process had at once (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _ours(job: Mapping[str, Any]) -> Timed:
    """The product's own way, as the spec of the demo has it for a CPU."""
    from calibration.candidates import calibrate
    from sluice.spec import Calibration
    from sluice.spec_types import int8_file

    samples = Path(job["samples"])
    spec = shipped()
    asked = Calibration(samples=job["texts"], methods=METHODS)
    model = spec.model.model_copy(update={"samples": samples.name})
    spec = spec.model_copy(update={"calibration": asked, "model": model})
    folder = Path(job["folder"])

    def run() -> dict[str, Any]:
        methods = calibrate(samples, Path(job["onnx"]), spec, folder)["methods"]
        files = {name: str(folder / int8_file(spec.int8_forms[0], name)) for name in methods}
        operators = {name: one["operators"] for name, one in methods.items()}
        return {"files": files, "taken": taken(methods), "operators": operators}

    return run


def taken(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Which candidate goes on: the mixed one where one was found, else the best on the samples that calibrate."""
    mixed = [name for name in methods if name.endswith("-mixed")]
    return mixed[0] if mixed else max(methods, key=lambda name: float(methods[name]["cosine"]))


def _onnxruntime(
    method: str, *, padded: bool, stride: int | None = None
) -> Callable[[Mapping[str, Any]], Timed]:
    """`quantize_static` with nothing but its defaults. padded: to the longest sample, since it takes nothing else."""

    def made(job: Mapping[str, Any]) -> Timed:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

        out = Path(job["folder"]) / "model.onnx"
        reader = _reader(CalibrationDataReader, _feeds(job, padded=padded))
        options = {"CalibStridedMinMax": stride} if stride else None

        def run() -> dict[str, Any]:
            how = getattr(CalibrationMethod, method)
            quantize_static(job["onnx"], str(out), reader, calibrate_method=how, extra_options=options)
            return {
                "files": {job["tool"]: str(out)},
                "taken": job["tool"],
                "version": _version("onnxruntime"),
            }

        return run

    return made


def _modelopt(job: Mapping[str, Any]) -> Timed:
    """Its defaults on a CPU, but for the rest of the model, which stays FP32 and is not made FP16."""
    from modelopt.onnx.quantization import quantize
    from onnxruntime.quantization import CalibrationDataReader

    out = Path(job["folder"]) / "model.onnx"
    reader = _reader(CalibrationDataReader, _feeds(job, padded=False))

    def run() -> dict[str, Any]:
        quantize(
            job["onnx"],
            quantize_mode="int8",
            calibration_method="entropy",
            calibration_data_reader=reader,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(out),
            log_level="WARNING",
        )
        return {
            "files": {job["tool"]: str(out)},
            "taken": job["tool"],
            "version": _version("nvidia-modelopt"),
        }

    return run


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _feeds(job: Mapping[str, Any], *, padded: bool) -> list[dict[str, np.ndarray]]:
    """Each sample alone; padded: zeros up to the longest."""
    lines = Path(job["samples"]).read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, list[int]]] = [json.loads(line) for line in lines]
    longest = max(len(values) for row in rows for values in row.values()) if padded else 0
    return [
        {
            name: np.array([values + [0] * max(0, longest - len(values))], dtype=np.int64)
            for name, values in row.items()
        }
        for row in rows
    ]


def _reader(base: type, feeds: Sequence[dict[str, np.ndarray]]) -> Any:
    """What either tool asks for its samples."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self.set_range(0, len(feeds))

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(feeds[start_index:end_index])

        def get_first(self) -> dict[str, np.ndarray]:
            return feeds[0]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

        def __len__(self) -> int:
            return len(feeds)

    return Reader()


TOOLS: Final[Mapping[str, Callable[[Mapping[str, Any]], Timed]]] = {
    ORT_ENTROPY: _onnxruntime("Entropy", padded=True),
    ORT_STRIDED: _onnxruntime("Entropy", padded=False, stride=1),
    ORT_MINMAX: _onnxruntime("MinMax", padded=False),
    MODELOPT: _modelopt,
    OURS: _ours,
}

if __name__ == "__main__":
    main()

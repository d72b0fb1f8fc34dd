"""What an engine is compared with, each job in a process of its own: `python -m benchmarks.engines.sides JOB.json`.

A job prints one JSON object a line as soon as it has it. A timing holds what an engine's holds: from numpy arrays,
through pinned memory to the device and back, until the answer is a numpy array again, the host waiting in a spin.
The PyTorch sides run the checkpoint's own model, made FP16 before it goes to the device, with
scaled_dot_product_attention where transformers lets one choose: it is what a user of transformers gets by default.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.engines.timing import timed
from build_images.engine_builder.tensorrt_worker import driver

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], list[np.ndarray]]

EAGER, COMPILED, GRAPHS, ONNXRUNTIME = "eager", "compile", "compile_reduce_overhead", "onnxruntime_cpu"
COMPILE_MODES: Final = {COMPILED: "default", GRAPHS: "reduce-overhead"}
STEADY: Final = 5  # first calls of a compiled model: compilation, warm-up of the graph, recording


class TorchSide:
    """The checkpoint's model in FP32 on the CPU, as load() gives it; `to_device` makes it what is compared."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        from build_images.exporter.model import load_model

        torch.set_num_threads(job["threads"])
        self.torch, self.device = torch, torch.device("cpu")
        self.model = load_model(Path(job["checkpoint"]), job["entrypoint"])
        self._pinned: dict[Any, Any] = {}

    def to_device(self, device: str) -> None:
        """`cuda`: FP16, before anything of it is on the device. `cpu`: it stays what it is."""
        if device == "cuda":
            _use_sdpa(self.model)
            self.model, self.device = self.model.half().to(device), self.torch.device(device)

    def run(self, side: str) -> Run:
        """One forward pass by this side, compiled anew for each shape: what serves a bucket best."""
        if side == EAGER:
            return lambda feed: self._answer(self.model, feed)
        self.torch.compiler.reset()
        compiled = self.torch.compile(self.model, mode=COMPILE_MODES[side], dynamic=False)
        return lambda feed: self._answer(compiled, feed)

    def _answer(self, model: Any, feed: Feed) -> list[np.ndarray]:
        from build_images.exporter.model import tensors_of

        torch = self.torch
        with torch.inference_mode():
            if self.device.type == "cpu":
                result = model(*(torch.from_numpy(array) for array in feed.values()))
                return [tensor.numpy() for tensor in tensors_of(result)]
            inputs = [self._host(name, array) for name, array in feed.items()]
            result = model(*(tensor.to(self.device, non_blocking=True) for tensor in inputs))
            answers = []
            for index, tensor in enumerate(tensors_of(result)):
                host = self._buffer(f"output {index}", tuple(tensor.shape), tensor.dtype)
                answers.append(host.copy_(tensor, non_blocking=True))
            torch.cuda.synchronize()
            return [host.numpy() for host in answers]

    def _host(self, name: str, array: np.ndarray) -> Any:
        source = self.torch.from_numpy(array)
        return self._buffer(name, tuple(array.shape), source.dtype).copy_(source)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Pinned memory, made once for each shape, as a server would keep it."""
        key = (name, shape, dtype)
        if key not in self._pinned:
            self._pinned[key] = self.torch.empty(shape, dtype=dtype, pin_memory=True)
        return self._pinned[key]


def time_torch(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """{answers: file} of FP32 on the CPU; then {side, shape, n, p50_ms, .., compile_seconds}, or `error` in them."""
    torch_side = TorchSide(job)
    yield _answers(job, torch_side.run(EAGER))
    torch_side.to_device(job["device"])
    for side in job["sides"]:
        for shape, path in job["feeds"].items():
            try:
                yield {"side": side, "shape": shape, **_timed(torch_side, side, read(path), job)}
            except Exception as error:  # a compiler's errors have no common root; the other sides go on
                yield {"side": side, "shape": shape, "error": one_line(error)}


def _timed(torch_side: TorchSide, side: str, feed: Feed, job: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    run = torch_side.run(side)
    for _ in range(STEADY if side in COMPILE_MODES else 1):
        run(feed)
    compile_s = time.perf_counter() - began if side in COMPILE_MODES else None
    found = timed(run, feed, warm=job["warm"], runs=job["runs"], budget_s=job["side_budget_s"])
    return {**found, "compile_seconds": compile_s}


def time_onnxruntime(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As `time_torch`, of the FP32 ONNX on the CPU: for reference, so a slow one is run twice and no more."""
    run = _onnxruntime(job)
    yield _answers(job, run)
    for shape, path in job["feeds"].items():
        found = timed(run, read(path), warm=0, runs=job["runs"], budget_s=job["side_budget_s"], least=2)
        yield {"side": ONNXRUNTIME, "shape": shape, **found, "compile_seconds": None}


def peak(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """{side, driver_bytes, process_bytes, allocated_bytes, context_bytes, n}, of this process alone on its device.

    driver_bytes: what the driver counts on the device beyond what it counted before, the most after any run; on a CPU
    the most that was resident. context_bytes: of it, before there was a model.
    """
    side, feed, cuda = job["side"], read(job["feed"]), job["device"] == "cuda"
    used = driver.used_bytes if cuda else _resident_bytes
    before = used() if cuda else 0
    import torch

    if cuda:
        torch.zeros(1, device="cuda")
    context = used() - before
    torch_side = TorchSide(job)
    torch_side.to_device(job["device"])
    run = torch_side.run(side)
    most = 0
    for _ in range(job["runs"]):
        run(feed)
        most = max(most, used() - before)
    yield {
        "side": side,
        "driver_bytes": most,
        "process_bytes": _process_bytes() if cuda else None,
        "allocated_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "context_bytes": context,
        "n": job["runs"],
    }


JOBS: Final = {
    "time": time_torch,
    "onnxruntime": time_onnxruntime,
    "peak": peak,
}


def read(path: str) -> Feed:
    """Arrays by name, in the order of the model's inputs."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def one_line(error: BaseException) -> str:
    """Type and first words, as it stands in a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _use_sdpa(model: Any) -> None:
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = "sdpa"


def _onnxruntime(job: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def _answers(job: dict[str, Any], run: Run) -> dict[str, Any]:
    """The first output for every sample, each alone, one row below the other."""
    rows = [run(read(path))[0].copy() for path in job["accuracy"]]
    np.save(job["answers"], np.concatenate(rows))
    return {"answers": job["answers"]}


def _process_bytes() -> int | None:
    try:
        return driver.process_bytes(os.getpid())
    except driver.Error:
        return None


def _resident_bytes() -> int:
    """The most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for answer in JOBS[job["what"]](job):
        print(json.dumps(answer), file=told, flush=True)


if __name__ == "__main__":
    main()

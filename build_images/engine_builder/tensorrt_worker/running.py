"""An engine on the device: answers, times and the slowest layers.

Problem: a TensorRT engine is fast only at a fixed shape, with its buffers in place and its launch recorded; a harness
that allocates or re-shapes between runs measures itself. Invariants: a shape that is timed has pinned buffers and
(where the engine can be captured) a CUDA graph; a profile has one context, since several crashed the fuser of 8.6
("missing offset in id2offset", on an H100), so one shape is bound at a time; host time goes from numpy array to array.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cudart

from build_images.engine_builder.tensorrt_worker import cuda, driver, library
from build_images.engine_builder.tensorrt_worker.cuda import call
from build_images.engine_builder.tensorrt_worker.log import Log
from build_images.engine_builder.tensorrt_worker.protocol import FAULT, NO_PROFILE, NOT_LOADED, WorkerError

WARM_UP = 20
PROFILED = 20  # runs that layer times are the mean of
LAYERS_KEPT = 20


class Engine:
    """A plan in device memory. weights: the ONNX of a plan without weights."""

    def __init__(self, path: Path, log: Log, *, weights: Path | None = None) -> None:
        self._log = log
        self._runtime = trt.Runtime(log)
        # A version-compatible plan carries code to run: this program opens only what the builder just made.
        self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            if log.out_of_memory:
                raise cuda.out_of_memory(log.reason())
            raise WorkerError(NOT_LOADED, reason=log.reason())
        if weights is not None:
            self._refit(weights)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        self.stream = call(cudart.cudaStreamCreate())
        self._contexts: dict[int, Any] = {}
        self._bound: Bound | None = None
        self._bound_to: tuple = ()

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer one batch of any shape that a profile holds, without keeping anything for its shape."""
        self.release()
        bound = Bound(self, self.context(feed), feed)
        try:
            answer = bound.run(feed)
            return {name: array.copy() for name, array in answer.items()}
        finally:
            bound.free()

    def bound(self, feed: dict[str, np.ndarray]) -> Bound:
        """The engine at exactly this shape, warmed, recorded as a CUDA graph where that can be."""
        key = tuple((name, feed[name].shape) for name in self.inputs)
        if self._bound is None or key != self._bound_to:
            self.release()
            self._bound, self._bound_to = Bound(self, self.context(feed), feed), key
            for _ in range(2):  # the first run after a change of shape does work that a graph must not hold
                self._bound.run(feed)
            self._bound.record()
        return self._bound

    def release(self) -> None:
        """Let go of the shape that is bound: its graph ends when its context takes another shape."""
        if self._bound is not None:
            self._bound.free()
            self._bound = None

    def context(self, feed: dict[str, np.ndarray]) -> Any:
        """The one context of the profile that serves this shape. Several of one profile crash the fuser of 8.6."""
        profile = self._profile_of(feed)
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None:
                if self._log.out_of_memory:
                    raise cuda.out_of_memory(self._log.reason())
                raise WorkerError(FAULT, reason=self._log.reason())
            if not context.set_optimization_profile_async(profile, int(self.stream)):
                raise WorkerError(FAULT, reason=self._log.reason())
            call(cudart.cudaStreamSynchronize(self.stream))
            self._contexts[profile] = context
        return self._contexts[profile]

    def layers(self, feed: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """The slowest layers at this shape: [{name, ms, share}], the mean of PROFILED runs, slowest first.

        With a profiler attached layers run one by one, without a graph: their shares count, their sum does not.
        """
        self.release()
        context = self.context(feed)
        bound = Bound(self, context, feed)
        profiler = _Profiler()
        for _ in range(2):
            bound.run(feed)
        context.profiler = profiler
        for _ in range(PROFILED):
            bound.run(feed)
        bound.free()
        self._contexts.clear()  # a context that has a profiler keeps it, and cannot be captured
        total = sum(profiler.ms.values())
        slowest = sorted(profiler.ms.items(), key=lambda item: -item[1])[:LAYERS_KEPT]
        return [{"name": name, "ms": ms / PROFILED, "share": ms / total} for name, ms in slowest]

    def describe(self) -> str:
        """The library's own account of every layer, as JSON text."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))

    def _profile_of(self, feed: dict[str, np.ndarray]) -> int:
        """The profile that was optimised for the shape nearest to this one, of those that hold it."""
        holding = []
        for index in range(self._engine.num_optimization_profiles):
            ranges = {name: self._engine.get_tensor_profile_shape(name, index) for name in self.inputs}
            if all(_inside(feed[name].shape, ranges[name]) for name in self.inputs):
                size = feed[self.inputs[0]].size
                best = int(np.prod(tuple(ranges[self.inputs[0]][1])))
                holding.append((abs(np.log(best / size)), index))
        if not holding:
            shapes = ", ".join(f"{name} {list(feed[name].shape)}" for name in self.inputs)
            raise WorkerError(NO_PROFILE, reason=f"no optimisation profile holds {shapes}")
        return min(holding)[1]

    def _refit(self, weights: Path) -> None:
        refitter = trt.Refitter(self._engine, self._log)
        parser_refitter = library.get("parser_refitter")(refitter, self._log)
        if not parser_refitter.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise WorkerError(NOT_LOADED, reason=self._log.reason())


class Bound:
    """One context at one input shape: its buffers on both sides, and its recorded launch."""

    def __init__(self, engine: Engine, context: Any, feed: dict[str, np.ndarray]) -> None:
        self._engine, self._context, self._graph = engine, context, None
        self._stream = engine.stream
        self._host: dict[str, np.ndarray] = {}
        self._pointers: dict[str, tuple[int, int, int]] = {}  # name -> host, device, bytes
        for name in engine.inputs:
            context.set_input_shape(name, feed[name].shape)
            self._add(name, feed[name].shape)
        for name in engine.outputs:
            self._add(name, tuple(context.get_tensor_shape(name)))
        self._events = call(cudart.cudaEventCreate()), call(cudart.cudaEventCreate())

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Copy in, run, copy out, wait. The answer's arrays are the buffers themselves."""
        copy, stream = cudart.cudaMemcpyAsync, self._stream
        for name in self._engine.inputs:
            np.copyto(self._host[name], feed[name], casting="same_kind")
            host, device, size = self._pointers[name]
            call(copy(device, host, size, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, stream))
        call(cudart.cudaEventRecord(self._events[0], stream))
        self._launch()
        call(cudart.cudaEventRecord(self._events[1], stream))
        for name in self._engine.outputs:
            host, device, size = self._pointers[name]
            call(copy(host, device, size, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream))
        call(cudart.cudaStreamSynchronize(stream))
        return {name: self._host[name] for name in self._engine.outputs}

    def device_ms(self) -> float:
        """Of the last run's kernels, between two events on the device."""
        return float(call(cudart.cudaEventElapsedTime(*self._events)))

    @property
    def recorded(self) -> bool:
        """Whether runs launch a CUDA graph."""
        return self._graph is not None

    def record(self) -> None:
        """Record the launch as a CUDA graph. An engine that cannot be captured is launched as before."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cudart.cudaStreamBeginCapture(self._stream, mode))
        launched = self._context.execute_async_v3(int(self._stream))
        error, graph = cudart.cudaStreamEndCapture(self._stream)
        if not launched or error != cudart.cudaError_t.cudaSuccess:
            cudart.cudaGetLastError()  # else the next call would report it
            return
        self._graph = call(cudart.cudaGraphInstantiate(graph, 0))
        call(cudart.cudaGraphDestroy(graph))

    def free(self) -> None:
        """Give the buffers back."""
        for host, device, _ in self._pointers.values():
            cudart.cudaFreeHost(host)
            cudart.cudaFree(device)
        if self._graph is not None:
            cudart.cudaGraphExecDestroy(self._graph)
        for event in self._events:
            cudart.cudaEventDestroy(event)
        self._pointers.clear()
        self._host.clear()

    def _launch(self) -> None:
        if self._graph is not None:
            call(cudart.cudaGraphLaunch(self._graph, self._stream))
        elif not self._context.execute_async_v3(int(self._stream)):
            raise WorkerError(FAULT, reason=self._engine._log.reason())

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        dtype = self._engine.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        host = int(call(cudart.cudaHostAlloc(max(1, size), 0)))
        device = int(call(cudart.cudaMalloc(max(1, size))))
        self._pointers[name] = host, device, size
        view = (ctypes.c_byte * size).from_address(host)
        self._host[name] = np.frombuffer(view, dtype=dtype).reshape(shape)
        if not self._context.set_tensor_address(name, device):
            raise WorkerError(FAULT, reason=self._engine._log.reason())


class _Profiler(trt.IProfiler):
    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.ms: dict[str, float] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.ms[layer_name] = self.ms.get(layer_name, 0.0) + ms


def timed(
    engines: dict[str, Engine], feed: dict[str, np.ndarray], *, rounds: int, least: int, budget_s: float
) -> dict[str, dict[str, Any]]:
    """Run every engine in turn within each round. {name: {host_ms: [..], device_ms: [..], cuda_graph: bool}}.

    rounds: at most; least: whatever the budget says. budget_s: of all engines together.
    """
    bound = {name: engine.bound(feed) for name, engine in engines.items()}
    for one in bound.values():
        for _ in range(WARM_UP):
            one.run(feed)
    host: dict[str, list[float]] = {name: [] for name in bound}
    device: dict[str, list[float]] = {name: [] for name in bound}
    names = list(bound)
    end = time.monotonic() + budget_s
    for number in range(rounds):
        if number >= least and time.monotonic() > end:
            break
        for name in (*names[number % len(names) :], *names[: number % len(names)]):  # nobody is always first
            start = time.perf_counter_ns()
            bound[name].run(feed)
            host[name].append((time.perf_counter_ns() - start) / 1e6)
            device[name].append(bound[name].device_ms())
    return {
        name: {"host_ms": host[name], "device_ms": device[name], "cuda_graph": bound[name].recorded}
        for name in names
    }


def peak(
    path: Path, feed: dict[str, np.ndarray], log: Log, *, runs: int, weights: Path | None
) -> dict[str, int]:
    """Load the engine in this process, answer `feed` `runs` times; the most device memory that this added.

    By the driver's count of the whole device, before CUDA is begun and after every run: nobody else may be on it.
    """
    before = driver.used_bytes()
    cuda.begin()
    engine = Engine(path, log, weights=weights)
    bound = engine.bound(feed)
    most = driver.used_bytes()
    for _ in range(runs):
        bound.run(feed)
        most = max(most, driver.used_bytes())
    return {"peak_memory_bytes": most - before, "before_bytes": before}


def _inside(shape: tuple[int, ...], limits: Any) -> bool:
    least, _, most = (tuple(part) for part in limits)
    return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

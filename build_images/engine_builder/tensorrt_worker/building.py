"""From an ONNX file to a plan: the network, its precision, the limits, the timing cache.

Invariants: a precision that the spec asks for is asked of the library in the way that its version has, or refused; an
option that the version lacks is refused by name and never left out; a replay that needed one timing which its cache
does not hold makes no engine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import tensorrt as trt

from build_images.engine_builder.tensorrt_worker import cuda, library
from build_images.engine_builder.tensorrt_worker.log import Log
from build_images.engine_builder.tensorrt_worker.protocol import (
    CACHE_MISS,
    CACHE_REFUSED,
    NO_PLAN,
    NOT_OFFERED,
    UNSUPPORTED_NODE,
    WorkerError,
)

# Set by who has stand-ins for cuBLAS and cuDNN: then no tactic may come from there.
NO_EXTERNAL_TACTICS = os.environ.get("SLUICE_TENSORRT_EXTERNAL_TACTICS") == "0"
NEVER_TOUCHED = ("LayerType.NORMALIZATION",)  # it sums in FP32 whatever its type; forced, it costs two casts


def build(request: dict[str, Any], log: Log) -> dict[str, Any]:
    """Write the plan and the timing cache that `request` asks for; {seconds, cache_bytes, tactics_timed, said}.

    request: source, engine, precision, fp32_nodes, profiles, workspace_bytes, optimization_level, threads, cache_in,
    cache_out, replay, hardware_compatibility, version_compatible, strip_weights; see `tensorrt_backend`.
    """
    started = time.monotonic()
    builder = trt.Builder(log)
    builder.max_threads = request["threads"]
    network = builder.create_network(_network_flags())
    _parse(network, Path(request["source"]), log)
    config = _config(builder, request)
    _precision(config, network, request["precision"], frozenset(request["fp32_nodes"]))
    cache = _attach(config, request)
    before = bytes(cache.serialize())
    progress = _progress(log)
    if progress is not None:
        setattr(config, "progress_monitor", progress)  # noqa: B010  (8.6 has no such name)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if log.out_of_memory:
            raise cuda.out_of_memory(log.reason())
        # Only a library that can stop at a miss makes no plan for one, and then it speaks of the cache.
        missed = (
            request["replay"] and library.offers("error_on_cache_miss") and "cache" in log.reason().lower()
        )
        raise WorkerError(CACHE_MISS if missed else NO_PLAN, reason=log.reason())
    after = bytes(config.get_timing_cache().serialize())
    if request["replay"] and len(after) != len(before):
        grew = f"the cache grew from {len(before)} to {len(after)} bytes"
        raise WorkerError(CACHE_MISS, reason=grew)
    Path(request["engine"]).write_bytes(memoryview(plan))
    Path(request["cache_out"]).write_bytes(after)
    return {
        "seconds": time.monotonic() - started,
        "cache_bytes": [len(before), len(after)],
        "tactics_timed": log.timed,
        "said": log.errors(),  # of a build that went well, too: that a timing cache is not used, for one
    }


def _network_flags() -> int:
    flags = 0
    if library.typed_by_network():
        flags |= 1 << int(library.get("strongly_typed"))
    elif library.offers("explicit_batch"):
        flags |= 1 << int(library.get("explicit_batch"))
    return flags


def _parse(network: Any, source: Path, log: Log) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(source)):
        return
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        reason = " ".join(error.desc().split())
        raise WorkerError(UNSUPPORTED_NODE, index=error.node(), reason=reason)
    raise WorkerError(NO_PLAN, reason=log.reason())


def _config(builder: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    config.builder_optimization_level = request["optimization_level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if NO_EXTERNAL_TACTICS:
        config.set_tactic_sources(0)
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        config.add_optimization_profile(profile)
    _compatibility(config, request)
    return config


def _compatibility(config: Any, request: dict[str, Any]) -> None:
    level = request["hardware_compatibility"]
    if level != "none":
        _need(level, f"hardware_compatibility: {level}")
        config.hardware_compatibility_level = library.get(level)
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if request["strip_weights"]:
        _need("strip_plan", "strip_weights: true")
        config.set_flag(library.get("strip_plan"))
        config.set_flag(library.get("refit_identical"))


def _need(name: str, option: str) -> None:
    if not library.offers(name):
        raise WorkerError(
            NOT_OFFERED, option=option, reason=f"TensorRT {library.version()} has no {library.OFFERS[name]}"
        )


def _precision(config: Any, network: Any, precision: str, fp32_nodes: frozenset[str]) -> None:
    """Where flags decide (8.6): FP16 is allowed, and the nodes that overflow in it are held in FP32.

    Where the network's types decide, the file says it all: Q/DQ and casts are in it.
    """
    if library.typed_by_network() or precision == "fp32":
        return
    config.set_flag(library.get("fp16_flag"))
    if precision == "int8":
        config.set_flag(library.get("int8_flag"))
    config.set_flag(library.get("prefer_precision"))
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.name in fp32_nodes and str(layer.type) not in NEVER_TOUCHED:
            _hold(layer)


def _hold(layer: Any) -> None:
    """In FP32, unless it computes no floats."""
    if not layer.num_outputs or layer.get_output(0).dtype not in (trt.float32, trt.float16):
        return
    setattr(layer, "precision", trt.float32)  # noqa: B010  (versions that are typed by network have no such name)


def _attach(config: Any, request: dict[str, Any]) -> Any:
    """The timing cache, from the file where there is one. Nothing of another device or version is taken."""
    data = Path(request["cache_in"]).read_bytes() if request["cache_in"] else b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise WorkerError(CACHE_REFUSED, reason=f"{request['cache_in']} is of another device or version")
    if request["replay"] and library.offers("error_on_cache_miss"):
        config.set_flag(library.get("editable_cache"))
        config.set_flag(library.get("error_on_cache_miss"))
    return cache


def _progress(log: Log) -> Any:
    """A monitor that says which step the build is at; None where the library has no such thing."""
    if not library.offers("progress"):
        return None

    class Progress(library.get("progress")):  # type: ignore[misc]
        def __init__(self) -> None:
            library.get("progress").__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            log.say(f"{name}: {steps} steps", now=parent is None)

        def step_complete(self, name: str, step: int) -> bool:
            log.say(f"{name}: step {step}")
            return True

        def phase_finish(self, name: str) -> None:
            log.say(f"{name}: done")

    return Progress()

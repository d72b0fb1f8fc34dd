"""A result in which every bar holds, for tests to break."""

from copy import deepcopy
from typing import Any

from benchmarks.engines.bars import MODELS
from benchmarks.engines.sides import COMPILED, EAGER, GRAPHS, ONNXRUNTIME

ONE, MOST = "batch=1 sequence=128", "batch=32 sequence=512"
HARDWARE = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu_memory_gib": 79.6,
    "driver": "580.1",
    "cuda": "13.0",
    "tensorrt": "8.6.0",
    "torch": "2.11.0",
    "onnxruntime": "1.30.0",
    "cpu": "A CPU",
    "cores": 16,
    "memory_gib": 128.0,
}


def timing(p99_ms: float, rows_per_s: float, *, n: int = 400) -> dict[str, Any]:
    return {
        "n": n,
        "p50_ms": p99_ms / 2,
        "p90_ms": p99_ms,
        "p99_ms": p99_ms,
        "mean_ms": p99_ms,
        "rows_per_s": rows_per_s,
    }


def candidate(precision: str, cosine: float) -> dict[str, Any]:
    return {
        "precision": precision,
        "engine_bytes": 1,
        "build_seconds": 30.0,
        "peak_memory_bytes": 600 * 2**20,
        "accuracy": {"y": {"samples": 8, "cosine_min": cosine, "cosine_mean": cosine, "max_abs": 0.1}},
        "task": None,
        "timings": {
            ONE: {**timing(1.0, 500.0), "device_p50_ms": 0.4},
            MOST: {**timing(10.0, 3000.0), "device_p50_ms": 9.0},
        },
    }


def build(*, warm: bool) -> dict[str, Any]:
    share = 0.2 if warm else 1.0
    return {
        "seconds": 60.0,
        "said": "built: engine",
        "build_seconds": {"fp16": 30.0 * share, "int8-minmax": 30.0 * share},
        "timing_cache": {"began_with": "a" * 64 if warm else None, "sha256": "b" * 64},
    }


def report(name: str) -> dict[str, Any]:
    """The builder's."""
    candidates = {"fp16": candidate("fp16", 0.99999), "int8-minmax": candidate("int8", 0.99)}
    if name == "minilm":
        task = {"metric": "recall_at_1", "pairs": 500, "reference": 0.91, "value": 0.905, "drop": 0.005}
        candidates["int8-minmax"]["task"] = task
    return {
        "schema": 2,
        "chosen": "fp16",
        "candidates": candidates,
        "rejected": {"int8-minmax": "slower"},
        "includes": {"transfers": True, "cuda_graph": True, "spin": False},
    }


def measured(name: str) -> dict[str, Any]:
    """What one model's run leaves behind."""
    side = {ONE: timing(6.0, 100.0), MOST: timing(20.0, 1500.0)}
    peak = {
        "driver_bytes": 1200 * 2**20,
        "process_bytes": None,
        "allocated_bytes": 300 * 2**20,
        "context_bytes": 500 * 2**20,
        "n": 20,
    }
    return {
        "title": f"{name}: a model",
        "trained": name == "minilm",
        "backend": "tensorrt",
        "precision": "fp16",
        "price_per_hour": 3.6,
        "latency": ONE,
        "largest": MOST,
        "effort": {"warm": 50, "runs": 400, "peak_runs": 20},
        "steps": deepcopy(
            {
                "prepare": {"export_seconds": 9.0, "calibration_seconds": 8.0, "onnx_bytes": 1},
                "cold_build": {**build(warm=False), "report": report(name)},
                "torch": {EAGER: side, COMPILED: side, GRAPHS: side},
                "peak": {EAGER: peak, COMPILED: {"error": "out of memory"}},
                "onnxruntime": {ONNXRUNTIME: side},
                "pytorch_against_onnx": {"samples": 8, "cosine_min": 1.0, "cosine_mean": 1.0},
                "engine_against_pytorch": {
                    "candidate": "fp16",
                    "samples": 8,
                    "cosine_min": 0.9999,
                    "cosine_mean": 0.9999,
                },
                "warm_build": build(warm=True),
                "unchanged": {"seconds": 1.0, "said": "unchanged: engine abc", "built_nothing": True},
            }
        ),
    }


def everything() -> dict[str, dict[str, Any]]:
    """By model."""
    return {name: measured(name) for name in MODELS}

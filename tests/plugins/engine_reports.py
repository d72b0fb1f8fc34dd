"""What build pods report of one fleet: a CPU and two GPUs that were timed, and one GPU that was not.

The shape is the builders' own (`report.json`, schema 2); the figures follow simple laws, so that a test can say what
the page must show.
"""

from __future__ import annotations

from typing import Any

from plugins.model_card import EngineFacts
from sluice.manifest import OF_ENGINE, OF_ONNX, EngineManifest
from sluice.release import Release
from tests.sluice.specs import SHA, parse
from tests.sluice.test_manifest import WHOLE

CPU, A100, H100, RTX = "cpu-avx512vnni", "sm_80", "sm_90", "sm_120"
RANKED = "batch=8 sequence=128"
BATCHES, SEQUENCES = (1, 8, 32), (32, 128, 384)
PRICES = {CPU: 0.17, A100: 3.4, H100: 6.9, RTX: 1.2}
SHARES = {CPU: 0.1, A100: 0.4, H100: 0.4, RTX: 0.1}
BACKENDS = {CPU: "onnxruntime", A100: "tensorrt", H100: "tensorrt", RTX: "tensorrt_rtx"}
IMAGE = f"registry.example/builder:1@sha256:{'ab' * 32}"
WHY_NOT = f"built ahead of time for {RTX}, which this machine does not run"
DEVICES = {
    CPU: {"arch": CPU, "name": "Intel Xeon Platinum 8488C", "cores": 4},
    A100: {
        "arch": A100,
        "name": "NVIDIA A100-SXM4-80GB",
        "sm_count": 108,
        "driver": "570.86",
        "cuda": "12.8",
    },
    H100: {
        "arch": H100,
        "name": "NVIDIA H100 80GB HBM3",
        "sm_count": 132,
        "driver": "570.86",
        "cuda": "12.8",
    },
    RTX: {"arch": CPU, "name": "Intel Xeon Platinum 8488C", "cores": 4},
}
COSINES = {"fp32": 0.9999998, "fp16": 0.99987, "int8_percentile": 0.9861, "int8_minmax": 0.9624}
BARS = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98}
SLOWER = {"fp32": 2.6, "fp16": 1.0, "int8_percentile": 1.1, "int8_minmax": 1.1}
LAYERS = (
    "/encoder/layer.0/intermediate/dense/MatMul + GELU_myelin_fused",
    "/encoder/layer.3/attention/self/flash_mha_v2",
    "/encoder/layer.5/output/dense/MatMul",
    "/encoder/layer.1/intermediate/dense/MatMul + GELU_myelin_fused",
    "/embeddings/word_embeddings/Gather",
    "/encoder/layer.4/attention/output/LayerNorm",
    "Reformatting CopyNode for Input Tensor 0",
    "/pooling/ReduceMean",
)


def release(**changes: Any) -> Release:
    """A release for the four, with prices; changes: of the spec, by dotted path."""
    targets = [
        {
            "arch": arch,
            "backend": BACKENDS[arch],
            "selector": {"sluice.dev/arch": arch},
            "image": IMAGE,
            "share": SHARES[arch],
            "price_per_hour": PRICES[arch],
        }
        for arch in DEVICES
    ]
    return Release(parse({"targets": targets, "precisions": ["fp32", "fp16", "int8"], **changes}), SHA)


def timing(arch: str, batch: int, sequence: int, slower: float) -> dict[str, Any]:
    """One shape's figures: a fixed part and one that grows with the tokens. p50 at the ranked shape is 1 or 24 ms."""
    gpu = arch != CPU
    fixed, per_token = (0.25, 0.75 / 1024) if gpu else (0.8, 23.2 / 1024)
    p50 = (fixed + per_token * batch * sequence) * slower * (0.6 if arch == H100 else 1.0)
    device = p50 * 0.8 if gpu else None
    return {
        "n": 200,
        "mean_ms": p50 * 1.04,
        "p50_ms": p50,
        "p90_ms": p50 * 1.12,
        "p95_ms": p50 * 1.2,
        "p99_ms": p50 * 1.45,
        "rows_per_s": batch * 1000 / (p50 * 1.04),
        "device_mean_ms": device and device * 1.01,
        "device_p50_ms": device,
        "device_p99_ms": device and device * 1.08,
        "gpu_utilisation": 0.79 if gpu else None,
    }


def timings(arch: str, slower: float) -> dict[str, Any]:
    return {
        f"batch={batch} sequence={sequence}": timing(arch, batch, sequence, slower)
        for batch in BATCHES
        for sequence in SEQUENCES
    }


def candidate(arch: str, name: str, slower: float, *, output: str = "y") -> dict[str, Any]:
    precision = name.partition("_")[0]
    size = {"fp32": 90_000_000, "fp16": 46_000_000, "int8": 24_000_000}[precision]
    cosine = COSINES[name]
    told = {
        "samples": 256,
        "cosine_min": cosine,
        "cosine_mean": (1 + cosine) / 2,
        "max_abs": (1 - cosine) ** 0.5,
    }
    return {
        "precision": precision,
        "engine_bytes": size,
        "build_seconds": 41.5 if arch != CPU else None,
        "peak_memory_bytes": None if arch == RTX else size * 4,
        "accuracy": {output: told},
        "task": None,
        "timings": {} if arch == RTX else timings(arch, slower * SLOWER[name]),
    }


def report(arch: str, *, slower: float = 1.0, output: str = "y") -> dict[str, Any]:
    """report.json of one engine; slower: every time by that factor."""
    names = ("fp32", "int8_percentile", "int8_minmax") if arch == CPU else tuple(COSINES)
    chosen = "int8_percentile" if arch == CPU else "fp16"
    timed = arch != RTX
    found = {name: candidate(arch, name, slower, output=output) for name in names}
    return {
        "schema": 2,
        "chosen": chosen,
        "reason": f"{chosen}: fastest that is accurate enough: cosine {COSINES[chosen]:.4f}"
        if timed
        else f"{chosen}: smallest that is accurate enough, not timed since it cannot run here",
        "ranked_by": RANKED,
        "rejected": {"int8_minmax": "cosine 0.9624 < 0.98", "fp32": f"slower than {chosen}"},
        "accuracy_samples": 256,
        "accuracy_of": OF_ENGINE if timed else OF_ONNX,
        "bars": BARS,
        "measured": timed,
        "why_not_measured": None if timed else WHY_NOT,
        "threads": 4,
        "device": DEVICES[arch],
        "includes": {"transfers": True, "cuda_graph": arch == H100, "spin": True}
        if timed and arch != CPU
        else None,
        "candidates": found,
        "one_profile": _one_profile(found[chosen]["timings"]) if arch == H100 else None,
        "layers": _layers() if arch in {A100, H100} else None,
        "timing_cache": None,
    }


def single(*, timed: bool = True, slower: float = 1.0, **changes: Any) -> dict[str, Any]:
    """report.json of a GPU engine of one candidate and two shapes; changes: of what the report says."""
    found = candidate(A100, "fp32", slower / SLOWER["fp32"])
    small = {
        shape: told for shape, told in found["timings"].items() if shape in {RANKED, "batch=1 sequence=32"}
    }
    return {
        **report(A100, slower=slower),
        "chosen": "fp32",
        "reason": "fp32: all there is",
        "rejected": {},
        "measured": timed,
        "why_not_measured": None if timed else "no such GPU here",
        "candidates": {"fp32": {**found, "timings": small if timed else {}}},
        "layers": None,
        **changes,
    }


def facts(arch: str, *, slower: float = 1.0, said: dict[str, Any] | None = None) -> EngineFacts:
    """One built engine, as its builder chose it; said: replaces in its report afterwards."""
    told = {**report(arch, slower=slower), **(said or {})}
    manifest = EngineManifest.from_json(
        {
            **WHOLE,
            "arch": arch,
            "backend": BACKENDS[arch],
            "backend_version": "1.32.0" if arch == CPU else "10.16.0",
            "precision": "int8" if arch == CPU else "fp16",
            "accuracy_of": told["accuracy_of"],
            "performance": {"measured": False, "why": WHY_NOT} if arch == RTX else {"p50_ms": 1.0},
        }
    )
    return EngineFacts(manifest=manifest, report=told, reason=str(told["reason"]))


def fleet(*, slower: float = 1.0) -> list[EngineFacts]:
    return [facts(arch, slower=slower) for arch in DEVICES]


def _one_profile(found: dict[str, Any]) -> dict[str, Any]:
    factors = {shape: 1.0 + 0.35 * (index == 0) + 0.02 * index for index, shape in enumerate(found)}
    return {
        shape: {
            "p50_ms": told["p50_ms"],
            "one_profile_p50_ms": told["p50_ms"] * factors[shape],
            "ratio": factors[shape],
        }
        for shape, told in found.items()
    }


def _layers() -> list[dict[str, Any]]:
    return [
        {"name": name, "ms": 0.19 / (place + 1), "share": 0.22 / (place + 1)}
        for place, name in enumerate(LAYERS)
    ]

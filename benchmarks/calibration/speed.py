"""What the two servers' blocks say: latencies, throughput, the ratio with its interval, and the line. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from scipy.special import stdtrit

PAIRS: Final = 20  # of blocks: half a second to a second each
LEAST_PAIRS: Final = 5
CONNECTIONS: Final = 2
CONFIDENCE: Final = 0.95
VNNI_FLAGS: Final = ("avx512_vnni", "avx_vnni")
TARGET: Final = (
    "CPU INT8 engine against FP32 engine, same server, same load: speed-up reported (VNNI machine or not said), "
    "accuracy as above."
)
SIDES: Final = ("fp32", "int8")
FIGURES: Final = ("n", "p50_ms", "p99_ms", "requests_per_s")


class Timed(Protocol):
    """One block of requests to one server."""

    @property
    def seconds(self) -> float: ...
    @property
    def ms(self) -> np.ndarray: ...
    @property
    def failed(self) -> int: ...


def summary(
    blocks: Mapping[str, Sequence[Timed]],
    accuracy: Mapping[str, Mapping[str, Any]],
    flags: frozenset[str],
) -> dict[str, Any]:
    """{vnni, vnni_flags, pairs, connections, engines, speed_up, latency}.

    engines: by precision {n, failed, p50_ms, p99_ms, requests_per_s, accuracy}; accuracy: as given. speed_up: INT8's
    requests a second by FP32's, pair by pair of blocks; latency: FP32's median by INT8's.
    """
    rates = {name: [len(one.ms) / one.seconds for one in some] for name, some in blocks.items()}
    medians = {name: [float(np.median(one.ms)) for one in some] for name, some in blocks.items()}
    return {
        "vnni": any(flag in flags for flag in VNNI_FLAGS),
        "vnni_flags": [flag for flag in VNNI_FLAGS if flag in flags],
        "connections": CONNECTIONS,
        "pairs": len(blocks["fp32"]),
        "engines": {name: {**_side(some), "accuracy": dict(accuracy[name])} for name, some in blocks.items()},
        "speed_up": ratio(rates["int8"], rates["fp32"]),
        "latency": ratio(medians["fp32"], medians["int8"]),
    }


def _side(blocks: Sequence[Timed]) -> dict[str, Any]:
    ms = np.concatenate([one.ms for one in blocks])
    return {
        "n": len(ms),
        "failed": sum(one.failed for one in blocks),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "requests_per_s": len(ms) / sum(one.seconds for one in blocks),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """{value, low, high, pairs, confidence}: the geometric mean of the pairs' ratios and Student's interval of it.

    null of fewer than two pairs, and where a figure is not positive.
    """
    pairs = list(zip(above, below, strict=True))
    known = {"pairs": len(pairs), "confidence": CONFIDENCE}
    if len(pairs) < 2 or not all(0 < one < math.inf for pair in pairs for one in pair):
        return {"value": None, "low": None, "high": None, **known}
    logs = [math.log(one / other) for one, other in pairs]
    middle = statistics.fmean(logs)
    reach = (
        float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(logs) / math.sqrt(len(logs))
    )
    low, value, high = (math.exp(middle + side * reach) for side in (-1, 0, 1))
    return {"value": value, "low": low, "high": high, **known}


def speed_line(server: Mapping[str, Any] | None) -> dict[str, Any]:
    """calibration.2: it asks for figures and sets no bar, so it holds where every one of them is there and finite."""
    found = server or {"error": "not run"}
    reasons = [found["error"]] if "error" in found else _missing(found)
    value = None if "error" in found else {**found, "missing": reasons}
    line = {"id": "calibration.2", "target": TARGET, "value": value, "holds": None if reasons else True}
    return {**line, "reason": "; ".join(reasons)} if reasons else line


def _missing(found: Mapping[str, Any]) -> list[str]:
    reasons = [reason for side in SIDES for reason in _lacks(side, found.get("engines", {}).get(side, {}))]
    for name in ("speed_up", "latency"):
        one = found.get(name, {})
        if not all(_finite(one.get(part)) for part in ("value", "low", "high")):
            reasons.append(f"no {name} with its interval")
    if not isinstance(found.get("vnni"), bool):
        reasons.append("not said whether the CPU has VNNI")
    if found.get("pairs", 0) < LEAST_PAIRS:
        reasons.append(f"{found.get('pairs', 0)} pairs of blocks, wanted {LEAST_PAIRS}")
    return reasons


def _lacks(side: str, engine: Mapping[str, Any]) -> list[str]:
    """What one server's figures lack; a request that failed is no answer, so it leaves the rest undecided."""
    reasons = [f"no {name} of {side}" for name in FIGURES if not _finite(engine.get(name))]
    if engine.get("failed") != 0:
        reasons.append(f"{engine.get('failed')} requests to {side} failed")
    accuracy = engine.get("accuracy", {})
    if not _finite(accuracy.get("recall")):
        reasons.append(f"no recall of {side}: {accuracy.get('error', 'not measured')}")
    return reasons


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

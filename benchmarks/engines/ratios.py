"""Figures side by side: ratios between the engine and each other side. Pure: JSON in, JSON out.

A ratio is null where one of its two figures is; `missing` says which and why.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.engines.sides import EAGER
from sluice.cost import per_million

P99: Final = "P99 of eager by P99 of the engine, one row"
THROUGHPUT: Final = "rows/s of the engine by rows/s of eager, largest bucket"
MEMORY: Final = "peak device memory saved, as a share of eager's"
COSINE: Final = "least FP16 cosine to PyTorch FP32"
RECALL_DROP: Final = "INT8 recall@1 lost"


def at(found: Any, *path: str) -> Any:
    """The value behind these keys; None where one of them is not there."""
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def engine_of(measured: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the builder's report says of the candidate in the precision that the sides are compared in."""
    found: Mapping[str, Any] | None = at(
        measured["steps"], "cold_build", "report", "candidates", measured["precision"]
    )
    return found


def sides_of(measured: Mapping[str, Any]) -> dict[str, Any]:
    """{side: {shape: timing}}, the engine not among them."""
    steps = measured["steps"]
    names = ("torch", "onnxruntime")
    return {side: one for name in names for side, one in (steps.get(name) or {}).items() if side != "error"}


def ratios_of(measured: Mapping[str, Any]) -> dict[str, Any]:
    """{latency, throughput, memory_saved: by side; rebuild, cosine, int8, cost, judged, missing}."""
    engine = engine_of(measured)
    one, most = measured["latency"], measured["largest"]
    sides = sides_of(measured)
    latency = {
        side: {
            name: _by(at(sides, side, one, name), at(engine, "timings", one, name))
            for name in ("p50_ms", "p99_ms")
        }
        for side in sides
    }
    throughput = {
        side: _by(at(engine, "timings", most, "rows_per_s"), at(sides, side, most, "rows_per_s"))
        for side in sides
    }
    cosine, int8 = _cosines(measured), _int8(measured)
    memory = {side: _saved(measured, side) for side in at(measured["steps"], "peak") or {} if side != "error"}
    judged = {
        P99: at(latency, EAGER, "p99_ms"),
        THROUGHPUT: throughput.get(EAGER),
        MEMORY: memory.get(EAGER),
        COSINE: cosine["judged"],
        RECALL_DROP: at(int8, "task", "drop"),
    }
    return {
        "latency": latency,
        "throughput": throughput,
        "memory_saved": memory,
        "cosine": cosine,
        "int8": int8,
        "rebuild": _rebuild(measured),
        "cost_per_million_rows": _cost(measured),
        "judged": judged,
        "missing": {what: _missing(what, measured) for what, value in judged.items() if value is None},
    }


def explained(what: str, measured: Mapping[str, Any]) -> str:
    """Why a bar is missed, from the figures themselves."""
    engine, steps = engine_of(measured), measured["steps"]
    if what in (P99, THROUGHPUT):
        shape = measured["latency"] if what == P99 else measured["largest"]
        mine, eager = at(engine, "timings", shape) or {}, at(steps, "torch", EAGER, shape) or {}
        return (
            f"at {shape} eager takes p50 {_ms(eager.get('p50_ms'))}, p99 {_ms(eager.get('p99_ms'))}; the engine p50 "
            f"{_ms(mine.get('p50_ms'))}, p99 {_ms(mine.get('p99_ms'))}, of which its kernels are "
            f"{_ms(mine.get('device_p50_ms'))}: only what is not kernels can be saved beyond that"
        )
    if what == MEMORY:
        eager, context = at(steps, "peak", EAGER, "driver_bytes"), at(steps, "peak", EAGER, "context_bytes")
        return (
            f"eager {_mib(eager)}, engine {_mib(at(engine, 'peak_memory_bytes'))}; {_mib(context)} of eager's are "
            "CUDA's context, there before the model is, and an engine needs one as well"
        )
    if what == COSINE:
        return f"the worst of the samples; the mean is {at(engine, 'accuracy')}"
    if what == RECALL_DROP:
        return _int8_in_words(_int8(measured))
    builds = {step: at(steps, step, "build_seconds") or {} for step in ("cold_build", "warm_build")}
    told = (
        f"{step} {', '.join(f'{n} {_seconds(s)}' for n, s in one.items())}" for step, one in builds.items()
    )
    return "; ".join(told).replace("_", " ")


def _int8_in_words(one: Mapping[str, Any]) -> str:
    task = one.get("task") or {}
    why = f"; not chosen: {one['why_not_chosen']}" if one.get("why_not_chosen") else ""
    samples, value, reference = (task.get(name) for name in ("samples", "value", "reference"))
    return f"{one['candidate']} has {value} of {samples} pairs where FP32 has {reference}{why}"


def _seconds(value: Any) -> str:
    return f"{value:.1f} s" if _number(value) else "-"


def _cosines(measured: Mapping[str, Any]) -> dict[str, Any]:
    """judged: the engine's own answers against PyTorch's where it was chosen; else what two measured angles leave.

    An engine that was not chosen is not kept. Of it the angle to the FP32 ONNX is known, and the angle of that to
    PyTorch: their sum bounds the angle between the two ends.
    """
    steps, precision = measured["steps"], measured["precision"]
    to_onnx = [one.get("cosine_min") for one in (at(engine_of(measured), "accuracy") or {}).values()]
    engine = min(to_onnx) if to_onnx and all(_number(one) for one in to_onnx) else None
    chain = at(steps, "pytorch_against_onnx", "cosine_min")
    direct = steps.get("engine_against_pytorch")
    bound = None
    if _number(engine) and _number(chain):
        bound = math.cos(min(math.pi, sum(math.acos(max(-1.0, min(1.0, one))) for one in (engine, chain))))
    own = at(direct, "cosine_min") if at(direct, "candidate") == precision else None
    return {
        "judged": own if own is not None else bound,
        "judged_by": "its own answers against PyTorch's" if own is not None else "the sum of two angles",
        "engine_to_onnx_min": engine,
        "onnx_to_pytorch_min": chain,
        "chosen_to_pytorch": direct,
        "int8_to_onnx_min": {
            name: at(one, "accuracy", output, "cosine_min")
            for name, one in (at(steps, "cold_build", "report", "candidates") or {}).items()
            if one.get("precision") == "int8"
            for output in one.get("accuracy") or {}
        },
    }


def _int8(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The INT8 candidate that the builder would take: the chosen one, or the one with the greatest cosine."""
    report = at(measured["steps"], "cold_build", "report") or {}
    cosines = {
        name: min((found["cosine_min"] for found in one["accuracy"].values()), default=-1.0)
        for name, one in (report.get("candidates") or {}).items()
        if one["precision"] == "int8"
    }
    if not cosines:
        return {"candidate": None, "task": None}
    chosen = report["chosen"] if report["chosen"] in cosines else max(cosines, key=lambda name: cosines[name])
    one = report["candidates"][chosen]
    return {
        "candidate": chosen,
        "cosine_min": cosines[chosen],
        "task": one.get("task"),
        "p50_ms_at_largest": at(one, "timings", measured["largest"], "p50_ms"),
        "why_not_chosen": at(report, "rejected", chosen),
    }


def _rebuild(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Warm by cold: of the seconds in the builds themselves, and of the whole call with its measurements."""
    steps = measured["steps"]
    sums = []
    for step in ("warm_build", "cold_build"):
        builds = at(steps, step, "build_seconds") or {}
        sums.append(sum(builds.values()) if builds and all(map(_number, builds.values())) else None)
    whole = _by(at(steps, "warm_build", "seconds"), at(steps, "cold_build", "seconds"))
    return {
        "warm_build_seconds": sums[0],
        "cold_build_seconds": sums[1],
        "share_of_build_seconds": _by(*sums),
        "share_of_whole_call": whole,
        "unchanged_seconds": at(steps, "unchanged", "seconds"),
    }


def _cost(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """By side, at the largest bucket, of a device that is always busy; {} without a price."""
    price = measured.get("price_per_hour")
    if not _number(price):
        return {}
    rates = {side: at(one, measured["largest"], "rows_per_s") for side, one in sides_of(measured).items()}
    rates["engine"] = at(engine_of(measured), "timings", measured["largest"], "rows_per_s")
    return {
        side: per_million(price, rate)
        for side, rate in rates.items()
        if side != "onnxruntime_cpu"  # another machine than the one that has the price
    }


def _saved(measured: Mapping[str, Any], side: str) -> float | None:
    share = _by(
        at(engine_of(measured), "peak_memory_bytes"), at(measured["steps"], "peak", side, "driver_bytes")
    )
    return None if share is None else 1.0 - share


def _missing(what: str, measured: Mapping[str, Any]) -> str:
    """The errors that stand where its figures would."""
    steps = measured["steps"]
    needs = {
        P99: [steps.get("cold_build"), at(steps, "torch", EAGER, measured["latency"]), steps.get("torch")],
        THROUGHPUT: [
            steps.get("cold_build"),
            at(steps, "torch", EAGER, measured["largest"]),
            steps.get("torch"),
        ],
        MEMORY: [steps.get("cold_build"), at(steps, "peak", EAGER), steps.get("peak")],
        COSINE: [steps.get(name) for name in ("cold_build", "torch", "onnxruntime", "pytorch_against_onnx")],
        RECALL_DROP: [steps.get("cold_build")],
    }[what]
    errors = [one["error"] for one in needs if isinstance(one, Mapping) and "error" in one]
    return "; ".join(dict.fromkeys(errors)) or "the builder's report, or a step, lacks it"


def _by(a: Any, b: Any) -> float | None:
    return a / b if _number(a) and _number(b) and b > 0 else None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ms(value: Any) -> str:
    return f"{value:.2f} ms" if _number(value) else "-"


def _mib(value: Any) -> str:
    return f"{value / 2**20:.0f} MiB" if _number(value) else "-"

"""The splits as one JSON object with what was promised and whether it holds. Pure."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.calibration.invariance import invariance_line
from benchmarks.calibration.job import MODELOPT, ORT_ENTROPY, OURS
from benchmarks.calibration.speed import speed_line

SPLITS: Final = 4
TEXTS: Final = 1000
HELD_OUT: Final = 1000
LOST: Final = 0.01  # of recall@1, against FP32
MEMORY: Final = 0.5  # of ONNX Runtime's
OTHERS: Final = (ORT_ENTROPY, MODELOPT)
REPORTED: Final = ("agreement", "cosine_min", "cosine_mean")
TARGET: Final = (
    "`python -m benchmarks.calibration` on MiniLM with 1 000 real texts, held-out 1 000: FP32 against INT8 by ONNX "
    "Runtime's own entropy, ModelOpt, and ours, in one run: recall@1 of self-retrieval (the first sentence of a "
    "docstring finds the rest of it among 1 000; 4 seeded splits, paired): ours loses less than 1 point against FP32 "
    "and no more than each of the others; nearest-neighbour agreement and cosine are reported; calibration time and "
    "peak memory side by side, ours at most half of ONNX Runtime's memory at 1 000 samples."
)


def result(
    hardware: Mapping[str, Any],
    splits: Sequence[Mapping[str, Any]],
    server: Mapping[str, Any] | None = None,
    invariance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """{benchmark, hardware, n, figures, acceptance}; figures: splits, candidates, tools, differences, and the parts.

    server, invariance: None where that part was not run.
    """
    splits = sorted(splits, key=lambda one: one["seed"])
    return {
        "benchmark": "calibration",
        "hardware": dict(hardware),
        "n": {key: min((one[key] for one in splits), default=0) for key in ("texts", "held_out")}
        | {"splits": len(splits)},
        "figures": {
            "fp32_recall": mean_of([one["fp32"]["recall"] for one in splits]),
            "candidates": [candidate(splits, *which) for which in _candidates(splits)],
            "tools": {tool: _tool(splits, tool) for tool in _tools(splits)},
            "differences": {tool: difference(splits, tool) for tool in _tools(splits) if tool != OURS},
            "splits": list(splits),
            "server": server,
            "invariance": invariance,
        },
        "acceptance": [acceptance(splits), speed_line(server), invariance_line(invariance)],
    }


def acceptance(splits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The one line of the promise; a figure that is missing leaves it undecided, never held."""
    rows = [*_small(splits), *checks(splits)]
    held = [row["holds"] for row in rows]
    holds = None if _small(splits) else (False if False in held else None if None in held else True)
    reasons = [f"{row['what']}: {row['why']}" for row in rows if row["holds"] is not True]
    line = {"id": "calibration.1", "target": TARGET, "value": rows, "holds": holds}
    return {**line, "reason": "; ".join(reasons)} if reasons else line


def checks(splits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{what, wanted, got, holds, why}], each from the figures of every split; why: null where it holds."""
    lost = mean_of(taken(one, OURS).get("lost") for one in splits)
    why = _error(splits, OURS)
    rows = [
        _row(
            "recall@1 that ours loses to FP32", f"below {LOST:g}", lost, _holds(lost, lambda x: x < LOST), why
        )
    ]
    for tool in OTHERS:
        more, why = difference(splits, tool)["mean"], _error(splits, tool)
        what = f"how much more ours loses than {tool}"
        rows.append(_row(what, "at most 0", more, _holds(more, lambda x: x <= 0), why))
    ratio, why = memory_ratio(splits), _error(splits, ORT_ENTROPY)
    what = f"peak memory of ours by that of {ORT_ENTROPY}"
    rows.append(_row(what, f"at most {MEMORY:g}", ratio, _holds(ratio, lambda x: x <= MEMORY), why))
    for tool in (OURS, *OTHERS):
        missing = _missing(splits, tool)
        what = f"agreement, cosine, seconds and memory of {tool}"
        rows.append(
            _row(what, "reported", None if missing else "reported", None if missing else True, missing)
        )
    return rows


def memory_ratio(splits: Sequence[Mapping[str, Any]]) -> float | None:
    """The largest peak of ours by the least of ONNX Runtime's; None where one is missing."""
    mine, other = (
        [_figure(one["tools"].get(tool, {}).get("peak_bytes")) or 0.0 for one in splits]
        for tool in (OURS, ORT_ENTROPY)
    )
    return max(mine) / min(other) if splits and min(mine) > 0 and min(other) > 0 else None


def difference(splits: Sequence[Mapping[str, Any]], tool: str) -> dict[str, Any]:
    """{mean, standard_error, splits} of what ours loses less what `tool` loses, split by split; over 0: ours is worse.

    Of the splits that ran the tool; None where one of them has no figure of either.
    """
    there = [one for one in splits if tool in OTHERS or tool in one["tools"]]
    pairs = [(_figure(taken(one, OURS).get("lost")), _figure(taken(one, tool).get("lost"))) for one in there]
    known = [round(mine - other, 12) for mine, other in pairs if mine is not None and other is not None]
    whole = known if len(known) == len(there) else []
    return {"mean": mean_of(whole), "standard_error": error_of(whole), "splits": len(known)}


def candidate(splits: Sequence[Mapping[str, Any]], tool: str, name: str | None) -> dict[str, Any]:
    """One row over all splits that have it. name: of a candidate; None: the one that the tool hands on."""
    found = [
        taken(one, tool) if name is None else one["tools"].get(tool, {}).get("models", {}).get(name, {})
        for one in splits
    ]
    there = [one for one in found if "lost" in one]
    columns = {key: [one[key] for one in there] for key in ("recall", "lost", *REPORTED)}
    return {
        "tool": tool,
        "candidate": name,
        "splits": len(there),
        "recall": mean_of(columns["recall"]),
        "lost": mean_of(columns["lost"]),
        "lost_standard_error": error_of(columns["lost"]),
        "agreement": mean_of(columns["agreement"]),
        "cosine_min": min(columns["cosine_min"], default=None),
        "cosine_mean": mean_of(columns["cosine_mean"]),
    }


def taken(one: Mapping[str, Any], tool: str) -> Mapping[str, Any]:
    """Figures of the candidate that the tool hands on; empty where there is none."""
    found = one["tools"].get(tool, {})
    models: Mapping[str, Mapping[str, Any]] = found.get("models", {})
    return models.get(found.get("taken", ""), {})


def mean_of(values: Iterable[float | None]) -> float | None:
    """None without values, and where one is missing or not finite."""
    numbers = [_figure(value) for value in values]
    if not numbers or None in numbers:
        return None
    return round(statistics.fmean(number for number in numbers if number is not None), 12)


def error_of(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None of fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _figure(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _small(splits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What makes this a smaller run than the one that was promised; empty for a whole one."""
    rows = []
    seeds = len({one["seed"] for one in splits})
    if seeds < SPLITS:
        rows.append(_row("splits", f"{SPLITS} seeds", None, None, f"{seeds} of {SPLITS} were run"))
    for key, least in (("texts", TEXTS), ("held_out", HELD_OUT)):
        if splits and (got := min(one[key] for one in splits)) < least:
            rows.append(_row(key, f"at least {least}", got, None, f"{got}, wanted {least}"))
    return rows


def _holds(got: float | None, bar: Callable[[float], bool]) -> bool | None:
    return None if got is None else bar(got)


def _row(what: str, wanted: str, got: Any, holds: bool | None, why: str | None = None) -> dict[str, Any]:
    """why: the reason of a figure that is not there."""
    said = {True: None, None: why or "a figure is missing", False: f"it is not {wanted}"}[holds]
    return {"what": what, "wanted": wanted, "got": got, "holds": holds, "why": said}


def _error(splits: Sequence[Mapping[str, Any]], tool: str) -> str | None:
    """Why `tool` has no figures, from the first split that says so."""
    return next((_why(one, tool) for one in splits if _why(one, tool)), None)


def _why(one: Mapping[str, Any], tool: str) -> str | None:
    found = one["tools"].get(tool)
    if found is None:
        return f"split {one['seed']}: not run"
    error = found.get("error") or found.get("models", {}).get(found.get("taken"), {}).get("error")
    return f"split {one['seed']}: {error}" if error else None


def _missing(splits: Sequence[Mapping[str, Any]], tool: str) -> str | None:
    """What is not there of a tool; None when all of it is."""
    if not splits:
        return "no split was run"
    for one in splits:
        if why := _why(one, tool):
            return why
        figures = {**one["tools"][tool], **taken(one, tool)}
        for key in (*REPORTED, "seconds", "peak_bytes"):
            if _figure(figures.get(key)) is None:
                return f"split {one['seed']}: no {key}"
    return None


def _tools(splits: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(tool for one in splits for tool in one["tools"]))


def _candidates(splits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Each tool's own, and behind ours each of its candidates."""
    rows: list[tuple[str, str | None]] = []
    for tool in _tools(splits):
        rows.append((tool, None))
        names = dict.fromkeys(name for one in splits for name in one["tools"].get(tool, {}).get("models", {}))
        rows += [(tool, name) for name in names if tool == OURS]
    return rows


def _tool(splits: Sequence[Mapping[str, Any]], tool: str) -> dict[str, Any]:
    """{splits, seconds, cpu_seconds, peak_bytes, taken, version, error}: medians, and the largest peak."""
    found = [one["tools"][tool] for one in splits if tool in one["tools"]]
    ran = [one for one in found if "error" not in one]
    return {
        "splits": len(ran),
        "seconds": statistics.median([one["seconds"] for one in ran]) if ran else None,
        "cpu_seconds": statistics.median([one["cpu_seconds"] for one in ran]) if ran else None,
        "peak_bytes": max((one["peak_bytes"] for one in ran), default=None),
        "taken": [one["taken"] for one in ran],
        "version": next((one["version"] for one in ran if "version" in one), None),
        "error": _error(splits, tool) if not ran else None,
    }

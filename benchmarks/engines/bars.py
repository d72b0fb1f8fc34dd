"""Whether the figures of one model are what was promised. Pure: JSON in, JSON out.

Invariants: a bar holds on a finite figure that was measured as promised (so many runs, in FP16, on an H100) and on
nothing else; a figure that is missing, or was taken otherwise, gives null and says why; a miss says by how much.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.engines.ratios import COSINE, MEMORY, P99, RECALL_DROP, THROUGHPUT, at, engine_of, explained

Raw = Mapping[str, Any]

MODELS: Final = ("minilm", "bert_base", "gpt")
TRAINED: Final = ("minilm",)
CARD: Final = "H100"
WARM, RUNS, PEAK_RUNS = 50, 400, 20


@dataclass(frozen=True, slots=True)
class Bar:
    """least: the figure must be so much at least; else it must be so much at most. unit: of a miss."""

    what: str
    limit: float
    least: bool
    unit: str

    @property
    def wanted(self) -> str:
        """For people."""
        return f"{'at least' if self.least else 'at most'} {self.limit:g}"


BARS: Final = (
    Bar(P99, 4.0, True, "x"),
    Bar(THROUGHPUT, 1.4, True, "x"),
    Bar(MEMORY, 0.40, True, "of eager's"),
    Bar(COSINE, 0.9995, True, ""),
)
TRAINED_BARS: Final = (Bar(RECALL_DROP, 0.01, False, "of the pairs"),)
WARM_SHARE: Final = Bar(
    "seconds of a build with a warm timing cache by those of the cold one", 0.30, False, "of the cold build"
)


def bars_of(name: str, measured: Raw | None, ratios: Raw, hardware: Raw) -> list[dict[str, Any]]:
    """[{what, wanted, got, holds, missed_by, why}] of engines.1. measured: None where the model was not run."""
    wanted = (*BARS, *(TRAINED_BARS if name in TRAINED else ()))
    if measured is None:
        return [_row(bar, None, "this model was not run") for bar in wanted]
    otherwise = "; ".join(_otherwise(measured, hardware))
    return [_row(bar, ratios["judged"].get(bar.what), otherwise, measured, ratios) for bar in wanted]


def rebuild_bar(measured: Raw, ratios: Raw, hardware: Raw) -> dict[str, Any]:
    """engines.2 of one model: {what, wanted, got, holds, missed_by, why, built_nothing}."""
    steps = measured["steps"]
    nothing = at(steps, "unchanged", "built_nothing")
    why = "; ".join((*_other_card(hardware), *_not_cold(steps)))
    row = _row(WARM_SHARE, ratios["rebuild"]["share_of_build_seconds"], why, measured, ratios)
    if nothing is False:
        row |= {"holds": False, "why": f"an unchanged input was built: {at(steps, 'unchanged', 'said')}"}
    elif nothing is None and row["holds"]:
        row |= {"holds": None, "why": _error(steps.get("unchanged")) or "the unchanged call is missing"}
    return {**row, "built_nothing": nothing}


def verdict(rows: list[dict[str, Any]]) -> bool | None:
    """False when one misses, null when one is missing or there is none, else true."""
    held = [row["holds"] for row in rows]
    if any(one is False for one in held):
        return False
    return True if held and all(one is True for one in held) else None


def _row(
    bar: Bar, got: Any, otherwise: str, measured: Raw | None = None, ratios: Raw | None = None
) -> dict[str, Any]:
    finite = isinstance(got, int | float) and not isinstance(got, bool) and math.isfinite(got)
    row: dict[str, Any] = {
        "what": bar.what,
        "wanted": bar.wanted,
        "got": got if finite else None,
        "holds": None,
        "missed_by": None,
        "why": otherwise or None,
    }
    if not finite:
        missing = (ratios or {}).get("missing", {}).get(bar.what)
        return {**row, "why": "; ".join(filter(None, (otherwise, missing))) or "the figure is missing"}
    kept = got >= bar.limit if bar.least else got <= bar.limit
    if not kept:
        row["missed_by"] = f"{abs(got - bar.limit):.4g} {bar.unit}".strip()
    if otherwise:
        return row
    return {**row, "holds": kept, "why": None if kept else explained(bar.what, measured or {})}


def _otherwise(measured: Mapping[str, Any], hardware: Mapping[str, Any]) -> Iterator[str]:
    """What was not done as promised."""
    yield from _other_card(hardware)
    if measured["precision"] != "fp16" or measured["backend"] != "tensorrt":
        yield f"promised for tensorrt in fp16, measured {measured['backend']} in {measured['precision']}"
    effort, steps = measured["effort"], measured["steps"]
    eager = at(steps, "torch", "eager", measured["latency"], "n")
    if effort["warm"] < WARM or (eager is not None and eager < RUNS):
        yield f"eager: {effort['warm']} warm-up runs and {eager} runs, promised {WARM} and {RUNS}"
    engine = at(engine_of(measured), "timings", measured["latency"], "n")
    if engine is not None and engine < RUNS:  # a P99 of few runs is their greatest, or luck
        yield f"engine: {engine} runs, promised {RUNS}"
    if effort["peak_runs"] < PEAK_RUNS:
        yield f"memory of {effort['peak_runs']} runs, promised {PEAK_RUNS}"


def _other_card(hardware: Mapping[str, Any]) -> Iterator[str]:
    if CARD not in (hardware.get("gpu") or ""):
        yield f"promised for an {CARD}, measured on {hardware.get('gpu') or 'a machine without a GPU'}"


def _not_cold(steps: Mapping[str, Any]) -> Iterator[str]:
    """A cold build that found a timing cache, or a warm one that did not, compares nothing."""
    for step, cold in (("cold_build", True), ("warm_build", False)):
        cache = at(steps, step, "timing_cache")
        if cache is None and at(steps, step, "seconds") is not None:
            yield f"{step} does not tell of a timing cache"
        elif cache is not None and (cache.get("began_with") is None) is not cold:
            yield f"{step} began {'with' if cold else 'without'} a timing cache"


def _error(found: Any) -> str | None:
    return found.get("error") if isinstance(found, Mapping) else None

"""Every engine's accuracy as one table, and Great Expectations' verdict on it before a version exists.

Problem: each builder judged its own candidates, on its own machine; nobody saw the release whole. Invariants: one row
per architecture, candidate and output that the reports tell of; the bars are the release's own, not the report's; of
each architecture one candidate is marked as chosen, of the precision that its manifest serves; a number that must be
there and is not is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from plugins.model_card import EngineFacts, number
from sluice.release import Release

COLUMNS: Final = (
    "arch",
    "candidate",
    "precision",
    "output",
    "chosen",
    "samples",
    "cosine_min",
    "max_abs",
    "bar",
    "task_drop",
)
NAME: Final = "engines"

Row = dict[str, Any]


def rows(release: Release, engines: Iterable[EngineFacts]) -> list[Row]:
    """One row per (arch, candidate, output); None where a report has no number."""
    return [
        row
        for engine in engines
        for name, found in (engine.report.get("candidates") or {}).items()
        for row in _of_candidate(release, engine, name, found)
    ]


def _of_candidate(
    release: Release, engine: EngineFacts, name: str, found: Mapping[str, Any]
) -> Iterable[Row]:
    precision = found.get("precision")
    bar = release.spec.accuracy.get(str(precision))
    said = found.get("accuracy") or {}
    for output in release.spec.model.outputs:  # one that the report lacks has a row without numbers
        one = said.get(output.name) or {}
        yield {
            "arch": engine.manifest.arch,
            "candidate": name,
            "precision": precision,
            "output": output.name,
            "chosen": name == engine.report.get("chosen") and precision == engine.manifest.precision,
            "samples": one.get("samples"),
            "cosine_min": one.get("cosine_min"),
            "max_abs": one.get("max_abs"),
            "bar": None if bar is None else bar.cosine,
            "task_drop": _drop(found.get("task") or {}),
        }


def _drop(task: Mapping[str, Any]) -> float | None:
    """None for an engine that could not be judged at it: its drop is of a value that nobody measured."""
    return None if task.get("why") else task.get("drop")


def judge(
    release: Release, table: Sequence[Row], engines: Sequence[EngineFacts], docs: Path
) -> tuple[bool, str]:
    """(passed, which expectations failed and the chosen rows as they stand); Data Docs are written under `docs`."""
    from artifacts.expectations import judged

    passed, why = judged(
        table,
        name=NAME,
        columns=COLUMNS,
        named_by=("arch", "candidate", "output"),
        expectations=_suite(release, engines),
        docs=docs,
    )
    return passed, "" if passed else f"{why}; chosen: {_chosen(table)}"


def _suite(release: Release, engines: Sequence[EngineFacts]) -> list[Any]:
    from artifacts.expectations import Column, gxe

    archs = sorted(engine.manifest.arch for engine in engines)
    outputs = sorted(output.name for output in release.spec.model.outputs)
    candidates = sum(len(engine.report.get("candidates") or {}) for engine in engines)
    of_chosen = {"row_condition": Column("chosen") == True}  # noqa: E712 - a condition, not a comparison
    whole = ("arch", "candidate", "output", "precision", "bar", "samples")
    return [
        gxe.ExpectTableRowCountToEqual(value=candidates * len(outputs)),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="arch", value_set=archs),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="arch", value_set=archs, **of_chosen),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="output", value_set=outputs, **of_chosen),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["arch", "candidate", "output"]),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in whole),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name, **of_chosen) for name in ("cosine_min",)),
        gxe.ExpectColumnValuesToBeBetween(column="samples", min_value=1, **of_chosen),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="cosine_min", column_B="bar", or_equal=True, ignore_row_if="neither", **of_chosen
        ),
        *_task(release, gxe, of_chosen),
    ]


def _task(release: Release, gxe: Any, of_chosen: Mapping[str, Any]) -> list[Any]:
    """Where the spec has a task, its drop must be there for what is served, and within the spec's limit."""
    task = release.spec.task
    if task is None:
        return []
    return [
        gxe.ExpectColumnValuesToNotBeNull(column="task_drop", **of_chosen),
        gxe.ExpectColumnValuesToBeBetween(column="task_drop", max_value=task.max_drop, **of_chosen),
    ]


def _chosen(table: Sequence[Row]) -> str:
    """`sm_80 fp16 y: cosine 0.9991, bar 0.999, 256 samples` of each row that is served."""
    said = [
        f"{row['arch']} {row['candidate']} {row['output']}: cosine {number(row['cosine_min'])}, "
        f"bar {number(row['bar'])}, {number(row['samples'])} samples"
        for row in table
        if row["chosen"]
    ]
    return "; ".join(said) or "none"

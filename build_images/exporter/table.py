"""The numerics table: how far ONNX Runtime is from PyTorch, per output, shape and precision.

Problem: a comparison that broadcasts, skips a missing output or lets NaN through says "equal" of anything; and two
sides that agree may both be other than the spec tells clients.
Invariants: names and shapes are compared before a number is, shapes also with the spec's dims; NaN and infinity
never pass; a table has one row for each output and shape that was asked for, or it is not a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sluice.cosine import cosines
from sluice.spec import Numerics

COLUMNS: Final = (
    "output",
    "shape",
    "precision",
    "names_equal",
    "shapes_equal",
    "shapes",
    "values",
    "max_abs",
    "max_rel",
    "cosine",
)
FAR: Final = 1e300  # stands for a ratio that cannot be computed; JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The distance of two arrays of one shape. NaN in any field: not comparable.

    max_abs: largest |a - b|. max_rel: largest |a - b| / max(|a|, floor), where floor = limits.max_abs /
    limits.max_rel, so that values near zero are judged by max_abs alone. cosine: the least over the batch.
    """

    max_abs: float
    max_rel: float
    cosine: float

    def passes(self, limits: Numerics) -> bool:
        """Phrased so that NaN fails."""
        return (
            self.max_abs <= limits.max_abs and self.max_rel <= limits.max_rel and self.cosine >= limits.cosine
        )

    def ratio(self, limits: Numerics) -> float:
        """How much of the tightest limit is used up, above 1 outside it; FAR when not comparable."""
        cosine_room = max(1.0 - limits.cosine, 1e-12)
        ratios = (
            self.max_abs / limits.max_abs,
            self.max_rel / limits.max_rel,
            (1.0 - self.cosine) / cosine_room,
        )
        return max(ratios) if all(np.isfinite(ratios)) else FAR


def compare(reference: np.ndarray, got: np.ndarray, limits: Numerics) -> Drift:
    """The drift of two arrays. Shapes that differ, nothing to compare, or a value that is not finite: NaN."""
    if reference.shape != got.shape or reference.size == 0:
        return Drift(max_abs=np.nan, max_rel=np.nan, cosine=np.nan)
    a, b = reference.astype(np.float64), got.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Drift(max_abs=np.nan, max_rel=np.nan, cosine=np.nan)
    difference = np.abs(a - b)
    relative = difference / np.maximum(np.abs(a), limits.max_abs / limits.max_rel)
    return Drift(
        max_abs=float(difference.max()), max_rel=float(relative.max()), cosine=float(cosines(a, b).min())
    )


def rows(
    reference: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    shape: str,
    limits: Numerics,
) -> list[dict[str, Any]]:
    """One row for each output that the spec names, with the shape that its dims give here (`wanted`).

    An output that either side lacks, or that has another shape on either, gets a row that fails.
    """
    equal = sorted(reference) == sorted(got) == sorted(wanted)
    made = []
    for name, dims in wanted.items():
        a, b = reference.get(name), got.get(name)
        there = a is not None and b is not None
        drift = compare(a, b, limits) if there else Drift(max_abs=np.nan, max_rel=np.nan, cosine=np.nan)
        misfit = _misfit(dims, a, b)
        made.append(
            {
                "output": name,
                "shape": shape,
                "precision": "fp32",
                "names_equal": equal,
                "shapes_equal": not misfit,
                "shapes": misfit,
                "values": int(a.size) if there else 0,
                "max_abs": drift.max_abs,
                "max_rel": drift.max_rel,
                "cosine": drift.cosine,
            }
        )
    return made


def _misfit(wanted: tuple[int, ...], reference: np.ndarray | None, got: np.ndarray | None) -> str:
    """Which shapes there are where both should be `wanted`; empty when both are."""
    shapes = {"PyTorch": reference, "ONNX Runtime": got}
    if all(array is not None and array.shape == wanted for array in shapes.values()):
        return ""
    found = (f"{who} gives {'nothing' if a is None else list(a.shape)}" for who, a in shapes.items())
    return f"the spec wants {list(wanted)}, {', '.join(found)}"


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of one output over several batches as one: the worst of each number, NaN if any is NaN."""
    worst = dict(parts[0])
    for name, reduce in (("max_abs", np.max), ("max_rel", np.max), ("cosine", np.min)):
        worst[name] = float(reduce([part[name] for part in parts]))
    worst["values"] = sum(part["values"] for part in parts)
    for name in ("names_equal", "shapes_equal"):
        worst[name] = all(part[name] for part in parts)
    worst["shapes"] = next((part["shapes"] for part in parts if part["shapes"]), "")
    return worst


def ratio(row: Mapping[str, Any], limits: Numerics) -> float:
    """How bad a row is: above 1 it fails; FAR when its names or shapes differ or it is not comparable."""
    if not (row["names_equal"] and row["shapes_equal"] and row["values"] > 0):
        return FAR
    return Drift(max_abs=row["max_abs"], max_rel=row["max_rel"], cosine=row["cosine"]).ratio(limits)


def worst_row(table: Sequence[dict[str, Any]], limits: Numerics) -> dict[str, Any]:
    """The row that uses up most of its limits. ValueError on an empty table."""
    return max(table, key=lambda row: ratio(row, limits))


def json_rows(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table as JSON holds it: a number that is not finite becomes null."""
    return [
        {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in row.items()}
        for row in table
    ]

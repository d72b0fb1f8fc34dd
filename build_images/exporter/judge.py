"""Great Expectations judges the numerics table and writes the page that a person reads.

Invariant: the suite states how many rows there are, which outputs and shapes they cover, and that no number is
missing, before it states any limit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts.expectations import gxe, judged
from build_images.exporter.table import COLUMNS
from sluice.spec import Numerics


def judge(
    table: Sequence[dict[str, Any]],
    limits: Numerics,
    *,
    outputs: Sequence[str],
    shapes: Sequence[str],
    docs: Path,
) -> tuple[bool, str]:
    """(passed, which expectations failed) of the table; Data Docs are written under `docs`."""
    return judged(
        table,
        name="numerics",
        columns=COLUMNS,
        named_by=("output", "shape"),
        expectations=_suite(limits, outputs, shapes),
        docs=docs,
    )


def _suite(limits: Numerics, outputs: Sequence[str], shapes: Sequence[str]) -> list[Any]:
    numbers = ("max_abs", "max_rel", "cosine")
    return [
        gxe.ExpectTableRowCountToEqual(value=len(outputs) * len(shapes)),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="output", value_set=sorted(outputs)),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="shape", value_set=sorted(shapes)),
        gxe.ExpectColumnValuesToBeInSet(column="names_equal", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="shapes_equal", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="values", min_value=1),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in numbers),
        gxe.ExpectColumnValuesToBeBetween(column="max_abs", min_value=0, max_value=limits.max_abs),
        gxe.ExpectColumnValuesToBeBetween(column="max_rel", min_value=0, max_value=limits.max_rel),
        gxe.ExpectColumnValuesToBeBetween(column="cosine", min_value=limits.cosine),
    ]

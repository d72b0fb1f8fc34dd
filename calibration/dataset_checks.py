"""Great Expectations' verdict on a dataset: every stratum, the traffic's own lengths, no value out of range, no leak.

Invariant: what must be there is asked for by number before any limit is: how many rows, of which strata; so an empty
table, or a stratum that is missing, fails.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from artifacts.recordings import Recorded, Recording
from sluice.reservoir import histogram_length
from sluice.sample_split import SHARE_LEAST
from sluice.spec import ReleaseSpec

CALIBRATE, HELD_OUT = "calibrate", "held_out"
LENGTHS_MOST: Final = 0.25  # nats: Kullback-Leibler divergence of the dataset's lengths from the traffic's
LENGTH_BINS: Final = 8  # of about as many requests each
ROWS: Final = ("content", "part", "stratum", "length", "count", "finite", "least", "most")
STRATA: Final = ("part", "stratum", "requests", "share", "rows", "wanted")


def judged(
    parts: Mapping[str, Sequence[Recorded]], recording: Recording, spec: ReleaseSpec, *, docs: Path
) -> dict[str, Any]:
    """{passed, why, strata}; Data Docs under `docs`, one folder for each table. strata: rows as STRATA."""
    from artifacts.expectations import judged as by_great_expectations

    rows = [_row(part, one) for part, ones in parts.items() for one in ones]
    strata = strata_rows(parts, recording)
    tables = {
        "rows": (rows, ROWS, ("part", "stratum", "content"), _of_rows(parts, recording, spec)),
        "strata": (strata, STRATA, ("part", "stratum"), _of_strata(strata)),
    }
    failed = []
    for name, (table, columns, named_by, expectations) in tables.items():
        passed, why = by_great_expectations(
            table, name=name, columns=columns, named_by=named_by, expectations=expectations, docs=docs / name
        )
        if not passed:
            failed.append(f"{name}: {why}")
    return {"passed": not failed, "why": "; ".join(failed), "strata": strata}


def strata_rows(parts: Mapping[str, Sequence[Recorded]], recording: Recording) -> list[dict[str, Any]]:
    """One row for each part and each stratum that the traffic has. wanted: the least number of rows."""
    kept = Counter(one.stratum for one in recording.rows)
    there = {part: Counter(one.stratum for one in ones) for part, ones in parts.items()}
    return [
        {
            "part": part,
            "stratum": stratum,
            "requests": requests,
            "share": requests / max(1, recording.seen),
            "rows": there[part][stratum],
            "wanted": _wanted(part, kept[stratum], requests / max(1, recording.seen)),
        }
        for part in parts
        for stratum, requests in sorted(recording.strata.items())
        if requests
    ]


def _wanted(part: str, kept: int, share: float) -> int:
    """A single input, however often it is sent, can only be in one part."""
    if share < SHARE_LEAST:
        return 0
    return 1 if part == CALIBRATE or kept > 1 else 0


def _row(part: str, one: Recorded) -> dict[str, Any]:
    values = np.concatenate([array.ravel() for array in one.sample.values()])
    whole = values.size > 0 and bool(np.isfinite(values).all())
    return {
        "content": one.content,
        "part": part,
        "stratum": one.stratum,
        "length": histogram_length(one.length),
        "count": one.count,
        "finite": whole,
        "least": float(values.min()) if whole else None,
        "most": float(values.max()) if whole else None,
    }


def _of_rows(
    parts: Mapping[str, Sequence[Recorded]], recording: Recording, spec: ReleaseSpec
) -> Iterable[Any]:
    from artifacts.expectations import gxe

    yield gxe.ExpectTableRowCountToEqual(value=spec.calibration.samples + spec.numerics.samples)
    yield gxe.ExpectColumnDistinctValuesToEqualSet(column="part", value_set=[CALIBRATE, HELD_OUT])
    for name in ROWS:
        yield gxe.ExpectColumnValuesToNotBeNull(column=name)
    # A duplicate within a part weighs twice; one across the parts is a leak.
    yield gxe.ExpectColumnValuesToBeUnique(column="content")
    yield gxe.ExpectColumnValuesToBeInSet(column="finite", value_set=[True])
    yield gxe.ExpectColumnValuesToBeBetween(column="count", min_value=1)
    low, high = spec.calibration.values
    if low is not None:
        yield gxe.ExpectColumnValuesToBeBetween(column="least", min_value=low)
    if high is not None:
        yield gxe.ExpectColumnValuesToBeBetween(column="most", max_value=high)
    if any(recording.lengths):  # a model without a dynamic axis has no lengths
        partition = length_partition(recording.lengths)
        yield gxe.ExpectColumnKLDivergenceToBeLessThan(
            column="length", partition_object=partition, threshold=LENGTHS_MOST
        )


def _of_strata(strata: Sequence[Mapping[str, Any]]) -> Iterable[Any]:
    from artifacts.expectations import gxe

    yield gxe.ExpectTableRowCountToBeBetween(min_value=2)
    yield gxe.ExpectTableRowCountToEqual(value=len(strata))
    yield gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A="rows", column_B="wanted", or_equal=True, ignore_row_if="neither"
    )


def length_partition(lengths: Mapping[int, int]) -> dict[str, list[float]]:
    """The traffic's lengths as at most LENGTH_BINS bins of about as many requests; edges between whole numbers.

    Raises ValueError without a request.
    """
    total = sum(lengths.values())
    if total < 1:
        raise ValueError("no request was seen")
    edges, weights, below = [min(lengths) - 0.5], [], 0
    inside = 0
    for length, count in sorted(lengths.items()):
        inside += count
        below += count
        if below * LENGTH_BINS >= total * (len(weights) + 1) or length == max(lengths):
            edges.append(length + 0.5)
            weights.append(inside / total)
            inside = 0
    return {"bins": edges, "weights": weights}

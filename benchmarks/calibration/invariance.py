"""Whether MiniLM's scales depend on how its samples were collected; and the tests that hold the rules around it.

The claim is `collect`'s: chunks of 1, 7 and 64, in the file's order and shuffled, on one thread and on several, give
the same histograms to the bit, and so the same ranges by every method. What samples or tensors lack is for small models
in tests to show; they run here too, so that naming them is no promise.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from benchmarks.calibration.job import REPO
from benchmarks.calibration.speed import ratio
from benchmarks.calibration.texts import Ids
from benchmarks.calibration_drift.measure import INPUTS
from calibration.emit import weighted_operators
from calibration.passes import in_chunks
from calibration.ranges import Histogram, collect, find_ranges
from sluice.model_inputs import Sample
from sluice.spec_types import METHODS

SIZES: Final = (1, 7, 64)
THREADS: Final = (1, 2)
SAMPLES: Final = 130  # more than two of the largest chunks
TURNS: Final = 6  # of one thread against two
LIMIT_S: Final = 600
TARGET: Final = (
    "Property tests: scales identical for batch sizes 1, 7, 64 and for shuffled order; a NaN, an empty stratum, a "
    "0-variance tensor, an all-zero tensor each get a clear error or a documented rule."
)
_PASSES, _DEGENERATE = "tests/calibration/test_passes.py::", "tests/calibration/test_degenerate.py::"
TESTS: Final = {
    "any order and partition": (
        f"{_PASSES}test_scales_are_the_same_to_the_bit_for_chunks_of_1_7_and_64_in_any_order_on_any_threads",
        f"{_PASSES}test_any_partition_of_any_order_gives_the_histograms_of_all_values",
    ),
    "its broken twin": (f"{_PASSES}test_a_histogram_that_grows_with_the_data_fails_the_same_claim",),
    "a NaN": (f"{_DEGENERATE}test_a_value_that_is_not_finite_names_the_tensor_the_sample_and_what_to_do",),
    "an empty stratum": (
        "tests/sluice/test_sample_split.py::test_an_empty_stratum_of_the_traffic_is_an_error_that_names_it",
        "tests/calibration/test_dataset.py::test_a_stratum_without_rows_fails_by_name",
        f"{_DEGENERATE}test_an_empty_chunk_is_refused_since_a_part_without_samples_calibrates_nothing",
        f"{_DEGENERATE}test_an_empty_dataset_is_refused",
    ),
    "a 0-variance tensor": (
        f"{_DEGENERATE}test_a_constant_is_an_end_of_its_range_and_comes_back_as_it_was",
        f"{_DEGENERATE}test_a_constant_activation_of_a_real_graph_stays_what_it_was",
    ),
    "an all-zero tensor": (
        f"{_DEGENERATE}test_what_reads_a_tensor_that_was_always_zero_stays_in_fp32_and_answers_what_comes_later",
        f"{_DEGENERATE}test_a_model_all_of_whose_activations_were_zero_is_refused",
    ),
}


def measured(onnx_file: Path, texts: Sequence[Ids], *, turns: int = TURNS) -> dict[str, Any]:
    """{samples, tensors, methods, ways, threads, tests}; ways: [{chunk, order, threads, same}] against the first."""
    model = onnx.load(str(onnx_file))
    tensors = tuple(dict.fromkeys(operator.activation for operator in weighted_operators(model)))
    samples = [
        {"input_ids": np.array(ids, np.int64), "attention_mask": np.ones(len(ids), np.int64)} for ids in texts
    ]
    return {
        "samples": len(samples),
        "tensors": len(tensors),
        "methods": list(METHODS),
        "ways": ways(model, tensors, samples),
        "threads": threads_pay(model, tensors, samples, turns),
        "tests": {what: passed(ids) for what, ids in TESTS.items()},
    }


def ways(model: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Each way to collect the same samples, and whether it found what the first did."""
    shuffled = [samples[place] for place in np.random.default_rng(0).permutation(len(samples))]
    orders = {"as in the file": samples, "shuffled": shuffled}
    first, rows = None, []
    for size, (order, some), threads in product(SIZES, orders.items(), THREADS):
        with tempfile.TemporaryDirectory() as work:
            found = collect(model, tensors, in_chunks(some, size), INPUTS, Path(work), threads=threads)
        first = first or found
        rows.append({"chunk": size, "order": order, "threads": threads, "same": same(first, found)})
    return rows


def same(one: Mapping[str, Histogram], other: Mapping[str, Histogram]) -> bool:
    """Histograms to the bit, and the ranges of every method."""
    return (
        one.keys() == other.keys()
        and all((one[name].low, one[name].high) == (other[name].low, other[name].high) for name in one)
        and all(np.array_equal(one[name].counts, other[name].counts) for name in one)
        and find_ranges(one, METHODS) == find_ranges(other, METHODS)
    )


def threads_pay(
    model: onnx.ModelProto, tensors: Sequence[str], samples: Sequence[Sample], turns: int
) -> dict[str, Any]:
    """{one_s, two_s, speed_up}: medians of a whole `collect` by one thread and by two, in turns, and the ratio."""
    seconds: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for turn in range(turns):
        for threads in THREADS if turn % 2 == 0 else THREADS[::-1]:
            with tempfile.TemporaryDirectory() as work:
                began = time.perf_counter()
                collect(model, tensors, samples, INPUTS, Path(work), threads=threads)
                seconds[threads].append(time.perf_counter() - began)
    one, two = (statistics.median(seconds[threads]) for threads in THREADS)
    return {"one_s": one, "two_s": two, "speed_up": ratio(seconds[1], seconds[2])}


def passed(tests: Sequence[str]) -> dict[str, Any]:
    """{tests, passed, said}: whether pytest ran them and none failed; null where there is no pytest."""
    argv = [sys.executable, "-m", "pytest", "-q", *tests]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    absent = done.returncode != 0 and "No module named pytest" in done.stderr
    last = ((done.stdout or done.stderr).strip().splitlines() or ["no word"])[-1]
    return {"tests": list(tests), "passed": None if absent else done.returncode == 0, "said": last}


def invariance_line(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """calibration.3; what was not run leaves it undecided."""
    line = {"id": "calibration.3", "target": TARGET}
    if found is None:
        return {**line, "value": None, "holds": None, "reason": "not run"}
    rows = found["ways"]
    reasons = [
        f"chunks of {row['chunk']}, {row['order']}, {row['threads']} threads"
        for row in rows
        if not row["same"]
    ]
    bad = [f"other scales for {'; '.join(reasons)}"] if reasons else []
    bad += [f"{what}: {one['said']}" for what, one in found["tests"].items() if one["passed"] is False]
    held = {(row["chunk"], row["order"]) for row in rows}
    open_ = [f"{what}: not run" for what in TESTS if found["tests"].get(what, {}).get("passed") is None]
    if len(held) < 2 * len(SIZES):
        open_.append(f"{len(held)} ways to collect, wanted each size in either order")
    if found["samples"] <= max(SIZES):
        open_.append(f"{found['samples']} samples fill no chunk but one of {max(SIZES)}")
    holds = False if bad else None if open_ else True
    value = {
        "collected": len(rows),
        "same": sum(row["same"] for row in rows),
        "samples": found["samples"],
        "tensors": found["tensors"],
        "methods": found["methods"],
        "tests": {what: one["tests"] for what, one in found["tests"].items()},
    }
    whole = {**line, "value": value, "holds": holds}
    return {**whole, "reason": "; ".join([*bad, *open_])} if bad or open_ else whole


def kept(file: Path) -> dict[str, Any] | None:
    """What an earlier run left of a part, None where it left nothing."""
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found

"""The accuracy of all engines as one table: what is missing from it fails as surely as what is wrong in it."""

import copy

import pytest

from plugins import accuracy
from tests.plugins.engine_reports import A100, CPU, facts, release

ARCHS = (CPU, A100)


def verdict(tmp_path, change=lambda report: None, engines=None):
    """Judged with `change` done to the A100's report."""
    said = copy.deepcopy(facts(A100).report)
    change(said)
    found = [facts(CPU), facts(A100, said=said)] if engines is None else engines
    here = release()
    return accuracy.judge(here, accuracy.rows(here, found), found, tmp_path / "docs")


def of_chosen(**changes):
    def change(report):
        report["candidates"]["fp16"]["accuracy"]["y"].update(changes)

    return change


def test_one_row_for_each_candidate_and_output_with_the_release_s_own_bar():
    rows = accuracy.rows(release(), [facts(CPU), facts(A100)])
    assert [(row["arch"], row["candidate"], row["output"]) for row in rows] == [
        (CPU, "fp32", "y"),
        (CPU, "int8_percentile", "y"),
        (CPU, "int8_minmax", "y"),
        (A100, "fp32", "y"),
        (A100, "fp16", "y"),
        (A100, "int8_percentile", "y"),
        (A100, "int8_minmax", "y"),
    ]
    assert [row["candidate"] for row in rows if row["chosen"]] == ["int8_percentile", "fp16"]
    assert [row["bar"] for row in rows[3:]] == [0.9999, 0.999, 0.98, 0.98]


def test_a_fleet_that_is_accurate_enough_passes_and_leaves_its_page(tmp_path):
    """The candidates that were turned down are below their bars: that is why they were."""
    assert verdict(tmp_path) == (True, "")
    assert (tmp_path / "docs" / "index.html").exists()


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        pytest.param(of_chosen(cosine_min=0.9989), "a_to_be_greater_than_b(cosine_min)", id="below-its-bar"),
        pytest.param(of_chosen(cosine_min=float("nan")), "not_be_null(cosine_min)", id="nan"),
        pytest.param(of_chosen(samples=0), "between(samples)", id="nothing-compared"),
        pytest.param(
            lambda report: report.update(chosen="fp8"), "equal_set(arch)", id="the-chosen-is-not-there"
        ),
        pytest.param(lambda report: report.update(chosen="fp32"), "equal_set(arch)", id="another-is-served"),
        pytest.param(
            lambda report: report["candidates"]["fp16"].update(accuracy={}),
            "not_be_null(samples)",
            id="no-output",
        ),
        pytest.param(
            lambda report: report["candidates"]["fp16"].update(precision="fp8"),
            "not_be_null(bar)",
            id="no-bar",
        ),
    ],
)
def test_one_fault_of_one_engine_fails_by_name_and_shows_the_chosen_rows(tmp_path, change, failing):
    passed, why = verdict(tmp_path, change)
    assert not passed
    assert failing in why
    assert "chosen: cpu-avx512vnni int8_percentile y: cosine 0.9861, bar 0.98, 256 samples" in why


def test_no_engine_at_all_does_not_pass(tmp_path):
    """Twenty expectations that all hold on an empty table would be no evidence."""
    report = {**facts(A100).report, "candidates": {}}
    assert not verdict(tmp_path, engines=[facts(A100, said=report)])[0]


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        pytest.param(lambda rows: rows[:-1], "row_count", id="a-row-is-lost"),
        pytest.param(
            lambda rows: [*rows[:-1], rows[0]], "to_be_unique", id="a-row-twice-in-place-of-another"
        ),
    ],
)
def test_a_table_that_is_not_of_all_candidates_fails_though_all_its_rows_are_good(tmp_path, change, failing):
    engines = [facts(CPU), facts(A100)]
    table = change(accuracy.rows(release(), engines))
    passed, why = accuracy.judge(release(), table, engines, tmp_path / "docs")
    assert not passed
    assert failing in why


@pytest.mark.parametrize(
    ("task", "failing"),
    [
        pytest.param({"drop": 0.011}, "between(task_drop)", id="drops-too-far"),
        pytest.param(None, "not_be_null(task_drop)", id="not-measured"),
        pytest.param({"drop": 0.0, "why": "y holds NaN"}, "not_be_null(task_drop)", id="not-judged"),
        pytest.param({"drop": 0.01}, "", id="at-the-limit"),
    ],
)
def test_where_the_spec_has_a_task_the_chosen_engine_s_drop_is_judged(tmp_path, task, failing):
    report = copy.deepcopy(facts(A100).report)
    report["candidates"]["fp16"]["task"] = task
    engines, here = (
        [facts(A100, said=report)],
        release(task={"metric": "top1", "output": "y", "max_drop": 0.01}),
    )
    passed, why = accuracy.judge(here, accuracy.rows(here, engines), engines, tmp_path / "docs")
    assert passed is (not failing)
    assert failing in why

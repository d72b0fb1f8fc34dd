"""The benchmark's `holds` follow from its figures: break one and it must say so."""

import pytest

from benchmarks.promotion import FAULTS, acceptance


def run(fault, *, code=0, seconds=600.0, holds=True):
    lines = [{"id": f"demo.{n}", "target": "t", "value": {}, "holds": holds} for n in (2, 3, 4)]
    lines.append({"id": "demo.5", "target": "t", "value": None, "holds": None})
    return {"fault": fault, "exit": code, "seconds": seconds, "report": {"acceptance": lines}}


def holds(runs, install_s=None):
    return {row["id"]: row["holds"] for row in acceptance(runs, install_s)}


def test_four_good_runs_hold_and_what_was_not_run_is_null():
    found = holds([run(fault) for fault in FAULTS], 300.0)
    assert [found[f"demo.{n}"] for n in range(1, 9)] == [True, True, True, True, None, None, None, None]


@pytest.mark.parametrize(
    "change", [{"code": 1}, {"seconds": 721.0}, {"seconds": 600.0, "install": 601.0}, {"report": None}]
)
def test_one_broken_figure_breaks_the_first_line(change):
    runs = [run(fault) for fault in FAULTS]
    runs[2] |= {
        key: value for key, value in {"exit": change.get("code", 0), **change}.items() if key in runs[2]
    }
    assert holds(runs, change.get("install"))["demo.1"] is False


def test_a_missing_fault_breaks_the_first_line():
    assert holds([run(fault) for fault in FAULTS[:3]])["demo.1"] is False


@pytest.mark.parametrize("name", ["demo.2", "demo.3", "demo.4"])
def test_one_run_that_misses_a_line_breaks_it_for_all(name):
    runs = [run(fault) for fault in FAULTS]
    next(line for line in runs[1]["report"]["acceptance"] if line["id"] == name)["holds"] = False
    assert holds(runs)[name] is False


def test_no_run_at_all_holds_nothing():
    assert True not in holds([]).values()

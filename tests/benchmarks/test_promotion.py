"""The benchmark's `holds` follow from its figures: break one and it must say so."""

import json

import pytest

from benchmarks.promotion import FAULTS, acceptance, loaded


def run(faults, *, code=0, seconds=600.0, killed=None):
    lines = [{"id": f"demo.{n}", "target": "t", "value": {}, "holds": True} for n in (2, 3, 4)]
    lines.append({"id": "demo.5", "target": "t", "value": None, "holds": killed})
    report = {"acceptance": lines, "faults": list(faults), "seconds": seconds}
    return {"arguments": [], "exit": code, "seconds": seconds, "report": report}


def both():
    return [run(FAULTS[:1]), run(FAULTS[1:], seconds=1100.0, killed=True)]


def holds(runs, install_s=None):
    return {row["id"]: row["holds"] for row in acceptance(runs, install_s)}


def test_two_good_runs_hold_and_what_is_not_measured_here_is_null():
    found = holds(both(), 300.0)
    assert [found[f"demo.{n}"] for n in range(1, 9)] == [True, True, True, True, True, None, None, None]


@pytest.mark.parametrize(
    ("change", "install_s"),
    [({"exit": 1}, None), ({"seconds": 720.1}, None), ({"seconds": 600.0}, 600.1), ({"report": None}, None)],
)
def test_one_broken_figure_breaks_the_first_line(change, install_s):
    runs = both()
    runs[0] |= change
    assert holds(runs, install_s)["demo.1"] is False


def test_a_fault_that_was_not_played_breaks_the_first_line():
    assert holds([run(FAULTS[:1]), run(FAULTS[1:3])])["demo.1"] is False


@pytest.mark.parametrize("name", ["demo.2", "demo.3", "demo.4", "demo.5"])
def test_one_run_that_misses_a_line_breaks_it_for_all(name):
    runs = both()
    next(line for line in runs[1]["report"]["acceptance"] if line["id"] == name)["holds"] = False
    assert holds(runs)[name] is False


def test_no_run_at_all_holds_nothing():
    assert True not in holds([]).values()


def test_a_report_that_missed_a_line_counts_as_a_run_that_failed(tmp_path):
    report = run(FAULTS)["report"]
    report["acceptance"][0]["holds"] = False
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert loaded(tmp_path / "report.json")["exit"] == 1

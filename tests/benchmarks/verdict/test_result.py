"""The lines of the promise are computed from the figures: each is broken on purpose, and a missing pair never holds."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.verdict.__main__ import main
from benchmarks.verdict.acceptance import above_objective
from benchmarks.verdict.cells import CELLS, HEALTHY
from benchmarks.verdict.measure import OURS
from benchmarks.verdict.page import page
from benchmarks.verdict.peers import POLICIES
from benchmarks.verdict.plots import plots
from benchmarks.verdict.result import result
from benchmarks.verdict.targets import NOT_RUN, TARGETS

N = {"rollouts": 10_000, "peers": 1000, "twins": 400, "seed": 1, "seconds": 1}
HARDWARE = {"cpu": "a CPU", "cores": 2, "memory_gib": 8}
MEASURED = [name for name in TARGETS if name not in NOT_RUN]


def _figures(*, healthy: bool) -> dict[str, Any]:
    """Of a policy that does everything right."""
    return {
        "n": 5000,
        "turned_back": 0 if healthy else 5000,
        "turned_back_before_50": 0 if healthy else 5000,
        "turned_back_before_100": 0 if healthy else 5000,
        "turned_back_in_watch": 0,
        "reached_100": 5000 if healthy else 0,
        "promoted": 5000 if healthy else 0,
        "held": 0,
        "found": 0 if healthy else 5000,
        "median_found_s": None if healthy else 10.0,
        "median_requests": None if healthy else 20.0,
        "median_reached_s": 1199.0 if healthy else None,
        "median_promoted_s": 1199.0 if healthy else None,
        "mean_exposure": 0.9 if healthy else 1e-5,
        "why_held": {},
        "why_turned_back": {},
    }


def _found() -> dict[str, Any]:
    return {
        cell.name: {
            fault.name: {policy: _figures(healthy=fault == HEALTHY) for policy in (OURS, *POLICIES)}
            for fault in cell.faults
        }
        for cell in CELLS
    }


def _made(change: Any = lambda found, twins, evaluation: None) -> dict[str, Any]:
    found = _found()
    names = ("peeking z-test", "request counting")
    twins = [
        {"twin": name, "breaks": "healthy versions turned back", "n": 400, "twin_count": 80, "twin_low": 0.16,
         "product_count": 1, "product_high": 0.01, "fails": True} for name in names
    ]  # fmt: skip
    evaluation = {"usual": {"processes": 2, "n": 300, "p50_ms": 0.5, "p99_ms": 0.9}}
    change(found, twins, evaluation)
    return result(HARDWARE, found, twins, evaluation, N)


def _line(made: dict[str, Any], name: str) -> dict[str, Any]:
    return next(line for line in made["acceptance"] if line["id"] == name)


def test_every_line_that_is_run_can_hold() -> None:
    made = _made()
    assert [line["id"] for line in made["acceptance"]] == [f"verdict.{number}" for number in range(1, 14)]
    holds = {line["id"]: line["holds"] for line in made["acceptance"]}
    assert holds.pop("verdict.6") is None  # the planner's part of it is not run
    assert {name: holds[name] for name in NOT_RUN} == dict.fromkeys(NOT_RUN)
    assert all(holds[name] for name in MEASURED if name != "verdict.6")
    assert all(_line(made, name)["reason"] == "not run" for name in NOT_RUN)
    assert made["figures"]["missing"] == []


def _ours(cell: str, fault: str, **changes: Any) -> Any:
    return lambda found, twins, evaluation: found[cell][fault][OURS].update(changes)


BREAKS = {
    "verdict.1": _ours("sigma 2", "healthy", turned_back=60),
    "verdict.2": _ours("latency sigma 1", "latency slowest 1 % x2", reached_100=60),
    "verdict.3": _ours("centre", "rho 10", median_found_s=61.0),
    "verdict.5": _ours("chronic users", "rho 2", mean_exposure=0.0061),
    "verdict.6": _ours("2000 users", "healthy", reached_100=3400),
    "verdict.7": _ours("centre", "rho 10 on one architecture", turned_back_before_50=4900),
    "verdict.8": _ours("fault 60 min into 50 %", "rho 4, 60 min into stage 3", median_found_s=181.0),
    "verdict.12": lambda found, twins, evaluation: twins[0].update(twin_low=0.005),
    "verdict.13": lambda found, twins, evaluation: evaluation["usual"].update(p50_ms=1.1),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_line_breaks_on_its_own_figure_alone(name: str) -> None:
    made = _made(BREAKS[name])
    assert _line(made, name)["holds"] is False
    assert _line(made, name)["reason"]
    assert [line["id"] for line in made["acceptance"] if line["holds"] is False] == [name]


def test_all_cells_pooled_break_the_first_line_where_each_alone_does_not() -> None:
    def some(found: dict[str, Any], twins: Any, evaluation: Any) -> None:
        for faults in found.values():
            if "healthy" in faults:
                faults["healthy"][OURS]["turned_back"] = 30  # 0.6 %

    made = _made(some)
    assert [row["what"] for row in _line(made, "verdict.1")["value"] if not row["holds"]] == [
        "all cells pooled: turned back"
    ]


@pytest.mark.parametrize(
    ("cell", "fault"), [(cell.name, fault.name) for cell in CELLS for fault in cell.faults]
)
def test_a_pair_that_is_missing_leaves_no_line_that_needs_it(cell: str, fault: str) -> None:
    made = _made(lambda found, twins, evaluation: found[cell].pop(fault))
    assert f"{cell}, {fault}: {OURS}" in made["figures"]["missing"]
    chosen = next(one for one in CELLS if one.name == cell)
    kind = next(one for one in chosen.faults if one.name == fault)
    needed = ["verdict.1"] if kind == HEALTHY else ["verdict.2"] if above_objective(chosen, kind) else []
    assert all(_line(made, name)["holds"] is None for name in needed)


def test_no_twins_and_no_rollouts_hold_nothing() -> None:
    made = result(HARDWARE, {}, [], {}, N)
    assert not any(line["holds"] for line in made["acceptance"])


def test_below_the_objective_a_doubling_may_pass() -> None:
    low = next(cell for cell in CELLS if cell.name == "base 0.05 %")
    assert not any(above_objective(low, fault) for fault in low.faults if fault.rho == 2)
    made = _made(_ours("base 0.05 %", "rho 2", reached_100=5000))
    assert _line(made, "verdict.2")["holds"] is True
    assert "rho 2, below the objective" in page(made)


def test_the_page_says_what_the_figures_say(tmp_path: Path) -> None:
    made = json.loads(json.dumps(_made(BREAKS["verdict.1"])))
    before = copy.deepcopy(made)
    text = page(made, plots(made, tmp_path))
    assert made == before
    assert "**missed**: 1 of 34 checks" in text
    assert "sigma 2" in text
    for policy in POLICIES:
        assert policy in text
    for name in ("verdict_healthy.svg", "verdict_rho2.svg"):
        assert name in text
        assert (tmp_path / name).read_text(encoding="utf-8").startswith("<?xml")


def test_the_command_measures_resumes_and_fails_on_a_miss(tmp_path: Path, capsys: Any) -> None:
    args = [
        "--json",
        "--cells",
        "incident in the watch",
        "--rollouts",
        "50",
        "--peers",
        "50",
        "--twins",
        "0",
        "--workers",
        "1",
    ]
    args += ["--out", str(tmp_path / "out"), "--page", str(tmp_path / "page.md")]
    first = main(args), json.loads(capsys.readouterr().out)
    again = main([*args, "--resume", "--budget-s", "0"]), json.loads(capsys.readouterr().out)
    assert again[1]["figures"]["cells"] == first[1]["figures"]["cells"]
    assert first[0] == again[0] == 1  # fifty rollouts show no bound of one percent
    found = next(cell for cell in first[1]["figures"]["cells"] if cell["cell"] == "incident in the watch")
    assert set(found["faults"]["healthy"]) == {OURS, *POLICIES}
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# How often a verdict is wrong")
    with pytest.raises(SystemExit):
        main(["--cells", "no such cell"])

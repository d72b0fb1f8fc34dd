"""Small seeded slices of the cells: what must hold of every rollout, and bounds that a broken rule breaks."""

import numpy as np
import pytest

from benchmarks.verdict.bounds import clopper_pearson, sprt_floor
from benchmarks.verdict.cells import CELLS, HEALTHY, Fault, World
from benchmarks.verdict.latencies import SHAPES, exceedances
from benchmarks.verdict.measure import BLOCK, dealt, figures, jobs, run
from benchmarks.verdict.ours import rollouts
from benchmarks.verdict.users import population

BY_NAME = {cell.name: cell for cell in CELLS}


def _rows(name: str, fault: Fault, many: int) -> dict:
    cell = BY_NAME[name]
    return figures(
        run([job for job in jobs([cell], 50, 9) if job[1] == fault][: many // BLOCK], 1)[
            name, fault.name, "sluice"
        ]
    )


def test_there_are_at_most_sixty_cells_with_names_and_reasons_of_their_own() -> None:
    assert len(CELLS) <= 60
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    crossings = [cell for cell in CELLS if cell.why]
    assert len(crossings) == 15
    assert len({cell.world for cell in crossings}) == 15
    for cell in CELLS:
        assert len({fault.name for fault in cell.faults}) == len(cell.faults)


def test_a_healthy_version_reaches_100_percent_after_the_dwells() -> None:
    found = _rows("centre", HEALTHY, 50)
    assert found["reached_100"] >= 48
    assert found["turned_back"] <= 2
    assert 1200 < found["median_reached_s"] < 1260


@pytest.mark.parametrize(
    "fault", [Fault(rho=2.0), Fault(rho=4.0), Fault(rho=10.0), *(Fault(shape=s) for s in SHAPES)]
)
def test_a_bad_version_never_reaches_100_percent_and_is_turned_back(fault: Fault) -> None:
    found = _rows("centre", fault, 50)
    assert found["reached_100"] == 0
    assert found["turned_back"] == 50


def test_a_shared_incident_turns_nobody_back_before_100_percent() -> None:
    found = _rows("shared incident", HEALTHY, 50)
    assert found["turned_back_before_100"] <= 2


def test_too_few_users_hold_and_say_so() -> None:
    done = rollouts(World(users=200), HEALTHY, 10, np.random.default_rng(1))
    assert {one.ended for one in done} == {"held"}
    assert {one.why for one in done} <= {"power floor", "no harm not shown for failure"}


def test_the_same_seed_gives_the_same_rollouts_whatever_the_workers() -> None:
    todo = [job for job in jobs([BY_NAME["sigma 0"]], 400, 5) if job[1].rho == 10.0]
    assert run(todo, 1) == run(todo, 2)
    assert len(todo) == 2


def test_a_cell_gets_at_least_the_rollouts_that_were_asked() -> None:
    for cell in CELLS:
        many = dealt(cell, 1000)
        assert sum(many.values()) >= 1000
        assert HEALTHY not in cell.faults or many["healthy"] >= 500
        assert all(one > 0 for one in many.values())


def test_failures_are_as_frequent_as_the_cell_says() -> None:
    world = BY_NAME["sigma 2"].world
    people = population(world, np.random.default_rng(3), 1.0)
    assert people.failures_per_s == pytest.approx(world.rps * world.base, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_latency_fault_makes_some_limit_exceeded_at_least_twice_as_often(shape: str) -> None:
    for sigma in (0.25, 0.5, 1.0):
        sane, ill = exceedances(sigma), exceedances(sigma, shape)
        assert sane[0] == pytest.approx(0.05)
        assert list(ill) == sorted(ill, reverse=True)
        assert max(b / a for a, b in zip(sane, ill, strict=True)) >= 2


def test_clopper_pearson_is_the_textbook_s() -> None:
    assert clopper_pearson(0, 100) == (0.0, pytest.approx(0.0362, abs=1e-4))
    assert clopper_pearson(5, 100) == (pytest.approx(0.0164, abs=1e-4), pytest.approx(0.1128, abs=1e-4))
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="6 of 5"):
        clopper_pearson(6, 5)


def test_the_floor_is_the_yardstick_s() -> None:
    """70 requests for ten times, 370 to 400 for four, 2 400 to 2 500 for two; a little less without overshoot."""
    assert [round(sprt_floor(0.005, rho)) for rho in (10.0, 4.0, 2.0)] == [65, 359, 2369]

"""The mirroring benchmark's `holds` follow from its figures; a slice of it runs on everything real."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mirroring.result import CONTROL, KINDS, OFF, ON, block, interval, order, ratios, result
from benchmarks.mirroring.stand import parts_of
from local.load.journal import Sent

ROOT = Path(__file__).parents[2]
JITTER = (0.95, 1.05, 1.0, 0.97, 1.03)


def cycles(ratio, *, count=10, **changes):
    """Pairs whose p99 differ by `ratio` and a few percent of noise."""
    made = []
    for number in range(count):
        p99 = {OFF: 10.0, ON: 10.0 * ratio * JITTER[number % 5], CONTROL: 10.0 * JITTER[(number + 2) % 5]}
        one = {
            kind: {
                "n": 4500,
                "failed": 0,
                "p50_ms": 2.0,
                "p99_ms": p99[kind],
                "copies": 45 if kind == ON else 0,
            }
            for kind in KINDS
        }
        made.append(one)
    for path, value in changes.items():
        kind, _, name = path.partition("_")
        made[0][kind][name] = value
    return made


def line(made, *, percent=1, block_s=30.0):
    [found] = result({}, made, percent=percent, block_s=block_s, rate_rps=150)["acceptance"]
    return found


@pytest.mark.parametrize(
    ("ratio", "holds"),
    [
        pytest.param(1.30, False, id="dearer-for-certain"),
        pytest.param(1.10, False, id="a-tenth-dearer"),
        pytest.param(1.06, True, id="the-interval-reaches-the-bar"),
        pytest.param(1.0, True, id="no-dearer"),
    ],
)
def test_the_promise_is_broken_when_the_whole_interval_is_above_the_bar(ratio, holds):
    found = line(cycles(ratio))
    assert (found["id"], found["holds"]) == ("calibration.5", holds)
    assert found["value"]["low"] < found["value"]["mean"] < found["value"]["high"]


@pytest.mark.parametrize(
    ("made", "settings", "holds", "words"),
    [
        (cycles(1.0, count=9), {}, None, "18 alternating blocks of 30 s, wanted 20 of 30 s"),
        (cycles(1.0), {"block_s": 3.0}, None, "20 alternating blocks of 3 s"),
        (cycles(1.0), {"percent": 5}, None, "5 % were mirrored, wanted 1"),
        (cycles(1.0, on_p99_ms=None), {}, None, "18 alternating blocks"),
        (cycles(1.0, off_copies=1), {}, False, "1 requests were copied while mirroring was off"),
        (cycles(1.0, on_failed=1), {}, False, "1 requests failed while mirroring was on, 0 while it was off"),
        ([], {}, None, "0 alternating blocks"),
    ],
)
def test_what_was_not_measured_as_promised_does_not_hold(made, settings, holds, words):
    found = line(made, **settings)
    assert found["holds"] is holds
    assert words in found["reason"]


def test_blocks_in_which_nothing_was_copied_break_it():
    made = cycles(1.0)
    for one in made:
        one[ON] = {**one[ON], "copies": 0}
    assert line(made)["reason"] == "nothing was copied while mirroring was on"


def test_the_interval_is_that_of_the_logarithms():
    """Of 1/2 and 2 the mean is 1; by t with one degree of freedom, 12.706 x ln 2 to each side."""
    found = interval([0.5, 2.0])
    assert found == {"pairs": 2, "mean": 1.0, "low": 0.0001, "high": pytest.approx(6686, rel=0.01)}
    assert interval([1.0]) == {"pairs": 1, "mean": None, "low": None, "high": None}


def test_each_kind_is_in_each_place_equally_often():
    places = Counter((place, kind) for cycle in range(15) for place, kind in enumerate(order(cycle)))
    assert set(places.values()) == {5}
    assert len(places) == 9


def test_a_request_belongs_to_the_block_in_which_it_was_sent():
    def sent(at, status=200):
        return Sent(sent_at_s=at, ended_at_s=at + 0.25, uid="u", version="1", status=status, tokens=3)

    latencies, failed = parts_of(
        (10.0, 20.0), [sent(9.9), sent(10.0), sent(19.9, 503), sent(20.0), sent(15.0, 0)]
    )
    assert latencies == pytest.approx([250.0] * 3)
    assert failed == 2
    assert block([], failed=0, copies=0)["p99_ms"] is None
    assert ratios(cycles(1.2, count=1), ON, "p99_ms") == pytest.approx([1.2 * 0.95])


def test_a_slice_of_it_runs():
    """Everything real, every request mirrored in a block of a second: copies come then, and only then."""
    command = [sys.executable, "-m", "benchmarks.mirroring", "--json", "--blocks", "3", "--block-s", "1"]
    ran = subprocess.run(
        [*command, "--percent", "100", "--rate", "40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr  # too short to hold the promise
    found = json.loads(ran.stdout)
    [cycle] = found["figures"]["cycles"]
    assert all(cycle[kind]["n"] > 5 and cycle[kind]["failed"] == 0 for kind in KINDS)
    assert cycle[ON]["copies"] >= cycle[ON]["n"] // 2
    assert (cycle[OFF]["copies"], cycle[CONTROL]["copies"]) == (0, 0)
    assert found["acceptance"][0]["holds"] is None

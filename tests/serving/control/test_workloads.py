"""Which workload carries which part of the line when a version was not built for every architecture."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control.workloads import load_groups, workload_for, workloads_for

ARCHS = ("a0", "a1", "a2")


def version(*archs: str) -> dict[str, Any]:
    return {"version": "1", "workloads": [{"arch": arch, "deployment": arch} for arch in archs]}


ADOPTED = {"version": "adopted", "upstream": "http://10.0.0.9:8080"}


def test_a_part_of_the_line_without_a_workload_of_its_own_is_the_first_ones() -> None:
    made = version("a1", "a2")
    assert [(workload_for(made, arch) or {})["deployment"] for arch in ARCHS] == ["a1", "a1", "a2"]
    assert workload_for(version(), "a0") is None


def test_a_workload_that_serves_two_parts_is_one_workload() -> None:
    assert [w["deployment"] for w in workloads_for(version("a1"), ARCHS)] == ["a1"]


@pytest.mark.parametrize(
    ("candidate", "stable", "groups"),
    [
        pytest.param(version(*ARCHS), version(*ARCHS), [["a0"], ["a1"], ["a2"]], id="each-has-its-own"),
        pytest.param(
            version("a0", "a1"), version(*ARCHS), [["a1"], ["a0", "a2"]], id="the-candidate-lacks-one"
        ),
        pytest.param(version(*ARCHS), version("a1", "a2"), [["a0", "a1"], ["a2"]], id="stable-lacks-one"),
        pytest.param(version("a0", "a1"), version("a1", "a2"), [["a0", "a1", "a2"]], id="both-lack-another"),
        pytest.param(version(*ARCHS), ADOPTED, [["a0"], ["a1"], ["a2"]], id="an-adopted-one-is-not-seen"),
        pytest.param(version("a0"), ADOPTED, [["a0", "a1", "a2"]], id="one-for-all"),
    ],
)
def test_load_is_compared_where_no_workload_carries_a_part_outside(
    candidate: dict[str, Any], stable: dict[str, Any], groups: list[list[str]]
) -> None:
    found = load_groups(ARCHS, candidate, stable)
    assert sorted(map(sorted, found)) == sorted(groups)

"""The emulator's pure parts: quantities, selectors, patches, paths, placing, rolling."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.cluster import patches, schema
from local.cluster.environment import expand, relocate
from local.cluster.errors import ApiError
from local.cluster.objects import quantity
from local.cluster.openapi import protobuf
from local.cluster.placing import choose
from local.cluster.rollout import Sizes, amount, plan
from local.cluster.selectors import label_test


@pytest.mark.parametrize(
    ("text", "want"),
    [("100m", "0.1"), ("2", "2"), ("1Gi", str(2**30)), ("1.5Ki", "1536"), ("1e3", "1000"), ("3M", "3000000")],
)
def test_quantities(text: str, want: str) -> None:
    assert quantity(text) == Decimal(want)


@pytest.mark.parametrize("text", ["", "lots", "-1", "1 GiB", "NaN", "Infinity", None])
def test_what_is_no_quantity_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


@pytest.mark.parametrize("text", ["a in b", "a=b=c", "(a)", "a notin", "a in (b"])
def test_a_label_selector_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="unable to parse"):
        label_test(text)


def test_absent_labels_pass_inequalities_as_in_kubernetes() -> None:
    assert label_test("a!=b")({})
    assert label_test("a notin (b,c)")({})
    assert not label_test("a in (b,c)")({})


@pytest.mark.parametrize(
    ("have", "patch", "want"),
    [
        pytest.param({"env": [{"name": "A", "value": "1"}, {"name": "B"}]}, {"env": [{"name": "A", "value": "2"}]},
                     {"env": [{"name": "A", "value": "2"}, {"name": "B"}]}, id="lists-merge-by-key"),
        pytest.param({"env": [{"name": "A"}, {"name": "B"}]}, {"env": [{"name": "A", "$patch": "delete"}]},
                     {"env": [{"name": "B"}]}, id="delete-one"),
        pytest.param({"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "C"}]},
                     {"env": [{"name": "C"}]}, id="replace-list"),
        pytest.param({"args": ["a", "b"]}, {"args": ["c"]}, {"args": ["c"]}, id="plain-lists-are-replaced"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}, id="null-deletes"),
        pytest.param({"s": {"type": "R", "rollingUpdate": 1}}, {"s": {"$retainKeys": ["type"], "type": "Re"}},
                     {"s": {"type": "Re"}}, id="retain-keys"),
        pytest.param({"env": [{"name": "A"}]}, {"$setElementOrder/env": [{"name": "B"}, {"name": "A"}],
                                                "env": [{"name": "B"}]},
                     {"env": [{"name": "B"}, {"name": "A"}]}, id="order"),
        pytest.param({"ports": [{"containerPort": 1, "name": "x"}]}, {"ports": [{"containerPort": 1, "name": "y"}]},
                     {"ports": [{"containerPort": 1, "name": "y"}]}, id="ports"),
    ],
)  # fmt: skip
def test_strategic_merge(have: dict, patch: dict, want: dict) -> None:
    assert patches.apply("application/strategic-merge-patch+json", have, patch) == want


def test_a_patch_changes_a_copy_only() -> None:
    have = {"a": {"b": 1}, "env": [{"name": "A", "value": "1"}]}
    patches.apply(
        "application/strategic-merge-patch+json", have, {"a": {"b": 2}, "env": [{"name": "A", "value": "2"}]}
    )
    patches.apply("application/merge-patch+json", have, {"a": {"b": 2}})
    patches.apply("application/json-patch+json", have, [{"op": "remove", "path": "/a/b"}])
    assert have == {"a": {"b": 1}, "env": [{"name": "A", "value": "1"}]}


def test_json_patch_moves_copies_and_escapes() -> None:
    operations = [
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "move", "from": "/a", "path": "/c~1d"},
        {"op": "add", "path": "/list/-", "value": 3},
        {"op": "add", "path": "/list/0", "value": 0},
        {"op": "remove", "path": "/list/1"},
    ]
    have = {"a": {"x": 1}, "list": [1, 2]}
    assert patches.json_patch(have, operations) == {"b": {"x": 1}, "c/d": {"x": 1}, "list": [0, 2, 3]}


def test_references_expand_as_in_kubernetes() -> None:
    assert expand("$(A) $$(A) $(B) $A", {"A": "1"}) == "1 $(A) $(B) $A"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/data", "/host"),
        ("/data/x", "/host/x"),
        ("--store=/data/x,/data", "--store=/host/x,/host"),
        ("/database", "/database"),
        ("/other/data", "/other/data"),
        ("/data/deep/x", "/elsewhere/x"),
        ("cat '/data/x'", "cat '/host/x'"),
        ("/data-old", "/data-old"),
    ],
)
def test_mount_paths_are_replaced_as_whole_paths_longest_first(text: str, want: str) -> None:
    assert relocate(text, {"/data": Path("/host"), "/data/deep": Path("/elsewhere")}) == want


def node(name: str, **spec: Any) -> dict:
    allocatable = {"cpu": "4", "memory": "8Gi", "pods": "10", **spec.pop("allocatable", {})}
    meta = {"name": name, "labels": {"name": name}}
    return {"metadata": meta, "spec": spec, "status": {"allocatable": allocatable}}


def wants(name: str, on: str = "", **requests: str) -> dict:
    spec: dict = {"containers": [{"resources": {"requests": requests}}]}
    if on:
        spec["nodeName"] = on
    return {"metadata": {"name": name}, "spec": spec}


def test_a_pod_goes_where_there_is_most_room() -> None:
    there = [wants("x", "full", cpu="3"), wants("y", "free", cpu="1")]
    assert choose(wants("new", cpu="1"), [node("full"), node("free")], there, lambda _: False)[0] == "free"


def test_a_finished_pod_takes_no_room() -> None:
    done = {**wants("x", "n", cpu="4"), "status": {"phase": "Succeeded"}}
    assert choose(wants("new", cpu="4"), [node("n")], [done], lambda _: False)[0] == "n"
    assert choose(wants("new", cpu="4"), [node("n")], [wants("x", "n", cpu="4")], lambda _: False)[0] is None


def test_every_reason_is_counted_per_node() -> None:
    taint = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    nodes = [node("a", taints=taint), node("b"), node("c", unschedulable=True)]
    where, why = choose(wants("p", cpu="8"), nodes, [], lambda _: False)
    assert where is None
    assert why.startswith("0/3 nodes are available: ")
    for part in (
        "1 Insufficient cpu",
        "1 node(s) had untolerated taint {gpu: yes}",
        "1 node(s) were unschedulable",
    ):
        assert part in why


@given(
    replicas=st.integers(0, 12),
    surge=st.integers(0, 3),
    missing=st.integers(0, 3),
    old=st.integers(0, 12),
)
def test_a_rollout_keeps_enough_pods_available_and_ends(
    replicas: int, surge: int, missing: int, old: int
) -> None:
    """Pods of the new set become ready one step after they are made: no step goes below the floor."""
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}
    allowed = missing if surge or missing else 1
    new, previous = Sizes(wanted=0, available=0), Sizes(wanted=old, available=old)
    floor = min(old, replicas - allowed)
    for _ in range(60):
        size, (left,) = plan(replicas, strategy, new, [previous])
        available = new.available + min(previous.available, left)
        assert available >= floor
        assert size + left <= max(replicas + surge, old)
        step = (Sizes(wanted=size, available=size), Sizes(wanted=left, available=left))
        if step == (new, previous):
            break
        new, previous = step
    assert (new.wanted, previous.wanted) == (replicas, 0)


def test_recreate_makes_nothing_new_while_an_old_pod_is_there() -> None:
    strategy = {"type": "Recreate"}
    none = Sizes(wanted=0, available=0)
    assert plan(3, strategy, none, [Sizes(wanted=3, available=3)]) == (0, [0])
    assert plan(3, strategy, none, [Sizes(wanted=0, available=1)]) == (0, [0])
    assert plan(3, strategy, none, [none]) == (3, [0])


@pytest.mark.parametrize(
    ("value", "up", "want"), [("25%", True, 1), ("25%", False, 0), (2, True, 2), ("50%", False, 1)]
)
def test_percentages_round_up_for_surge_and_down_for_missing(value: Any, up: bool, want: int) -> None:
    assert amount(value, 3, up=up) == want


def test_false_and_empty_values_of_other_fields_mean_what_they_mean_by_default() -> None:
    spec = {"containers": [], "hostNetwork": False, "hostAliases": [], "runtimeClassName": None}
    assert list(schema.check(spec, schema.POD_SPEC, "spec")) == []


def test_the_openapi_document_is_the_protobuf_that_kubectl_reads() -> None:
    assert protobuf()[:5] == b"\x0a\x032.0"

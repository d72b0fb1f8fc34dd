"""One object's fault stays one object's: refused with its field, and no loop ends over what slips through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from local.cluster.cluster import namespace
from local.cluster.controller import Controller
from local.cluster.faults import Faults
from local.cluster.nodes import node
from local.cluster.objects import condition
from local.cluster.podspec import default_pod_spec
from local.cluster.recorder import Recorder
from local.cluster.resources import CONFIGMAPS, NAMESPACES, NODES, PODS
from local.cluster.scheduler import Scheduler
from local.cluster.store import Change, Store
from tests.local.cluster.kube import Emulator, deployment, pod, service

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def required(*expressions: Any) -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}
    return {"affinity": {"nodeAffinity": {REQUIRED: terms}}}


def expression(operator: Any, *values: Any, key: Any = "cores") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


EXPRESSION = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"
WRONG = [
    pytest.param(required(expression("Gt", "many")), f"{EXPRESSION}.values", id="gt-with-a-word"),
    pytest.param(required(expression("Lt")), f"{EXPRESSION}.values", id="lt-of-nothing"),
    pytest.param(required(expression("Equals", "8")), f"{EXPRESSION}.operator", id="no-such-operator"),
    pytest.param(required(expression("In")), f"{EXPRESSION}.values", id="in-nothing"),
    pytest.param(required(expression("Exists", "x")), f"{EXPRESSION}.values", id="exists-with-a-value"),
    pytest.param(required(expression("In", "x", key=None)), f"{EXPRESSION}.key", id="no-key"),
    pytest.param(required("cores"), EXPRESSION, id="no-object"),
    pytest.param(
        {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}}, "nodeSelectorTerms", id="no-terms"
    ),
    pytest.param(
        {"affinity": {"nodeAffinity": {PREFERRED: [{"weight": "much", "preference": {}}]}}}, "weight", id="weight"
    ),
    pytest.param({"nodeSelector": {"cores": 8}}, "spec.nodeSelector", id="selector"),
    pytest.param({"tolerations": [{"key": "a", "operator": "Equals"}]}, "tolerations[0].operator", id="toleration"),
    pytest.param({"tolerations": [{"key": "gpu", "effect": "Never"}]}, "spec.tolerations[0].effect", id="effect"),
    pytest.param({"tolerations": ["gpu"]}, "spec.tolerations[0]", id="toleration-no-object"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "field"), WRONG)
def test_what_cannot_be_placed_is_refused_with_its_field(
    emulator: Emulator, spec: dict[str, Any], field: str
) -> None:
    status, answer = emulator.call("POST", "/api/v1/namespaces/default/pods", pod("wrong", "1", **spec))
    assert (status, answer["reason"]) == (422, "Invalid")
    assert field in answer["details"]["causes"][0]["field"]
    body = deployment("wrong", 1)
    body["spec"]["template"]["spec"] |= spec
    status, answer = emulator.call("POST", "/apis/apps/v1/namespaces/default/deployments", body)
    assert (status, answer["reason"]) == (422, "Invalid")
    assert field.removeprefix("spec.") in answer["details"]["causes"][0]["field"]


def test_a_selector_or_an_address_that_cannot_be_read_is_refused_with_its_field(emulator: Emulator) -> None:
    body = deployment("wrong", 1)
    body["spec"]["selector"] = {"matchExpressions": [{"key": "app", "operator": "Gt"}]}
    status, answer = emulator.call("POST", "/apis/apps/v1/namespaces/default/deployments", body)
    assert (status, answer["details"]["causes"][0]["field"]) == (
        422,
        "spec.selector.matchExpressions[0].operator",
    )
    body = service("wrong")
    body["spec"]["selector"] = ["app"]
    status, answer = emulator.call("POST", "/api/v1/namespaces/default/services", body)
    assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.selector")
    body = service("wrong")
    body["spec"]["clusterIP"] = 127
    status, answer = emulator.call("POST", "/api/v1/namespaces/default/services", body)
    assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.clusterIP")


def stored_pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod as it lies in the store, without having been admitted."""
    body = pod(name, "1", **spec)
    default_pod_spec(body["spec"])
    body["metadata"] |= {"namespace": "default"}
    return {"kind": "Pod", "apiVersion": "v1", "status": {"phase": "Pending"}, **body}


async def until(store: Store, test: Callable[[], Any]) -> None:
    """Waits for the change that makes the test pass."""
    passed = asyncio.Event()
    store.subscribe(lambda _: passed.set() if test() else None)
    async with asyncio.timeout(10):
        await passed.wait()


@contextlib.asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(controller.run())
    await asyncio.sleep(0)
    yield task
    task.cancel()


async def test_a_pod_that_cannot_be_judged_says_so_and_the_next_one_is_placed() -> None:
    store = Store()
    scheduler = Scheduler(store, Recorder(store), Faults())
    store.create(NAMESPACES, namespace("default"))
    store.create(NODES, node("local", {"cores": "8"}, {}, []))
    async with running(scheduler) as task:
        store.create(PODS, stored_pod("a-bad", **required(expression("Gt", "many"))))
        store.create(PODS, stored_pod("b-worse", **required(expression("Equals", "8"))))
        store.create(PODS, stored_pod("c-good"))
        await until(store, lambda: store.get(PODS, "default", "c-good")["spec"].get("nodeName"))
        assert not task.done()
    said = [condition(store.get(PODS, "default", name), "PodScheduled") for name in ("a-bad", "b-worse")]
    assert [one["reason"] for one in said] == ["Unschedulable"] * 2
    for one, word in zip(said, ("many", "Equals"), strict=True):
        assert "cannot be judged" in one["message"]
        assert word in one["message"]


class Fragile(Controller):
    """Cannot bear one key."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.good = asyncio.Event()

    def interest(self, change: Change) -> None:
        self.enqueue(change.obj["metadata"]["name"])

    def reconcile(self, key: str) -> None:
        if key == "bad":
            raise ValueError(key)
        self.good.set()


async def test_an_error_in_one_key_stops_no_other_key() -> None:
    store = Store()
    controller = Fragile(store)
    async with running(controller) as task:
        for name in ("bad", "good"):
            meta = {"name": name, "namespace": "default"}
            store.create(CONFIGMAPS, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta})
        async with asyncio.timeout(10):
            await controller.good.wait()
        assert not task.done()

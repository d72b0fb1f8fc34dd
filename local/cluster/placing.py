"""Which node a pod fits, as a pure function of pod, nodes and the pods that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal

from local.cluster.objects import Object, is_terminal, labels_of, quantity
from local.cluster.selectors import expression

Blocked = Callable[[Object], bool]


def requests(pod: Object) -> dict[str, Decimal]:
    """What a pod asks for: the sum of its containers, or its largest init container if that is more."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        for name, value in (container["resources"].get("requests") or {}).items():
            total[name] = total.get(name, Decimal(0)) + quantity(value)
    for container in pod["spec"].get("initContainers") or []:
        for name, value in (container["resources"].get("requests") or {}).items():
            total[name] = max(total.get(name, Decimal(0)), quantity(value))
    return total


def used(pods: list[Object]) -> dict[str, dict[str, Decimal]]:
    """Per node, what its living pods ask for."""
    found: dict[str, dict[str, Decimal]] = {}
    for pod in pods:
        name = pod["spec"].get("nodeName")
        if name and not is_terminal(pod):
            node = found.setdefault(name, {})
            for resource, amount in requests(pod).items():
                node[resource] = node.get(resource, Decimal(0)) + amount
    return found


def choose(pod: Object, nodes: list[Object], pods: list[Object], blocked: Blocked) -> tuple[str | None, str]:
    """(node, "") or (None, why not, in the scheduler's words)."""
    taken = used(pods)
    refusals: Counter[str] = Counter()
    fitting: list[tuple[int, Decimal, str]] = []
    for node in nodes:
        name = node["metadata"]["name"]
        reasons = list(_reasons(pod, node, taken.get(name, {}), blocked))
        refusals.update(reasons)
        if not reasons:
            fitting.append((-_preference(pod, node), _load(node, taken.get(name, {})), name))
    if fitting:
        return min(fitting)[2], ""
    text = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
    return None, f"0/{len(nodes)} nodes are available: {text or 'there are no nodes'}."


def _reasons(pod: Object, node: Object, taken: Mapping[str, Decimal], blocked: Blocked) -> list[str]:
    if node["spec"].get("unschedulable"):
        return ["node(s) were unschedulable"]
    if blocked(node):
        return ["node(s) were unschedulable (a fault that was asked for)"]
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(pod, taint):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if not _selected(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    found = []
    for name, amount in requests(pod).items():
        free = quantity(node["status"]["allocatable"].get(name, "0")) - taken.get(name, Decimal(0))
        if amount > free:
            found.append("Too many pods" if name == "pods" else f"Insufficient {name}")
    return found


def _tolerated(pod: Object, taint: Object) -> bool:
    for one in pod["spec"].get("tolerations") or []:
        if one.get("effect") not in (None, "", taint["effect"]):
            continue
        if one.get("operator", "Equal") == "Exists" and one.get("key") in (None, "", taint["key"]):
            return True
        if one.get("key") == taint["key"] and (one.get("value") or "") == (taint.get("value") or ""):
            return True
    return False


def _selected(pod: Object, node: Object) -> bool:
    labels = labels_of(node)
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    required = _affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    return not required or any(_term(term, labels) for term in required["nodeSelectorTerms"])


def _affinity(pod: Object) -> Object:
    return (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}


def _term(term: Object, labels: Mapping[str, str]) -> bool:
    """One node selector term: all expressions hold; an empty term matches nothing."""
    expressions = term.get("matchExpressions") or []
    return bool(expressions) and all(
        expression(one["key"], one["operator"], one.get("values") or [])(labels) for one in expressions
    )


def _preference(pod: Object, node: Object) -> int:
    preferred = _affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return sum(one["weight"] for one in preferred if _term(one["preference"], labels_of(node)))


def _load(node: Object, taken: Mapping[str, Decimal]) -> Decimal:
    """The fullest of a node's resources, 0 to 1: pods go where there is most room."""
    shares = [
        taken.get(name, Decimal(0)) / amount
        for name, text in node["status"]["allocatable"].items()
        if (amount := quantity(text))
    ]
    return max(shares, default=Decimal(0))

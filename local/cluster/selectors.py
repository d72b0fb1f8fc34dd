"""Label and field selectors, in the words that the API takes in its query string."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from local.cluster.errors import ApiError, bad_request
from local.cluster.objects import Object, dig

LabelTest = Callable[[Mapping[str, str]], bool]
ObjectTest = Callable[[Object], bool]

_KEY: Final = r"([A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?)"
_SET: Final = re.compile(rf"^{_KEY}\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL: Final = re.compile(rf"^{_KEY}\s*(==|=|!=)\s*([A-Za-z0-9._-]*)$")
_EXISTS: Final = re.compile(rf"^(!?)\s*{_KEY}$")
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "pods": frozenset(
        {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"}
        | {"status.phase", "status.podIP", "status.nominatedNodeName"}
    ),
    "events": frozenset(
        {f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion")}
        | {"involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "type"}
        | {"reportingComponent", "source"}
    ),
    "nodes": frozenset({"spec.unschedulable"}),
    "namespaces": frozenset({"status.phase"}),
    "replicasets": frozenset({"status.replicas"}),
}


def label_test(text: str) -> LabelTest:
    """The test of a label selector: `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises 400 on anything else."""
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^()]*\))", text) if part.strip()]
    return lambda labels: all(test(labels) for test in tests)


def _requirement(text: str) -> LabelTest:
    if match := _SET.match(text):
        key, operator, raw = match.groups()
        values = [value.strip() for value in raw.split(",")]
        return expression(key, "In" if operator == "in" else "NotIn", values)
    if match := _EQUAL.match(text):
        key, operator, value = match.groups()
        return expression(key, "NotIn" if operator == "!=" else "In", [value])
    if match := _EXISTS.match(text):
        return expression(match.group(2), "DoesNotExist" if match.group(1) else "Exists", [])
    raise bad_request(
        f"unable to parse label selector: {text!r}; use forms such as a=b, a!=b, a in (b,c), a, !a"
    )


def expression(key: str, operator: str, values: list[str]) -> LabelTest:
    """One match expression of a label selector or a node selector term."""
    wanted = set(values)
    match operator:
        case "In":
            return lambda labels: labels.get(key) in wanted
        case "NotIn":
            return lambda labels: key not in labels or labels[key] not in wanted
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case "Gt" | "Lt":
            return lambda labels: _compare(labels.get(key), operator, values[0])
    raise ApiError(
        422, "Invalid", f"operator {operator!r} of {key!r} is none of In, NotIn, Exists, DoesNotExist"
    )


def _compare(have: str | None, operator: str, bound: str) -> bool:
    if have is None or not re.fullmatch(r"-?\d+", have):
        return False
    return int(have) > int(bound) if operator == "Gt" else int(have) < int(bound)


def selector_test(selector: Object | None) -> LabelTest:
    """The test of a LabelSelector object; an absent or empty one matches nothing here."""
    selector = selector or {}
    tests = [expression(key, "In", [value]) for key, value in (selector.get("matchLabels") or {}).items()]
    tests += [
        expression(one["key"], one["operator"], one.get("values") or [])
        for one in selector.get("matchExpressions") or []
    ]
    return lambda labels: bool(tests) and all(test(labels) for test in tests)


def field_test(plural: str, text: str) -> ObjectTest:
    """The test of a field selector: `a.b=c,d!=e`, for the fields that Kubernetes indexes; else 400."""
    allowed = _FIELDS.get(plural, frozenset()) | {"metadata.name", "metadata.namespace"}
    tests = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.match(r"^([A-Za-z.]+)\s*(==|=|!=)\s*(.*)$", part)
        if match is None:
            raise bad_request(f"unable to parse field selector: {part!r}; use a.b=c or a.b!=c")
        field, operator, value = match.groups()
        if field not in allowed:
            raise bad_request(
                f"field label not supported: {field}; {plural} know {', '.join(sorted(allowed))}"
            )
        tests.append(_field(field, value, equal=operator != "!="))
    return lambda obj: all(test(obj) for test in tests)


def _field(path: str, value: str, *, equal: bool) -> ObjectTest:
    path = "source.component" if path == "source" else path
    return lambda obj: (_text(dig(obj, path)) == value) is equal


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)

"""Value checks of what places a pod: node selector, node affinity, tolerations; and of label selectors.

Problem: what is read only when a pod is placed is refused too late, to nobody. Invariant: what passes here is judged
by `placing` and `selectors` without an error, whatever labels and taints a node has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from local.cluster.objects import Object

Problem = tuple[str, str]

LABEL_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
NODE_OPERATORS: Final = (*LABEL_OPERATORS, "Gt", "Lt")
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_WHOLE: Final = re.compile(r"-?\d{1,18}")


def placement_problems(spec: Object, path: str) -> Iterator[Problem]:
    """Every wrong value of a pod's spec that decides where it goes, by field path."""
    selector = spec.get("nodeSelector")
    if selector and not (
        isinstance(selector, dict) and all(isinstance(one, str) for one in selector.values())
    ):
        yield f"{path}.nodeSelector", f"{selector!r} is not an object of strings"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    where = f"{path}.affinity.nodeAffinity"
    yield from _required(
        affinity.get("requiredDuringSchedulingIgnoredDuringExecution"),
        f"{where}.requiredDuringSchedulingIgnoredDuringExecution",
    )
    name = "preferredDuringSchedulingIgnoredDuringExecution"
    for place, one in enumerate(affinity.get(name) or []):
        yield from _preferred(one, f"{where}.{name}[{place}]")
    yield from _each(spec.get("tolerations"), f"{path}.tolerations", _toleration)


def selector_problems(selector: Any, path: str) -> Iterator[Problem]:
    """Of a LabelSelector object."""
    if not isinstance(selector, dict):
        yield path, f"{selector!r} is not an object"
        return
    labels = selector.get("matchLabels") or {}
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        yield f"{path}.matchLabels", f"{labels!r} is not an object of strings"
    yield from _expressions(selector.get("matchExpressions"), f"{path}.matchExpressions", LABEL_OPERATORS)


def _required(required: Any, path: str) -> Iterator[Problem]:
    if required is None:
        return
    terms = required.get("nodeSelectorTerms")
    if not terms:
        yield f"{path}.nodeSelectorTerms", "is required and must not be empty"
        return
    for place, term in enumerate(terms):
        where = f"{path}.nodeSelectorTerms[{place}].matchExpressions"
        yield from _expressions(term.get("matchExpressions"), where, NODE_OPERATORS)


def _preferred(one: Object, path: str) -> Iterator[Problem]:
    weight = one.get("weight")
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 100:
        yield f"{path}.weight", f"{weight!r} is not a whole number of 1 to 100"
    if not isinstance(one.get("preference"), dict):
        yield f"{path}.preference", "is required"
    else:
        expressions = one["preference"].get("matchExpressions")
        yield from _expressions(expressions, f"{path}.preference.matchExpressions", NODE_OPERATORS)


def _each(values: Any, path: str, check: Any) -> Iterator[Problem]:
    """The problems of every object of a list that may be absent."""
    if values is not None and not isinstance(values, list):
        yield path, f"{values!r} is not a list"
        return
    for place, one in enumerate(values or []):
        if isinstance(one, dict):
            yield from check(one, f"{path}[{place}]")
        else:
            yield f"{path}[{place}]", f"{one!r} is not an object"


def _expressions(values: Any, path: str, operators: tuple[str, ...]) -> Iterator[Problem]:
    return _each(values, path, lambda one, where: _expression(one, where, operators))


def _expression(one: Object, path: str, operators: tuple[str, ...]) -> Iterator[Problem]:
    key, operator, values = one.get("key"), one.get("operator"), one.get("values") or []
    if not isinstance(key, str) or not key:
        yield f"{path}.key", f"{key!r} is not a label key"
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        yield f"{path}.values", f"{values!r} is not a list of strings"
    elif operator not in operators:
        yield f"{path}.operator", f"{operator!r} is none of {', '.join(operators)}"
    elif operator in ("Gt", "Lt") and not (len(values) == 1 and _WHOLE.fullmatch(values[0])):
        yield f"{path}.values", f"{values!r} is not one whole number, as {operator} needs"
    elif operator in ("In", "NotIn") and not values:
        yield f"{path}.values", f"is required for {operator}"
    elif operator in ("Exists", "DoesNotExist") and values:
        yield f"{path}.values", f"{values!r} must be empty for {operator}"


def _toleration(one: Object, path: str) -> Iterator[Problem]:
    operator, effect = one.get("operator") or "Equal", one.get("effect") or ""
    if operator not in ("Equal", "Exists"):
        yield f"{path}.operator", f"{operator!r} is none of Equal, Exists"
    elif operator == "Equal" and not one.get("key"):
        yield f"{path}.operator", "must be Exists where key is empty"
    elif operator == "Exists" and one.get("value"):
        yield f"{path}.value", f"{one['value']!r} must be empty for Exists"
    if effect and effect not in _EFFECTS:
        yield f"{path}.effect", f"{effect!r} is none of {', '.join(_EFFECTS)}"

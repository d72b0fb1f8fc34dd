"""Small helpers on Kubernetes objects, which are plain dicts as they come off the wire."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

Object = dict[str, Any]

_SUFFIX: Final[Mapping[str, Decimal]] = {
    **{name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{name: Decimal(1000) ** power for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
}
_NAME_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own: no vowels, so no words


def copy(value: Any) -> Any:
    """A deep copy of a JSON value; several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy(item) for item in value]
    return value


def now_text() -> str:
    """The time in UTC as Kubernetes writes it, whole seconds."""
    return time_text(datetime.now(UTC))


def time_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Reads RFC 3339. ValueError: it is not."""
    return datetime.fromisoformat(text)


def quantity(value: Any) -> Decimal:
    """A Kubernetes quantity in base units: cores, bytes, pieces. ValueError: not a quantity or negative."""
    text = str(value).strip()
    suffix = next((one for one in _SUFFIX if text.endswith(one)), "")
    factor = _SUFFIX.get(suffix, Decimal(1))
    text = text.removesuffix(suffix)
    try:
        number = Decimal(text) * factor
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is not a quantity such as 100m or 2Gi") from error
    if not number.is_finite() or number < 0:
        raise ValueError(f"{value!r} is not a quantity of at least 0")
    return number


def random_suffix(length: int = 5) -> str:
    return "".join(secrets.choice(_NAME_LETTERS) for _ in range(length))


def key_of(obj: Object) -> tuple[str, str]:
    """(namespace, name); the namespace of a cluster-wide object is empty."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def labels_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def owner_of(obj: Object) -> Object | None:
    """The owner reference of the controller that manages it."""
    refs = obj["metadata"].get("ownerReferences") or []
    return next((ref for ref in refs if ref.get("controller")), None)


def condition(obj: Object, kind: str) -> Object | None:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), None)


def is_ready(pod: Object) -> bool:
    one = condition(pod, "Ready")
    return one is not None and one["status"] == "True"


def is_terminal(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def is_deleting(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def set_condition(conditions: list[Object], wanted: Object) -> None:
    """Puts `wanted` in place of its type; the transition time moves only when the status does."""
    old = next((one for one in conditions if one["type"] == wanted["type"]), None)
    moved = old is None or old["status"] != wanted["status"]
    wanted["lastTransitionTime"] = now_text() if moved else old["lastTransitionTime"]
    conditions[:] = [one for one in conditions if one["type"] != wanted["type"]] + [wanted]


def dig(obj: Any, path: str) -> Any:
    """The value at a dotted path, None when a part is missing."""
    for part in path.split("."):
        if not isinstance(obj, dict) or part not in obj:
            return None
        obj = obj[part]
    return obj


def container_ports(pod: Object) -> Iterator[Object]:
    for container in pod["spec"]["containers"]:
        yield from container.get("ports") or []


def named_port(pod: Object, port: int | str) -> int | None:
    """The number of a port given by number or by name of a container port."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    return next((one["containerPort"] for one in container_ports(pod) if one.get("name") == port), None)

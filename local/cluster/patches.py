"""The three ways to PATCH: JSON Patch (RFC 6902), merge patch (RFC 7386) and the strategic merge patch.

The strategic one merges lists of objects by a key, which Kubernetes has in its Go struct tags and we in
`MERGE_KEYS`, by the name of the field that holds the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from local.cluster.errors import ApiError, bad_request
from local.cluster.objects import copy

MERGE_KEYS: Final[dict[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
    "hostAliases": "ip",
}
_PRIMITIVE_SETS: Final = frozenset({"finalizers"})  # lists of strings that merge as sets


def apply(content_type: str, target: Any, patch: Any) -> Any:
    """The patched copy of `target`. Raises 415 for another patch type, 400 or 422 for a wrong patch."""
    if content_type == "application/json-patch+json":
        return json_patch(target, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch must be a JSON object")
    if content_type == "application/merge-patch+json":
        return merge(copy(target), patch)
    if content_type == "application/strategic-merge-patch+json":
        return strategic(copy(target), patch)
    if content_type.startswith("application/apply-patch"):
        message = (
            "server-side apply is not implemented by the local cluster; use kubectl without --server-side"
        )
        raise ApiError(501, "NotImplemented", message)
    raise ApiError(
        415, "UnsupportedMediaType", f"the body of the request was in an unknown format {content_type!r}"
    )


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null deletes, objects merge, all else replaces. Changes `target`."""
    if not isinstance(patch, dict):
        return copy(patch)
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def strategic(target: Any, patch: dict[str, Any]) -> Any:
    """Kubernetes' strategic merge, with `$patch`, `$retainKeys`, `$setElementOrder`, `$deleteFromPrimitiveList`."""
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    target = target if isinstance(target, dict) else {}
    retain = patch.get("$retainKeys")
    if retain is not None:
        target = {key: value for key, value in target.items() if key in retain}
    for key, value in patch.items():
        if key.startswith("$"):
            _directive(target, key, value)
        elif value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            target[key] = strategic(target.get(key), value)
        elif isinstance(value, list):
            target[key] = _merge_list(key, target.get(key), value, patch.get(f"$setElementOrder/{key}"))
        else:
            target[key] = value
    return target


def _directive(target: dict[str, Any], key: str, value: Any) -> None:
    if key.startswith("$deleteFromPrimitiveList/"):
        name = key.partition("/")[2]
        target[name] = [one for one in target.get(name) or [] if one not in value]
    elif key not in {"$patch", "$retainKeys"} and not key.startswith("$setElementOrder/"):
        raise bad_request(f"unknown directive {key!r} in a strategic merge patch")


def _list_key(field: str, items: list[Any]) -> str | None:
    """The merge key of a list, None when it is replaced as a whole."""
    if field == "ports":  # of a container, or of a service
        first = next((one for one in items if isinstance(one, dict)), {})
        return "containerPort" if "containerPort" in first else "port"
    return MERGE_KEYS.get(field)


def _merge_list(field: str, have: Any, patch: list[Any], order: list[Any] | None) -> list[Any]:
    have = have if isinstance(have, list) else []
    if field in _PRIMITIVE_SETS:
        return have + [one for one in patch if one not in have]
    key = _list_key(field, [*have, *patch])
    if key is None or not all(isinstance(one, dict) for one in [*have, *patch]):
        return copy(patch)
    if any(one.get("$patch") == "replace" for one in patch):
        return [copy(one) for one in patch if "$patch" not in one]
    merged = {one.get(key): one for one in have}
    for one in patch:
        if key not in one:
            raise bad_request(f"an item of {field} in the patch lacks its merge key {key!r}")
        if one.get("$patch") == "delete":
            merged.pop(one[key], None)
        else:
            merged[one[key]] = strategic(merged.get(one[key]), one)
    if order is not None:
        rank = {one.get(key) if isinstance(one, dict) else one: place for place, one in enumerate(order)}
        return sorted(merged.values(), key=lambda one: rank.get(one.get(key), len(rank)))
    return list(merged.values())


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises 422 when a path is missing or a test fails; then nothing was changed."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch must be a list of operations")
    root = {"": copy(target)}  # the document is the value at "", so that the root has a parent
    for one in operations:
        try:
            _operation(root, one)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ApiError(
                422, "Invalid", f"the server rejected the JSON patch operation {one}: {error!r}"
            ) from error
    return root[""]


def _operation(root: dict[str, Any], one: dict[str, Any]) -> None:
    operation = one["op"]
    if operation in {"move", "copy"}:
        parent, key = _walk(root, one["from"])
        value = copy(_at(parent, key))
        if operation == "move":
            _remove(parent, key)
        _put(root, one["path"], value, add=True)
    elif operation in {"add", "replace"}:
        _put(root, one["path"], copy(one["value"]), add=operation == "add")
    elif operation == "remove":
        _remove(*_walk(root, one["path"]))
    elif operation == "test":
        if _at(*_walk(root, one["path"])) != one["value"]:
            raise ValueError("the test failed")
    else:
        raise ValueError(f"unknown op {operation!r}")


def _walk(root: dict[str, Any], path: str) -> tuple[Any, str]:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
    here: Any = root
    for part in parts[:-1]:
        here = _at(here, part)
    return here, parts[-1]


def _at(parent: Any, key: str) -> Any:
    return parent[int(key)] if isinstance(parent, list) else parent[key]


def _put(root: dict[str, Any], path: str, value: Any, *, add: bool) -> None:
    parent, key = _walk(root, path)
    if not isinstance(parent, list):
        if not add:
            _at(parent, key)
        parent[key] = value
    elif add:
        parent.insert(len(parent) if key == "-" else int(key), value)
    else:
        parent[int(key)] = value


def _remove(parent: Any, key: str) -> None:
    remove: Callable[[Any], Any] = parent.pop
    remove(int(key) if isinstance(parent, list) else key)

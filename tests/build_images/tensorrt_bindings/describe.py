"""Imports one module and prints what it offers as JSON. Run as a script, in a process of its own.

`{name: {"attributes": [...], "settable": [...], "members": [...], "methods": [...]}}` for every
class and value of the module, nested classes under their dotted names; the module itself is "". Settable are the
properties that take a value; members are the attributes that are instances of their own class, as those of an
enumeration are; methods are the signatures of a class's methods, which the bindings write into their docstrings.
"""

import importlib
import json
import sys
from types import ModuleType
from typing import Any


def describe(module: Any) -> dict[str, dict[str, list[str]]]:
    """Walk the module and its nested classes."""
    found = {"": {"attributes": sorted(dir(module)), "settable": [], "members": [], "methods": []}}
    waiting = [(name, getattr(module, name)) for name in dir(module) if not name.startswith("_")]
    waiting = [(name, value) for name, value in waiting if not isinstance(value, ModuleType)]
    while waiting:
        name, value = waiting.pop()
        members = {one: getattr(value, one, None) for one in sorted(dir(value))}
        is_class = isinstance(value, type)
        found[name] = {
            "attributes": list(members),
            "settable": [one for one, it in members.items() if isinstance(it, property) and it.fset],
            "members": [one for one, it in members.items() if type(it) is value],
            "methods": signatures(members) if is_class else [],
        }
        if is_class:
            waiting += [
                (f"{name}.{one}", it)
                for one, it in members.items()
                if isinstance(it, type) and not one.startswith("_")
            ]
    return found


def signatures(members: dict[str, Any]) -> list[str]:
    """`name(self: …, argument: type) -> type` of each public method."""
    told = {name: (it.__doc__ or "").strip() for name, it in members.items() if callable(it)}
    return [
        text.splitlines()[0] for name, text in told.items() if name[0] != "_" and text.startswith(f"{name}(")
    ]


if __name__ == "__main__":
    folder, name = sys.argv[1:]
    sys.path.insert(0, folder)
    json.dump(describe(importlib.import_module(name)), sys.stdout)

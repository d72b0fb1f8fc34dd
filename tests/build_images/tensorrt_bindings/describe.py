"""Imports one module and prints what it offers as JSON. Run as a script, in a process of its own.

`{name: {"attributes": [...], "settable": [...], "members": [...]}}` for every class and value of the module, nested
classes under their dotted names; the module itself is "". Settable are the properties that take a value; members are
the attributes that are instances of their own class, as those of an enumeration are.
"""

import importlib
import json
import sys
from types import ModuleType
from typing import Any


def describe(module: Any) -> dict[str, dict[str, list[str]]]:
    """Walk the module and its nested classes."""
    found = {"": {"attributes": sorted(dir(module)), "settable": [], "members": []}}
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
        }
        if is_class:
            waiting += [
                (f"{name}.{one}", it)
                for one, it in members.items()
                if isinstance(it, type) and not one.startswith("_")
            ]
    return found


if __name__ == "__main__":
    folder, name = sys.argv[1:]
    sys.path.insert(0, folder)
    json.dump(describe(importlib.import_module(name)), sys.stdout)

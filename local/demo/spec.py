"""The demo's release spec as it is committed, and what a run changes of it. Pure but for reading the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local.stack.programs import REPO, Layout, sluice_env
from sluice.release import Params
from sluice.spec import ReleaseSpec, parse_spec

SERVICE = "minilm"


def shipped(layout: Layout) -> ReleaseSpec:
    """`dags/models/minilm.yaml` as Airflow reads it on this stack."""
    text = (REPO / "dags" / "models" / f"{SERVICE}.yaml").read_text(encoding="utf-8")
    return parse_spec(text, sluice_env(layout))


def changes(spec: ReleaseSpec, conf: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What a run with the form `conf` plays differently: path in the spec -> [as committed, as played]."""
    return differences(spec.to_dict(), Params(**conf).apply(spec).to_dict())


def differences(one: Any, other: Any, path: str = "") -> dict[str, list[Any]]:
    """Every value that differs by its dotted path; a list of another length, or of another kind, differs as a whole."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = [(key, one.get(key), other.get(key)) for key in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(index, *both) for index, both in enumerate(zip(one, other, strict=True))]
    else:
        return {} if one == other else {path: [one, other]}
    found: dict[str, list[Any]] = {}
    for key, mine, theirs in pairs:
        found |= differences(mine, theirs, f"{path}.{key}" if path else str(key))
    return found

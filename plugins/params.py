"""The form of a run: what a person may set when triggering, and how it reaches the release.

Invariant: every field may stay empty and then means "as the spec says"; a value that does not fit is refused when
the run is triggered (400, by JSON schema), and what the schema cannot know is refused by `resolve`, before a rollout
begins. So is a name that is no field: Airflow takes any name, and a reason nobody reads would pass for one given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import Param

from sluice.errors import ParamsError, Problem
from sluice.release import Params
from sluice.spec import ReleaseSpec
from sluice.spec_types import PRECISIONS

TRAFFIC: Final = "Traffic"
SERVER: Final = "Model server"
NOT_OURS: Final = frozenset({"openlineage"})  # TriggerDagRunOperator adds it to whatever run it triggers


def form(spec: ReleaseSpec) -> dict[str, Param]:
    """The trigger form of this service."""
    return {**_what(spec), **_traffic(spec), **_server(spec)}


def from_form(values: Mapping[str, Any]) -> Params:
    """The filled form as `Params`; empty means None. Raises ParamsError with every wrong and every unknown field."""
    given = {name: value for name, value in values.items() if name not in NOT_OURS}
    unknown = tuple(_unknown(name, value) for name, value in given.items() if name not in Params.model_fields)
    known = {name: given.get(name) for name in Params.model_fields}
    if isinstance(known["review"], list):  # the form offers text: "50" is the stage of 50 %
        known["review"] = [int(point) if str(point).isdecimal() else point for point in known["review"]]
    try:
        params = Params(**{name: value for name, value in known.items() if value not in (None, "", {})})
    except ParamsError as error:
        raise ParamsError((*unknown, *error.problems)) from None
    if unknown:
        raise ParamsError(unknown)
    return params


def _unknown(name: str, value: Any) -> Problem:
    return Problem(name, value, f"no such param; there are {', '.join(Params.model_fields)}")


def _what(spec: ReleaseSpec) -> dict[str, Param]:
    return {
        "checkpoint": Param(
            None,
            type=["null", "string"],
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
            title="Checkpoint",
            description=f"Folder below {spec.model.source}. Empty: the newest (the greatest name).",
        ),
        "precisions": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "enum": list(PRECISIONS)},
            uniqueItems=True,
            minItems=1,
            examples=list(PRECISIONS),
            title="Precisions",
            description=f"Candidates to build and measure. Empty: {', '.join(spec.precisions)}.",
        ),
        "retry_reason": Param(
            None,
            type=["null", "string"],
            maxLength=2000,
            title="Reason to try again",
            description="Needed when this very release was turned back before; the earlier evidence still counts.",
        ),
    }


def _traffic(spec: ReleaseSpec) -> dict[str, Param]:
    dwell = ", ".join(f"{stage.dwell_s:g} s at {stage.percent} %" for stage in spec.stages)
    points = [str(point) for point in spec.review.before]
    return {
        "dwell_s": Param(
            None,
            type=["null", "number"],
            minimum=0,
            maximum=30 * 86_400,
            title="Least seconds per stage",
            description=f"Empty: {dwell}. The evidence that each stage needs stays the same.",
            section=TRAFFIC,
        ),
        "review": Param(
            None,
            type=["null", "array"],
            items={"enum": [*spec.review.before, *points]},
            uniqueItems=True,
            examples=points,
            title="Reviews",
            description=f"Ask a person before these only. Empty: {', '.join(points) or 'nobody is asked'}.",
            section=TRAFFIC,
        ),
    }


def _server(spec: ReleaseSpec) -> dict[str, Param]:
    return {
        "server_command": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "minLength": 1},
            minItems=1,
            title="Server command",
            description=f"One word a line. Empty: {' '.join(spec.server.command)}.",
            section=SERVER,
        ),
        "server_env": Param(
            None,
            type=["null", "object"],
            additionalProperties={"type": "string"},
            title="Server environment",
            description="Laid over the spec's: a JSON object of strings.",
            section=SERVER,
        ),
    }

"""The rollout's rules as they came from the release spec: checked once at begin, stored, asked for ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.control.http import invalid
from serving.control.problems import ControlProblem
from sluice.errors import PolicyError
from sluice.spec_policy import Policy


def parse_policy(raw: Mapping[str, Any]) -> Policy:
    """Check a policy. Raises ControlProblem 422 with every problem by path (`policy.stages.2.percent`)."""
    try:
        return Policy.from_json(raw)
    except PolicyError as error:
        problems = [
            {"path": f"policy.{p.path}".rstrip("."), "value": p.value, "message": p.message}
            for p in error.problems
        ]
        raise invalid(problems) from error


def refuse_blind_retry(policy: Policy) -> None:
    """A second try must show no harm before its last stage. Raises ControlProblem 422 when nothing comes before it."""
    if len(policy.stages) == 1:
        percent = policy.stages[0].percent
        message = (
            f"this release was turned back before, so it must show no harm before {percent} %, and nothing is compared "
            "before the first stage: put a smaller stage before it"
        )
        raise invalid([{"path": "policy.stages.0.percent", "value": percent, "message": message}])


def unreadable_gates(policy: Policy) -> ControlProblem:
    """422: gates that nobody here could read would hold for ever, or be forgotten."""
    names = [gate.name for gate in policy.gates.absolute]
    message = "this controller was started without --prometheus and cannot read them: start it with, or take them out"
    return invalid([{"path": "policy.gates.absolute", "value": ", ".join(names), "message": message}])


def stricter(policy: Policy, *, tries: int) -> dict[str, Any]:
    """The policy as JSON, as it holds for a release that was turned back `tries` times (>= 0).

    It must not get a fresh chance of slipping through each time: its k-th try has beta / 2^(k-1), so that all tries
    together stay below 2 x beta, and has to show no harm before the last stage whatever the spec asks for. (With one
    stage alone, a first deployment's, there is nothing to compare with.)
    """
    plain = policy.to_dict()
    gates, last = plain["gates"], policy.stages[-1].percent
    gates["beta"] = policy.gates.beta / 2**tries
    if tries and len(policy.stages) > 1 and last not in gates["no_harm_before"]:
        gates["no_harm_before"] = [*gates["no_harm_before"], last]
    return plain

"""The rollout's rules as they came from the release spec: checked once at begin, stored, asked for ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.control.http import invalid
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


def strict_beta(policy: Policy, *, tries: int) -> dict[str, Any]:
    """The policy as JSON, with beta shared over the tries of one release.

    A release that was turned back and comes again must not get a fresh chance of slipping through each time: its
    k-th try has beta / 2^(k-1), so that all tries together stay below 2 x beta. tries: turned back so far, >= 0.
    """
    plain = policy.to_dict()
    plain["gates"]["beta"] = policy.gates.beta / 2**tries
    return plain

"""The part of a release spec that governs the rollout, as the controller gets it.

Problem: the controller must be able to close a rollout with everything else down, so it takes the whole policy
when the rollout begins and asks nobody afterwards. Invariant: a `Policy` holds the same rules as the spec it came
from (the checks are the same functions), and nothing of what is served.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from sluice.errors import PolicyError
from sluice.spec_checks import policy_problems
from sluice.spec_problems import CROSS, validated
from sluice.spec_types import (
    METRICS,
    AdoptUrl,
    Arch,
    Count,
    GateName,
    HeaderName,
    LabelName,
    Metric,
    MirrorPercent,
    Number,
    Once,
    Part,
    Percent,
    Positive,
    PromQl,
    Rate,
    RecorderUrl,
    ReviewPoint,
    Seconds,
    Share,
    Text,
    Timeout,
    UrlPrefix,
    Window,
)

DEFAULT_OBJECTIVES: Final = {"failure": 0.005, "slow": 0.05}


class Stage(Part):
    """One share of traffic. dwell_s: the least time before its gate may pass."""

    percent: Percent
    dwell_s: Seconds


DEFAULT_STAGES: Final = (
    Stage(percent=1, dwell_s=300),
    Stage(percent=5, dwell_s=300),
    Stage(percent=50, dwell_s=600),
    Stage(percent=100, dwell_s=3600),  # the watch
)


class AbsoluteGate(Part):
    """A limit on what PromQL says of the candidate.

    query: one number of one version. samples_query: how many samples it came from; fewer than min_samples are none.
    Both with the placeholders {version} and {window} (`60s`), {service} too; the one series that comes back carries
    the version in its label version_label. bad: the side of the limit that is a breach; the limit itself is none.
    window_s: what is read, at least 1. on_breach: observe tells, hold keeps the next stage shut, retreat is harm.
    """

    name: GateName
    query: PromQl
    limit: Number
    bad: Literal["above", "below"]
    window_s: Window
    min_samples: Count
    samples_query: PromQl
    on_breach: Literal["observe", "hold", "retreat"]
    version_label: LabelName = "version"


class Gates(Part):
    """What a stage must show before the next one opens.

    alpha: the chance that a whole rollout of a harmless version is turned back. beta: the chance that a version
    rho0 times worse is let through. objectives: the rate of users with an event, by metric, that a version may
    have. settle_s: after a stage opens, events are shown and not counted for so long. absolute: beside all that, and
    outside of alpha and beta: a limit is what it says.
    """

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1), Once] = METRICS
    alpha: Rate = 0.01
    beta: Rate = 0.01
    rho0: Annotated[Positive, Field(gt=1)] = 2.0
    no_harm_before: Annotated[tuple[Percent, ...], Once] = (100,)
    objectives: dict[str, Rate] = Field(default_factory=lambda: dict(DEFAULT_OBJECTIVES))
    settle_s: Seconds = 5
    max_hold_s: Timeout = 86_400
    absolute: tuple[AbsoluteGate, ...] = ()

    @model_serializer(mode="wrap")
    def _said(self, plainly: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a list that says nothing: a controller that does not know it yet can read the rest."""
        plain: dict[str, Any] = plainly(self)
        return {name: value for name, value in plain.items() if name != "absolute" or value}

    @model_validator(mode="before")
    @classmethod
    def _default_objectives(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("objectives"), Mapping):
            return {**data, "objectives": {**DEFAULT_OBJECTIVES, **data["objectives"]}}
        return data


class Review(Part):
    """Where a person is asked. before: `deploy` and/or percents of stages."""

    before: Annotated[tuple[ReviewPoint, ...], Once] = ()
    timeout_s: Timeout = 86_400
    assigned_users: Annotated[tuple[Text, ...], Once] = ()


class Lease(Part):
    """What follows when nobody renews the rollout for ttl_s seconds."""

    ttl_s: Timeout = 1800
    then: Literal["hold", "retreat"] = "hold"


class GatewayLost(Part):
    """A gateway cut off from every controller for ttl_s seconds serves stable alone."""

    ttl_s: Timeout = 600


class FirstDeployment(Part):
    """adopt: an existing upstream to roll out against when there is no stable version yet."""

    adopt: AdoptUrl | None = None


class Traffic(Part):
    """Which requests are the service's, and which header tells users apart. timeout_s: of one request."""

    prefix: UrlPrefix
    uid_header: HeaderName = "x-user-id"
    timeout_s: Timeout = 10


class Mirror(Part):
    """How much of the service's traffic is copied to a recorder. percent: of its requests, from 0.0001 to 100."""

    percent: MirrorPercent
    recorder: RecorderUrl


class PolicyTarget(Part):
    """One architecture's part of the hash line, and its replicas at 100 %."""

    arch: Arch
    share: Share
    replicas: Count


class Policy(Part):
    """Everything the controller needs to know about a rollout's rules."""

    stages: tuple[Stage, ...] = Field(default=DEFAULT_STAGES, min_length=1)
    gates: Gates = Gates()
    traffic: Traffic
    lease: Lease = Lease()
    gateway_lost: GatewayLost = GatewayLost()
    targets: Annotated[tuple[PolicyTarget, ...], Field(min_length=1)]
    first_deployment: FirstDeployment = FirstDeployment()
    review: Review = Review()
    recording: Mirror | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems = tuple(policy_problems(self.model_dump(mode="json")))
        if problems:
            raise PydanticCustomError(CROSS, "{text}", {"text": " | ".join(map(str, problems))})
        return self

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read what `ReleaseSpec.policy()` made. Raises PolicyError with every problem in it."""
        try:
            raw = json.loads(data) if isinstance(data, str | bytes) else dict(data)
        except ValueError as error:
            raise PolicyError.of(f"no JSON: {error}") from error
        return validated(cls, raw, policy_problems, PolicyError)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back to an equal policy."""
        return without_recording(self.model_dump(mode="json"))


def without_recording(policy: dict[str, Any]) -> dict[str, Any]:
    """The same without a section that says nothing: a controller that does not know it yet can read the rest."""
    return {name: value for name, value in policy.items() if name != "recording" or value is not None}

"""The shapes of the REST contract: what a caller sends and what it gets back.

Requests forbid unknown fields, so that a misspelt one is an error that names it and never a default that nobody
asked for. Times are ISO-8601 UTC with microseconds. Shares are percents in [0, 100].
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Digest = Annotated[str, Field(pattern=r"^[A-Za-z0-9:._-]{1,80}$")]
Version = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
Arch = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?$")]
Epoch = Annotated[int, Field(ge=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BeginRequest(_Request):
    service: Name
    release_digest: Digest
    run_id: Annotated[str, Field(min_length=1, max_length=250)]
    policy: dict[str, Any]
    retry_reason: Text | None = None
    on_active: Literal["refuse", "wait", "supersede"] = "refuse"


class StaticEndpoint(_Request):
    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65_535)]


class Workload(_Request):
    """Where one architecture of a version runs: a Kubernetes Deployment (and the Service of the same name), or
    a fixed list of endpoints, for fleets that something else than Kubernetes runs."""

    arch: Arch
    deployment: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?$")] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    endpoints: Annotated[list[StaticEndpoint], Field(min_length=1, max_length=1_000)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Workload:
        if (self.deployment is None) == (self.endpoints is None):
            raise ValueError("name either a deployment (with its port) or a list of endpoints")
        if self.deployment is not None and self.port is None:
            raise ValueError("a deployment needs the port that its pods listen on")
        return self


class CandidateRequest(_Request):
    epoch: Epoch
    version: Version
    signature: dict[str, Any]
    workloads: Annotated[list[Workload], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _one_an_arch(self) -> CandidateRequest:
        archs = [workload.arch for workload in self.workloads]
        if len(set(archs)) != len(archs):
            raise ValueError(f"an architecture is named twice: {sorted(archs)}")
        return self


class OpenRequest(_Request):
    epoch: Epoch
    stage: Annotated[int, Field(ge=0, le=99)]


class RetreatRequest(_Request):
    reason: Text
    by: Text
    outcome: Literal["turned_back", "rejected", "cancelled", "abandoned"]


class HoldRequest(_Request):
    epoch: Epoch
    reason: Text
    by: Text


class EpochRequest(_Request):
    epoch: Epoch


class VerdictView(BaseModel):
    action: Literal["pass", "harm", "hold"]
    reason: str
    at: str
    stage: int  # -1: none is open
    epoch: int
    numbers: dict[str, Any]
    forecast_s: float | None = None


class HeldView(BaseModel):
    since: str
    reason: str
    by: str


class OpenedView(BaseModel):
    stage: int
    percent: float
    at: str
    acked_at: str | None


class RolloutView(BaseModel):
    id: str
    service: str
    epoch: int
    state: str
    stage: int | None
    percent: float
    salt: str
    held: HeldView | None
    candidate: dict[str, Any] | None
    stable: dict[str, Any] | None
    release_digest: str
    run_id: str
    policy: dict[str, Any]
    verdict: VerdictView | None
    opened: list[OpenedView]
    exposed: dict[str, Any] | None
    zero_acked_at: str | None
    reason: str | None
    retry_reason: str | None
    earlier: dict[str, Any] | None
    first_deployment: bool
    lease_until: str | None
    started_at: str
    ended_at: str | None


class EvidenceView(BaseModel):
    verdict: VerdictView | None
    evidence: dict[str, Any] | None
    live: dict[str, dict[str, Any]]
    exposed: dict[str, Any] | None


class GatewayView(BaseModel):
    node: str
    connected: bool
    acknowledged: str | None
    wanted: str | None
    last_report: str | None
    error: str | None


class SliceView(BaseModel):
    cluster: str
    version: str
    arch: str
    side: Literal["candidate", "stable"]
    start: int
    weight: int


class ServiceView(BaseModel):
    service: str
    salt: str
    stable: dict[str, Any] | None
    rollout: RolloutView | None
    gateways: list[GatewayView]
    line: list[SliceView]


class DecisionView(BaseModel):
    id: int
    at: str
    rollout: str
    service: str
    epoch: int
    action: str
    from_state: str | None
    to_state: str
    stage: int | None
    by: str
    reason: str | None
    verdict: VerdictView | None


class ErrorBody(BaseModel):
    model_config = ConfigDict(extra="allow")
    code: str
    message: str
    next_step: str


class ErrorView(BaseModel):
    error: ErrorBody


class HealthView(BaseModel):
    ok: bool
    ledger: str
    gateways: int

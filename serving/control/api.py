"""The REST contract of the controller: routes and shapes, no rules. See docs/architecture.md.

Everything under /v1 needs the bearer token; /healthz, /metrics, /openapi.json and /docs do not. Every answer that
is not a success has the shape of `ErrorView`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.control import views
from serving.control.beginning import RolloutBeginner
from serving.control.guard import Guard
from serving.control.http import BodyLimit, install_errors, token_check
from serving.control.ledger import find_active
from serving.control.models import (
    BeginRequest,
    CandidateRequest,
    DecisionView,
    EpochRequest,
    ErrorView,
    EvidenceView,
    GatewayView,
    HealthView,
    HoldRequest,
    OpenRequest,
    RetreatRequest,
    RolloutView,
    ServiceView,
)
from serving.control.opening import StageOpener
from serving.control.problems import not_found
from serving.control.rollouts import Parts, Rollouts

_SAID: Final = {
    401: "no token, or another one",
    404: "no such rollout or service",
    409: "refused as things stand; `code` says why",
    413: "the body is too large",
    422: "a field is wrong; `problems` names each",
    503: "cannot be done now; repeat after Retry-After",
}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorView, "description": said} for status, said in _SAID.items()
}


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Everything that a route may call."""

    parts: Parts
    rollouts: Rollouts
    beginner: RolloutBeginner
    opener: StageOpener
    guard: Guard
    registry: CollectorRegistry


def make_app(commands: Commands, *, token: str, lifespan: Callable[[FastAPI], Any] | None = None) -> FastAPI:
    """The ASGI application. Raises ValueError for an empty token: an open door is no default."""
    if not token:
        raise ValueError("the token is empty; write a secret into --token-file")
    app = FastAPI(title="Sluice rollout controller", version="1", lifespan=lifespan, redoc_url=None)
    install_errors(app)
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(token_check(token))], responses=ERRORS)
    _add_writes(guarded, commands)
    _add_moves(guarded, commands)
    _add_reads(guarded, commands)
    app.include_router(guarded)
    _add_open(app, commands)
    app.add_middleware(BodyLimit)
    return app


def _add_writes(api: APIRouter, commands: Commands) -> None:
    rollouts = commands.rollouts

    @api.post(
        "/rollouts", status_code=201, response_model=RolloutView, responses={200: {"model": RolloutView}}
    )
    async def begin(request: BeginRequest, response: Response) -> RolloutView:
        """Begin a rollout. 200 instead of 201: this run_id has begun it before."""
        head, new = await commands.beginner.begin(request)
        response.status_code = 201 if new else 200
        return views.rollout(head)

    @api.post("/rollouts/{rollout}/candidate")
    async def candidate(rollout: str, request: CandidateRequest) -> RolloutView:
        """Say which version the candidate is and where it runs."""
        return views.rollout(await rollouts.candidate(rollout, request))

    @api.post("/rollouts/{rollout}/open")
    async def open_stage(rollout: str, request: OpenRequest) -> RolloutView:
        """Open a stage; 200 once every gateway acknowledged it."""
        return views.rollout(await commands.opener.open(rollout, request))

    @api.post("/rollouts/{rollout}/promote")
    async def promote(rollout: str, request: EpochRequest) -> RolloutView:
        """Make the candidate stable; needs a fresh pass at 100 %."""
        return views.rollout(await rollouts.promote(rollout, request.epoch))


def _add_moves(api: APIRouter, commands: Commands) -> None:
    rollouts = commands.rollouts

    @api.post("/rollouts/{rollout}/retreat")
    async def retreat(rollout: str, request: RetreatRequest) -> RolloutView:
        """Take all traffic from the candidate and end the rollout. Needs no epoch, may be repeated."""
        return views.rollout(await rollouts.retreat(rollout, request))

    @api.post("/rollouts/{rollout}/hold")
    async def hold(rollout: str, request: HoldRequest) -> RolloutView:
        """Stop the rollout from going on; traffic stays where it is."""
        return views.rollout(await rollouts.hold(rollout, request))

    @api.post("/rollouts/{rollout}/resume")
    async def resume(rollout: str, request: HoldRequest) -> RolloutView:
        """Lift a hold."""
        return views.rollout(await rollouts.resume(rollout, request))

    @api.post("/rollouts/{rollout}/lease")
    async def lease(rollout: str, request: EpochRequest) -> RolloutView:
        """The run is alive."""
        return views.rollout(await rollouts.lease(rollout, request.epoch))


def _add_reads(api: APIRouter, commands: Commands) -> None:
    parts, rollouts = commands.parts, commands.rollouts

    @api.get("/rollouts/{rollout}")
    async def get_rollout(rollout: str) -> RolloutView:
        """One rollout as the ledger has it."""
        return views.rollout(rollouts.get(rollout))

    @api.get("/rollouts/{rollout}/evidence")
    async def evidence(rollout: str) -> EvidenceView:
        """What the open stage has shown so far, and both versions as they are now."""
        return EvidenceView(**parts.evidence.view(rollouts.get(rollout)))

    @api.get("/services")
    async def services() -> list[ServiceView]:
        """Every service that had a rollout."""
        return [_service(parts, row.service) for row in parts.ledger.services()]

    @api.get("/services/{service}")
    async def one_service(service: str) -> ServiceView:
        """One service: stable, the rollout in progress, the hash line, the gateways."""
        return _service(parts, service)

    @api.get("/decisions")
    async def decisions(
        service: Annotated[str | None, Query(max_length=40)] = None,
        rollout: Annotated[str | None, Query(max_length=80)] = None,
    ) -> list[DecisionView]:
        """The ledger, oldest first."""
        return [views.decision(row) for row in parts.ledger.decisions(service=service, rollout=rollout)]

    @api.get("/gateways")
    async def gateways() -> list[GatewayView]:
        """Every gateway: what it has acknowledged and what it should."""
        return [views.gateway(status) for status in parts.world.plane.status()]


def _service(parts: Parts, service: str) -> ServiceView:
    standing = next((s for s in parts.world.standings() if s.service == service), None)
    if standing is None:
        raise not_found("service", service, "/v1/services")
    with parts.ledger.read() as session:
        active = find_active(session, service)
    traffic = parts.world.traffic(service)
    return ServiceView(
        service=service,
        salt=standing.salt,
        stable=None if standing.stable is None else dict(standing.stable),
        rollout=None if active is None else views.rollout(active),
        gateways=[views.gateway(status) for status in parts.world.plane.status()],
        line=views.line(traffic),
    )


def _add_open(app: FastAPI, commands: Commands) -> None:
    @app.get("/healthz", responses={503: ERRORS[503]})
    async def healthz() -> HealthView:
        """200 while the ledger can be read and the guard runs."""
        return views.health(commands.parts, commands.guard)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(commands.registry), media_type=CONTENT_TYPE_LATEST)

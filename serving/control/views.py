"""From the controller's own objects to the shapes of the contract. No rules, no I/O beyond a health read."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from serving.control.guard import TICK_S, Guard
from serving.control.ledger import DecisionRow, Head
from serving.control.models import (
    DecisionView,
    GatewayView,
    HealthView,
    RolloutView,
    SliceView,
)
from serving.control.problems import ControlProblem
from serving.control.rollouts import Parts
from serving.control.xds.interface import GatewayStatus, ServiceTraffic

GUARD_LATE_S: Final = 40 * TICK_S  # a guard silent for so long is not guarding


def rollout(head: Head) -> RolloutView:
    plain = asdict(head)
    del plain["counter"]
    return RolloutView(**plain, percent=head.percent)


def decision(row: DecisionRow) -> DecisionView:
    return DecisionView(**{name: getattr(row, name) for name in DecisionView.model_fields})


def gateway(status: GatewayStatus) -> GatewayView:
    """Versions of the four kinds of resources as one text each, so that two of them can be compared by eye."""
    heard = [at for at in (status.last_log_s, status.last_stats_s) if at is not None]
    return GatewayView(
        node=status.node,
        connected=status.connected,
        acknowledged=_versions(dict(status.acked)),
        wanted=_versions(dict(status.wanted)),
        last_report=datetime.fromtimestamp(max(heard), UTC).isoformat(timespec="microseconds")
        if heard
        else None,
        error=status.nack,
    )


def _versions(by_kind: dict[str, Any]) -> str | None:
    return " ".join(f"{kind}={version}" for kind, version in sorted(by_kind.items())) or None


def line(traffic: ServiceTraffic | None) -> list[SliceView]:
    """The hash line as pushed: slices with their first bucket and their width in buckets."""
    out: list[SliceView] = []
    start = 0
    for piece in () if traffic is None else traffic.line:
        out.append(
            SliceView(
                cluster=piece.cluster,
                version=piece.version,
                arch=piece.arch,
                side=piece.side,
                start=start,
                weight=piece.weight,
            )
        )
        start += piece.weight
    return out


def health(parts: Parts, guard: Guard) -> HealthView:
    """Raises ControlProblem 503 when the guard does not run; sqlalchemy's errors when the ledger is away."""
    parts.ledger.services()
    late = guard.last_tick is None or (parts.now() - guard.last_tick).total_seconds() > GUARD_LATE_S
    if late:
        message = f"the guard's last pass was at {guard.last_tick}"
        raise ControlProblem(503, "guard", message, "restart the controller", retry_after_s=2)
    return HealthView(
        ok=True, ledger="readable", gateways=sum(s.connected for s in parts.world.plane.status())
    )

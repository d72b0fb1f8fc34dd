"""From the ledger to what the gateways route: pure, the same rows always give the same traffic.

Invariants: the candidate's weight is that of the stage in the ledger while the rollout runs, and 0 in every other
case, so that an ended rollout cannot keep traffic. While there is a stable version, a rollout changes nothing for the
users outside its stage: path, user header, timeout, time to live and what is recorded are those that stable was
promoted with, and the architectures' shares are the rollout's own only from its first opening to its end.
A retreat is at first a change of weights alone (`lowering`): the slices stay on the line with weight 0 until the next
rollout begins; the label by which testers reach the candidate, and its shares, go when the weights have gone.
An architecture for which a version has no workload is served by the version's first one; who is on which part of
the line never depends on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from serving.control.capacity import Address
from serving.control.ledger import Head
from serving.control.workloads import workload_for
from serving.control.xds.interface import Endpoint, Mirror, ServiceTraffic, Slice
from sluice.hashline import CANDIDATE, STABLE, HashLine, Side
from sluice.stages import State

NOBODY: Final = "none"  # version name of the stable side before there is one: its clusters answer 503
Addresses = Callable[[Mapping[str, Any]], tuple[Address, ...]]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What of a service's traffic is seen by the evidence."""

    slow_floor_ms: float | None = None
    sample_fraction: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A service in the ledger: its row and its newest rollout (None before the first).

    policy: of the stable version; before there is one, of the service's first rollout.
    """

    service: str
    salt: str
    policy: Mapping[str, Any]
    stable: Mapping[str, Any] | None
    head: Head | None
    closed: bool = False  # the candidate must have no traffic, although the ledger could not be told yet
    lowering: bool = False  # its weights are on their way to 0; nothing else may change before they are there

    @property
    def rollout_runs(self) -> bool:
        """Whether a stage is open."""
        return self.head is not None and self.head.state == State.RUNNING and not self.closed

    @property
    def labelled(self) -> bool:
        """Whether testers may reach the candidate by its label."""
        return self.lowering or (self.head is not None and self.head.active and not self.closed)


def hash_line(standing: Standing) -> HashLine:
    """Who is where on the line now."""
    head = standing.head
    policy = routing_policy(standing.stable, standing.policy, head)
    if head is not None and head.opened and (standing.rollout_runs or standing.lowering):
        policy = head.policy
    percent = head.percent if head is not None and standing.rollout_runs else 0
    return HashLine.build({target["arch"]: target["share"] for target in policy["targets"]}, percent)


def routing_policy(
    stable: Mapping[str, Any] | None, policy: Mapping[str, Any], head: Head | None
) -> Mapping[str, Any]:
    """Whose `traffic` and `gateway_lost` hold: stable's `policy`; without a stable version the newest rollout's."""
    return policy if stable is not None or head is None else head.policy


def cluster_name(service: str, version: str, arch: str) -> str:
    """Unique over all services: no service name holds an underscore."""
    return f"{service}_v{version}_{arch}"


def service_traffic(standing: Standing, addresses: Addresses, sight: Sight) -> ServiceTraffic | None:
    """The routing of one service; None when nothing could answer for it yet (no stable, no candidate)."""
    candidate = _candidate(standing)
    if standing.stable is None and candidate is None:
        return None
    policy, line = routing_policy(standing.stable, standing.policy, standing.head), hash_line(standing)
    straight = standing.stable is None and line.share == 1
    versions = _sides(standing, candidate, straight=straight)
    pieces: list[Slice] = []
    endpoints: dict[str, tuple[Endpoint, ...]] = {}
    for part in line.slices:
        version = versions[part.side]
        if version is None:
            continue
        cluster = cluster_name(standing.service, version["version"], part.arch)
        endpoints[cluster] = _endpoints(version, part.arch, addresses)
        side: Side = STABLE if straight else part.side
        pieces.append(
            Slice(arch=part.arch, side=side, version=version["version"], cluster=cluster, weight=part.weight)
        )
    labels = _labels(standing, pieces, candidate, line.archs[0])
    if candidate is not None and (label := labels.get(candidate["version"])) is not None:
        endpoints.setdefault(label, _endpoints(candidate, line.archs[0], addresses))
    return ServiceTraffic(
        service=standing.service,
        prefix=policy["traffic"]["prefix"],
        uid_header=policy["traffic"]["uid_header"],
        salt=standing.salt,
        timeout_s=policy["traffic"]["timeout_s"],
        line=tuple(pieces),
        endpoints=endpoints,
        labels=labels,
        stable_fallback=_fallback(pieces, line),
        gateway_ttl_s=policy["gateway_lost"]["ttl_s"],
        slow_floor_ms=sight.slow_floor_ms,
        sample_fraction=sight.sample_fraction,
        mirror=_mirror(policy),
    )


def _mirror(policy: Mapping[str, Any]) -> Mirror | None:
    """None as well for a policy that was stored before there were recorders."""
    recording = policy.get("recording")
    if recording is None:
        return None
    url = urlsplit(recording["recorder"])
    return Mirror(
        percent=recording["percent"], recorder=Endpoint(host=url.hostname or "", port=url.port or 80)
    )


def _candidate(standing: Standing) -> Mapping[str, Any] | None:
    head = standing.head
    return None if head is None or head.state == State.PROMOTED else head.candidate


def _sides(
    standing: Standing, candidate: Mapping[str, Any] | None, *, straight: bool
) -> Mapping[Side, Mapping[str, Any] | None]:
    """Which version each side's slices belong to; None for slices that are not made.

    Without a stable version the candidate is on the line only when it holds all of it.
    """
    if standing.stable is not None:
        return {CANDIDATE: candidate, STABLE: standing.stable}
    if straight:
        return {CANDIDATE: candidate, STABLE: None}
    return {CANDIDATE: None, STABLE: {"version": NOBODY}}


def _endpoints(version: Mapping[str, Any], arch: str, addresses: Addresses) -> tuple[Endpoint, ...]:
    if "upstream" in version:
        url = urlsplit(version["upstream"])
        return (Endpoint(host=url.hostname or "", port=url.port or 80),)
    workload = workload_for(version, arch)
    return () if workload is None else tuple(Endpoint(host=a.host, port=a.port) for a in addresses(workload))


def _labels(
    standing: Standing, pieces: list[Slice], candidate: Mapping[str, Any] | None, arch: str
) -> dict[str, str]:
    """Version -> the cluster of its first architecture, for testers who name a version; no dead candidate's."""
    labels: dict[str, str] = {}
    for piece in pieces:
        if piece.version != NOBODY:
            labels.setdefault(piece.version, piece.cluster)
    if candidate is not None and standing.labelled:
        labels.setdefault(candidate["version"], cluster_name(standing.service, candidate["version"], arch))
    elif candidate is not None:
        labels.pop(candidate["version"], None)
    return labels


def _fallback(pieces: list[Slice], line: HashLine) -> tuple[tuple[str, int], ...]:
    """Where requests without a uid go, and everybody when a gateway is cut off: stable, by architecture."""
    return tuple((piece.cluster, line.size(piece.arch)) for piece in pieces if piece.side == STABLE)

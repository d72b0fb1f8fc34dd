"""The rollout controller as a process.

Start: open the ledger, learn the addresses, hand the ledger's traffic to the gateways' server before it answers
anybody, go on counting from the snapshots, then guard, then serve. So after a crash the world is first made to
follow the ledger, and a gateway that connects never hears of anything older.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from serving.control.api import Commands, make_app
from serving.control.beginning import RolloutBeginner
from serving.control.book import SAMPLES_PER_S
from serving.control.capacity import Capacity
from serving.control.evidence import Evidence
from serving.control.gates import CHECK_WAIT_S, POLL_S, GateReader
from serving.control.guard import Guard
from serving.control.ledger import Ledger, find_latest
from serving.control.metrics import registry
from serving.control.opening import StageOpener
from serving.control.rollouts import ACK_WAIT_S, CAPACITY_WAIT_S, Parts, Rollouts, utc_now
from serving.control.traffic import routing_policy
from serving.control.world import World
from serving.control.xds.gateways import Gateways
from sluice.stages import State
from sluice.tally import Entry

LISTED_WAIT_S: Final = 5.0
GATEWAYS: Final = "gateways"  # snapshot key: names of the gateways that were here
ADDRESSES: Final = "addresses"  # snapshot key: the last known addresses, for a start without Kubernetes
EXIT_USAGE: Final = 2

_log = logging.getLogger("serving.control")


class Controller:
    """All parts of one controller, wired. Everything runs on the event loop that calls `start`."""

    def __init__(
        self,
        *,
        ledger: str,
        kubeconfig: Path | None,
        namespace: str,
        prometheus: str | None = None,
        samples_per_s: float = SAMPLES_PER_S,
        ack_wait_s: float = ACK_WAIT_S,
        capacity_wait_s: float = CAPACITY_WAIT_S,
        check_wait_s: float = CHECK_WAIT_S,
        gate_poll_s: float = POLL_S,
    ) -> None:
        self.ledger = Ledger(ledger)
        self.gates = GateReader(prometheus, ledger=self.ledger, now=utc_now, poll_s=gate_poll_s)
        self.plane = Gateways(on_entries=self._entries, on_gateways=self._gateways_changed)
        self.capacity = Capacity(
            kubeconfig=kubeconfig, namespace=namespace, on_change=self._addresses_changed
        )
        self.evidence = Evidence(
            ledger=self.ledger,
            capacity=self.capacity,
            plane=lambda: self.plane,
            now=utc_now,
            answers=self.gates.answers,
            samples_per_s=samples_per_s,
        )
        self.world = World(
            ledger=self.ledger, capacity=self.capacity, plane=self.plane, sight=self.evidence.sight
        )
        parts = Parts(
            ledger=self.ledger,
            world=self.world,
            evidence=self.evidence,
            capacity=self.capacity,
            gates=self.gates,
            ack_wait_s=ack_wait_s,
            capacity_wait_s=capacity_wait_s,
            check_wait_s=check_wait_s,
        )
        self.commands = _commands(parts)

    @asynccontextmanager
    async def running(self, host: str, xds_port: int) -> AsyncIterator[int]:
        """Start everything; yields the xDS port; stops everything in the reverse order."""
        async with AsyncExitStack() as stack:
            stack.callback(self.ledger.close)
            known = self.ledger.snapshot(ADDRESSES)
            self.capacity.seed(json.loads(known) if known else {})
            stack.push_async_callback(self.capacity.stop)
            await self.capacity.start()
            if not await self.capacity.listed(LISTED_WAIT_S):
                _log.warning(
                    "Kubernetes does not answer (%s); using the last known addresses", self.capacity.error
                )
            self.repair()
            self._expect_gateways()
            stack.push_async_callback(self.world.stop)
            await self.world.start()
            stack.push_async_callback(self.plane.stop)
            port = await self.plane.start(host, xds_port)
            stack.push_async_callback(self.gates.stop)
            await self.gates.start()
            stack.push_async_callback(self.commands.guard.stop)
            await self.commands.guard.start()
            yield port
            self._save()

    def _save(self) -> None:
        try:
            self.evidence.save(force=True)
        except SQLAlchemyError:
            _log.exception("the counts cannot be saved; a restart goes on from the last copy")

    def _entries(self, entries: list[Entry]) -> None:
        self.evidence.on_entries(entries)

    def repair(self) -> None:
        """Go on counting for what the ledger says is running."""
        for head in self.ledger.heads(active=True):
            if head.state == State.RUNNING:
                self.evidence.restore(head)

    def _expect_gateways(self) -> None:
        """Wait for every gateway that was here before the restart while it may route a candidate's share."""
        known, ttl_s = self.ledger.snapshot(GATEWAYS), routed_for_s(self.ledger)
        if known and ttl_s is not None:
            self.plane.expect(json.loads(known), ttl_s)

    def _addresses_changed(self) -> None:
        self.world.kick()
        self._remember(ADDRESSES, self.capacity.to_json())

    def _gateways_changed(self, names: list[str]) -> None:
        self._remember(GATEWAYS, names)

    def _remember(self, key: str, value: Any) -> None:
        try:
            self.ledger.save_snapshots(utc_now().isoformat(), {key: json.dumps(value).encode()})
        except SQLAlchemyError:
            _log.exception("the %s cannot be saved; a restart would go on from the last copy", key)


def routed_for_s(ledger: Ledger) -> float | None:
    """The longest for which a gateway that nobody reaches may still route some candidate; None: none is routed."""
    found = []
    for service in ledger.services():
        with ledger.read() as session:
            head = find_latest(session, service.service)
        if head is not None and not head.settled:
            rules = routing_policy(service.stable, service.policy, head)
            found.append(float(rules["gateway_lost"]["ttl_s"]))
    return max(found, default=None)


def _commands(parts: Parts) -> Commands:
    rollouts = Rollouts(parts)
    guard = Guard(parts, rollouts)
    return Commands(
        parts=parts,
        rollouts=rollouts,
        beginner=RolloutBeginner(parts, rollouts),
        opener=StageOpener(parts, rollouts),
        guard=guard,
        registry=registry(parts, guard),
    )


async def serve(args: argparse.Namespace, token: str) -> None:
    """Run until SIGTERM or SIGINT."""
    controller = Controller(
        ledger=args.ledger,
        kubeconfig=args.kubeconfig,
        namespace=args.namespace,
        prometheus=args.prometheus,
        samples_per_s=args.samples_per_s,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with controller.running(args.host, args.xds_port) as xds_port:
            print(
                f"ready: rollout controller on http://{args.host}:{args.port}, xDS on {args.host}:{xds_port}"
            )
            sys.stdout.flush()
            yield

    app = make_app(controller.commands, token=token, lifespan=lifespan)
    config = uvicorn.Config(
        app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=3, lifespan="on"
    )
    await uvicorn.Server(config).serve()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        token = args.token_file.read_text().strip()
    except OSError as error:
        print(
            f"error: --token-file {args.token_file}: {error.strerror}; write a secret into it",
            file=sys.stderr,
        )
        return EXIT_USAGE
    if not token:
        print(f"error: --token-file {args.token_file} is empty; write a secret into it", file=sys.stderr)
        return EXIT_USAGE
    asyncio.run(serve(args, token))
    return 0


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write http://host:port")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.control", description="Sluice's rollout controller."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8640, help="REST API")
    parser.add_argument("--xds-port", type=int, default=8641, help="gateways connect here (gRPC)")
    parser.add_argument(
        "--ledger", required=True, help="SQLAlchemy URL, e.g. sqlite:////var/lib/sluice/ledger.db"
    )
    parser.add_argument("--token-file", type=Path, required=True, help="file that holds the bearer token")
    parser.add_argument("--kubeconfig", type=Path, default=None, help="without it: fixed endpoints only")
    parser.add_argument(
        "--namespace",
        default=os.environ.get("SLUICE_NAMESPACE", "default"),
        help="Kubernetes namespace of the workloads",
    )
    parser.add_argument(
        "--prometheus",
        type=_http_url,
        default=None,
        help="http://host:port that gates.absolute are read from; without it a rollout that has some is refused",
    )
    parser.add_argument(
        "--samples-per-s",
        type=float,
        default=SAMPLES_PER_S,
        help="requests of a service that its gateways log at most, events apart (more: faster gates, more load)",
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser

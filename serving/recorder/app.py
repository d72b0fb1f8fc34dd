"""The life of one recorder: read specs, go on with the day's files, bind, take copies, write, end.

Exit codes: 0 after SIGTERM or SIGINT, with everything written; 2 usage; 3 a spec, hook, salt or file that cannot be
used; 4 what a retry can mend: the address, the folder's lock, a disk that refused the last write. On 3 and 4 the last
line on stderr is `error: …` and names the next step.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import uvloop

from artifacts.recorded import RecordingError
from serving.recorder.days import DAYS_HELD, Days
from serving.recorder.intake import Intake, hook_of, sample_bytes
from serving.recorder.metrics import Metrics
from serving.recorder.secret import alone_in, salt_of
from serving.recorder.service import Recorded, Service
from serving.runtime.border import ended
from serving.runtime.connection import Connection
from serving.runtime.listening import bound
from serving.runtime.service import State
from sluice.errors import FatalError, RetryableError
from sluice.spec import ReleaseSpec, parse_spec

MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # as the model server's
MAX_CONNECTIONS: Final = 64  # each may hold one body; four gateways' worth of copies
BACKLOG: Final = 128


def main(argv: Sequence[str]) -> int:
    """Record until SIGTERM or SIGINT; the return value is the exit code."""
    args = _parser().parse_args(argv)
    os.umask(0o027)  # what clients sent is for the recorder's group at most
    return ended(lambda: _record(args))


def _record(args: argparse.Namespace) -> None:
    specs = [_spec(path) for path in args.spec]
    _distinct(specs)
    with alone_in(args.out):
        app = _App(args, specs, salt_of(args.salt_file or args.out / ".salt"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run())


class _Bounded(Connection):
    """A connection above the limit is closed before it is read: its copy is lost, its sender waits for nothing."""

    def __init__(self, service: Service, connections: set[Connection], max_body_bytes: int) -> None:
        super().__init__(service, connections, max_body_bytes)
        self._others = connections

    def connection_made(self, transport: Any) -> None:
        if len(self._others) >= MAX_CONNECTIONS:
            transport.abort()
            return
        super().connection_made(transport)


class _App:
    """One run, from the day's files to the last write."""

    def __init__(self, args: argparse.Namespace, specs: Sequence[ReleaseSpec], salt: str) -> None:
        self._args = args
        self._metrics = Metrics(spec.service for spec in specs)
        self._recorded = [self._record(spec, salt) for spec in specs]
        self._service = Service(self._recorded, self._metrics, _now)
        self._connections: set[Connection] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        for one in self._recorded:
            _resume(one.days, _now().date())
        listener = await self._listen()
        host, port = listener.sockets[0].getsockname()[:2]
        print(f"listening: http://{host}:{port}", flush=True)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._args.flush_s):
                    await self._stop.wait()
            if not self._stop.is_set():
                await self._write()
        self._service.state = State.DRAINING
        listener.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        await self._write()
        if self._service.trouble is not None:
            raise RetryableError(
                f"the last write failed: {self._service.trouble}", "make room, then start it again"
            )

    async def _write(self) -> None:
        """Every service's files; one that fails is tried again at the next write, and /healthz says so."""
        troubles = []
        for one in self._recorded:
            try:
                await self._write_one(one.days)
            except OSError as error:
                troubles.append(f"{one.days.service}: {error}")
                self._metrics.writes_failed.labels(one.days.service).inc()
                print(f"{one.days.service}: not written ({error})", file=sys.stderr, flush=True)
        self._service.trouble = "; ".join(troubles) or None

    async def _write_one(self, days: Days) -> None:
        for draft in days.drafts():
            path = await asyncio.to_thread(days.write, draft)
            days.wrote(draft, _now().date())
            self._metrics.written.labels(days.service).set_to_current_time()
            rows, seen = len(draft.recording.rows), draft.recording.seen
            self._metrics.kept.labels(days.service).set(rows)
            print(f"{days.service}: wrote {path.name}, {rows} distinct inputs of {seen} seen", flush=True)
        for gone in await asyncio.to_thread(days.clean, _now().date()):
            print(f"{days.service}: deleted {gone.name}, its days are over", flush=True)

    def _record(self, spec: ReleaseSpec, salt: str) -> Recorded:
        rules = spec.recording
        assert rules is not None  # noqa: S101 - `_spec` refused it
        days = Days(spec, self._args.out, salt)
        intake = Intake(spec, hook_of(rules.redact), self._metrics)
        largest = sample_bytes(spec.model.inputs, {name: axis.max for name, axis in spec.model.axes.items()})
        held = DAYS_HELD * 6 * rules.per_stratum * largest
        print(f"{spec.service}: at most {held / 2**20:.0f} MiB of samples in memory", flush=True)
        return Recorded(prefix=spec.traffic.prefix.rstrip("/"), intake=intake, days=days)

    async def _listen(self) -> asyncio.Server:
        args = self._args
        return await asyncio.get_running_loop().create_server(
            lambda: _Bounded(self._service, self._connections, args.max_body_bytes),
            sock=bound(args.host, args.port, backlog=BACKLOG),
            backlog=BACKLOG,
        )


def _resume(days: Days, today: date) -> None:
    """A file that no longer fits the spec costs what it held, and not the rest of the day."""
    try:
        rows = days.resume(today)
    except RecordingError as error:
        print(f"{error.message}; set aside as {days.set_aside(today)}", file=sys.stderr, flush=True)
        return
    if rows:
        print(f"{days.service}: goes on with today's file, {rows} distinct inputs", flush=True)


def _now() -> datetime:
    return datetime.now(UTC)


def _spec(path: Path) -> ReleaseSpec:
    try:
        spec = parse_spec(path.read_text(), os.environ)
    except OSError as error:
        raise FatalError(f"--spec {path} cannot be read ({error.strerror})", "name a release spec") from error
    if spec.recording is None or spec.recording.recorder is None:
        raise FatalError(
            f"--spec {path} has no recording.recorder, so nothing is copied to one",
            "write recording.percent and recording.recorder, or leave this spec out",
        )
    return spec


def _distinct(specs: Sequence[ReleaseSpec]) -> None:
    for field, values in (
        ("service", [spec.service for spec in specs]),
        ("traffic.prefix", [spec.traffic.prefix.rstrip("/") for spec in specs]),
    ):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise FatalError(f"--spec: two specs have {field} {twice[0]!r}", "name each service once")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.recorder",
        description="Keep a small, fair sample of the inputs that gateways mirror here, to calibrate on.",
    )
    parser.add_argument(
        "--spec", type=Path, action="append", required=True, help="release spec; again for another one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the files, one recorder each")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: this machine alone)")
    parser.add_argument("--port", type=_number(int, 0, 65_535), required=True, help="0: any free one")
    parser.add_argument(
        "--salt-file", type=Path, help="secret of this installation, made when missing (OUT/.salt)"
    )
    parser.add_argument(
        "--flush-s", type=_number(float, 0.05, 86_400), default=60.0, help="seconds between writes (60)"
    )
    parser.add_argument(
        "--max-body-bytes",
        type=_number(int, 1, 2**31),
        default=MAX_BODY_BYTES,
        help="of one request; 413 above",
    )
    return parser


def _number(kind: type[int] | type[float], low: float, high: float) -> Any:
    def convert(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high:  # phrased so that NaN fails
            raise argparse.ArgumentTypeError(f"got {text}, wanted {low} to {high}")
        return value

    return convert

"""The life of one model server process: check, bind, load, warm, serve, drain, exit.

Exit codes: 0 after a drain; 2 usage; 3 the engine does not fit or fails (a restart cannot mend it); 4 the address
cannot be bound (it can). On 3 and 4 the last line on stderr is `error: …` and names the next step.

Drain, in this order, because each step makes the next one safe: ready turns 503 (and every answer closes its
connection); the grace passes, in which those who watch ready stop sending; nothing more is accepted; what was
accepted is answered; exit.
"""

import argparse
import asyncio
import gc
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import uvloop

from serving.runtime.backend import BACKENDS
from serving.runtime.batcher import Batcher
from serving.runtime.border import ended
from serving.runtime.connection import Connection
from serving.runtime.device import usable_cpus
from serving.runtime.engine import Engine, open_engine
from serving.runtime.listening import bound
from serving.runtime.metrics import Metrics
from serving.runtime.service import Service, State
from serving.runtime.shapes import model_of

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
FINISH_S: Final = 20.0  # the longest the drain waits for accepted requests; Kubernetes kills after 30 s
POLL_S: Final = 0.02
BACKLOG: Final = 1024


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; the return value is the exit code."""
    started = monotonic()
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return ended(lambda: _serve(args, started))


def _serve(args: argparse.Namespace, started: float) -> None:
    engine = open_engine(args.engine)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(args, engine, started).run())


class _Server:
    """One run of the server, from the checked engine to the exit."""

    def __init__(self, args: argparse.Namespace, engine: Engine, started: float) -> None:
        self._args, self._engine, self._started = args, engine, started
        self._model = model_of(engine.manifest, name=args.model, version=args.version)
        self._connections: set[Connection] = set()

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        backend = BACKENDS[self._engine.manifest.backend]()
        metrics = Metrics(self._model)
        args = self._args
        batcher = Batcher(
            self._model, backend, metrics, max_queue=args.max_queue, max_delay_s=args.max_delay_ms / 1000
        )
        service = Service(self._model, batcher, metrics)
        listener = await self._listen(service)
        host, port = listener.sockets[0].getsockname()[:2]
        print(f"listening: http://{host}:{port}", flush=True)

        def load() -> None:
            backend.load(self._engine.path, self._model, args.threads)
            backend.warm(self._model.buckets(combined=not backend.exact))

        warmed = batcher.prepare(load)
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({warmed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if warmed.done():
            warmed.result()  # raises what load or warm raised
            self._announce(service)
            await stopped
        service.state = State.DRAINING
        await self._drain(listener)
        batcher.close()

    def _announce(self, service: Service) -> None:
        gc.collect()
        gc.freeze()  # the modules and the engine are for ever: no later collection walks over them
        service.state = State.READY
        model = self._model
        print(
            f"ready: {model.name} version {model.version} ({model.arch}, {model.precision}) "
            f"after {monotonic() - self._started:.2f} s",
            flush=True,
        )

    async def _listen(self, service: Service) -> asyncio.Server:
        args = self._args
        return await asyncio.get_running_loop().create_server(
            lambda: Connection(service, self._connections, args.max_body_bytes),
            sock=bound(args.host, args.port, backlog=BACKLOG),
            backlog=BACKLOG,
        )

    async def _drain(self, listener: asyncio.Server) -> None:
        await asyncio.sleep(self._args.drain_s)
        listener.close()
        deadline = monotonic() + FINISH_S
        while self._connections and monotonic() < deadline:
            for connection in tuple(self._connections):
                connection.close_if_idle()
            await asyncio.sleep(POLL_S)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.runtime", description="Serve one engine.")
    parser.add_argument("--engine", type=Path, required=True, help="folder with manifest.json and the engine")
    parser.add_argument("--model", required=True, help="name in the paths, /v2/models/MODEL")
    parser.add_argument("--version", required=True, help="version in the paths and metrics")
    parser.add_argument("--host", required=True, help="address to bind")
    parser.add_argument("--port", type=_number(int, 0, 65_535), required=True)
    parser.add_argument(
        "--threads", type=_number(int, 1, 1024), default=usable_cpus(), help="CPUs of one run"
    )
    parser.add_argument(
        "--max-delay-ms", type=_number(float, 0, 10_000), default=0.0, help="wait for more rows"
    )
    parser.add_argument("--max-queue", type=_number(int, 1, 1_000_000), default=512, help="then 429")
    parser.add_argument(
        "--max-body-bytes", type=_number(int, 1, 2**31), default=MAX_BODY_BYTES, help="then 413"
    )
    parser.add_argument(
        "--drain-s", type=_number(float, 0, 3600), default=2.0, help="503 on ready before closing"
    )
    return parser.parse_args(argv)


def _number(kind: type[int] | type[float], low: float, high: float):
    def convert(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high:  # phrased so that NaN fails
            raise argparse.ArgumentTypeError(f"got {text}, wanted {low} to {high}")
        return value

    return convert

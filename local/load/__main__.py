"""`python -m local.load --url … --samples FILE --journal FILE`: open-loop traffic until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from local.load.client import FLUSH_S, Load, bodies_of, run


async def serve(load: Load, samples: Path, journal: Path) -> None:
    bodies = bodies_of(samples)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    with journal.open("a", buffering=1 << 16) as out:

        async def flush() -> None:
            while not stop.is_set():
                out.flush()
                await asyncio.sleep(FLUSH_S)

        flusher = asyncio.create_task(flush())
        await run(load, bodies, out.write, stop)
        await flusher


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.load", description=__doc__)
    parser.add_argument("--url", required=True, help="the service's infer URL at the gateway")
    parser.add_argument("--uid-header", default="x-user-id", help="header that names the user")
    parser.add_argument("--samples", type=Path, required=True, help="JSON lines, one un-batched sample each")
    parser.add_argument("--journal", type=Path, required=True, help="file to append one line a request to")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second, Poisson")
    parser.add_argument("--users", type=int, default=20_000, help="size of the population")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    load = Load(
        url=args.url, uid_header=args.uid_header, rate_rps=args.rate, users=args.users, seed=args.seed
    )
    uvloop.run(serve(load, args.samples, args.journal))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m local.cluster`: serves one cluster until it is told to stop, and leaves no process behind."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from local.cluster import nodes
from local.cluster.api import Api
from local.cluster.cluster import Cluster
from local.cluster.container import Timing
from local.cluster.images import Images
from local.cluster.kubelet import Settings
from sluice.errors import EXIT_USAGE, FatalError, RetryableError, SluiceError

HOST = "127.0.0.1"


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.cluster", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of the API on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of logs, volumes and the list of processes"
    )
    parser.add_argument("--images", type=Path, required=True, help="JSON: image pattern -> path, cwd, env")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where to write the kubeconfig")
    parser.add_argument("--nodes", type=Path, help="JSON list of nodes; without it, this machine is one")
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME=DIR", help="a persistent volume claim"
    )
    parser.add_argument(
        "--back-off-s", type=float, default=1.0, help="first back-off of a restart, in seconds"
    )
    parser.add_argument("--back-off-cap-s", type=float, default=30.0, help="longest back-off, in seconds")
    return parser.parse_args(argv)


def claims(given: list[str]) -> dict[str, Path]:
    """Raises FatalError on an entry that is not NAME=DIR with an existing folder."""
    found = {}
    for entry in given:
        name, _, folder = entry.partition("=")
        if not name or not Path(folder).is_dir() or not folder:
            raise FatalError(
                f"--claim {entry!r} is not NAME=DIR with an existing folder", "create the folder first"
            )
        found[name] = Path(folder).resolve()
    return found


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Holds the state folder. RetryableError: another live cluster has it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"another local cluster runs on {state}"
            raise RetryableError(message, "stop it or give another --state") from error
        yield


def write_kubeconfig(path: Path, port: int) -> None:
    """Written beside and renamed, so that who waits for the file never reads half of it."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": f"http://{HOST}:{port}"}}],
        "users": [{"name": "local", "user": {}}],
        "contexts": [
            {"name": "local", "context": {"cluster": "local", "user": "local", "namespace": "default"}}
        ],
        "current-context": "local",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document, indent=2) + "\n")  # JSON is YAML
    beside.replace(path)


async def serve(options: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT. OSError: the port is taken."""
    timing = Timing(first_s=options.back_off_s, cap_s=options.back_off_cap_s)
    settings = Settings(
        state=options.state.resolve(),
        images=Images.load(options.images),
        claims=claims(options.claim),
        timing=timing,
    )
    cluster = Cluster(nodes.load(options.nodes), settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    ended = await cluster.start()
    if ended:
        print(f"ended {ended} processes that an earlier cluster had left", flush=True)
    # A reader that goes away ends its handler, else every closed watch would stay until the next change.
    runner = web.AppRunner(Api(cluster).app, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, options.port)
        await site.start()
        port = runner.addresses[0][1]
        write_kubeconfig(options.kubeconfig, port)
        print(f"local cluster ready on http://{HOST}:{port} kubeconfig {options.kubeconfig}", flush=True)
        await stopping.wait()
    finally:
        await cluster.close()
        await runner.cleanup()


def main(argv: list[str]) -> int:
    options = arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # Exits of children wake the loop through their pid descriptors: no thread per process, no polling.
    asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    try:
        with locked(options.state):
            asyncio.run(serve(options))
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}; give --port 0 or a free port", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m local.stack`: start everything and stay up until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from local.stack.programs import REPO
from local.stack.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.stack", description=__doc__)
    parser.add_argument("--root", type=Path, default=REPO / ".sluice" / "up", help="folder of all state")
    args = parser.parse_args()
    stop = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: stop.set())
    print("starting MLflow, Airflow, the cluster, the controller, Envoy and Prometheus …", flush=True)
    with Stack(args.root, say=lambda line: print(line, flush=True)):
        print("up. Airflow's user and password are admin / admin. Ctrl-C ends everything.", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

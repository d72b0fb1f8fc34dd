"""`python -m local.stack`: start everything and stay up until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from local.stack.processes import end_on_signals
from local.stack.programs import REPO
from local.stack.stack import Stack
from sluice.errors import SluiceError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.stack", description=__doc__)
    parser.add_argument("--root", type=Path, default=REPO / ".sluice" / "up", help="folder of all state")
    args = parser.parse_args()
    end_on_signals()
    print("starting MLflow, Airflow, the cluster, the controller, Envoy and Prometheus …", flush=True)
    try:
        with Stack(args.root, say=lambda line: print(line, flush=True)):
            print("up. Airflow's user and password are admin / admin. Ctrl-C ends everything.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("ended; nothing is left running", flush=True)
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

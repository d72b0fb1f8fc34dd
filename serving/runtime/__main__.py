"""`python -m serving.runtime`; see `serving.runtime.app`."""

import os
import sys


def start() -> int:
    """Set what libraries read from the environment while they are imported, then serve."""
    # NumPy only moves bytes here; without this its BLAS starts a thread and a buffer for each CPU of the machine.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # ONNX Runtime 1.32 reports to its maker, from Linux too, with threads and a store of its own, unless told
    # before it is imported. A model server speaks to nobody but its clients.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

    from serving.runtime.app import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())

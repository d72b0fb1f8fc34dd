"""`python -m serving.recorder`; see `serving.recorder.app`."""

import os
import sys


def start() -> int:
    """Set what NumPy reads from the environment while it is imported, then serve."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

    from serving.recorder.app import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())

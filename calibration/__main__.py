"""`python -m calibration --store DIR --release DIGEST`: the calibration pod's main."""

import argparse
import sys

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store


def main() -> int:
    """Parse, calibrate, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    parser = argparse.ArgumentParser(prog="python -m calibration", description=__doc__)
    add_store_arguments(parser)
    args = parser.parse_args()
    return run(lambda: _calibrate(Store(args.store), args.release))


def _calibrate(store: Store, digest: str) -> None:
    release = load_release(store, digest)
    key = release.keys.calibration
    if unchanged(store, "calibration", key):
        return
    from calibration.candidates import calibrate_release

    methods = calibrate_release(store, release)
    print(f"built: calibration {key[:12]}: {', '.join(methods)}")


if __name__ == "__main__":
    sys.exit(main())

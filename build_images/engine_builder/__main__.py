"""`python -m build_images.engine_builder build --store DIR --release DIGEST --target ARCH`.

The builder pod's main. It needs neither PyTorch nor Great Expectations.
"""

import argparse
import sys

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store


def main() -> int:
    """Parse, build one engine, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    parser = argparse.ArgumentParser(prog="python -m build_images.engine_builder", description=__doc__)
    build = parser.add_subparsers(dest="step", required=True).add_parser("build", help="one engine")
    add_store_arguments(build)
    build.add_argument("--target", required=True, help="architecture, as in the spec's targets[].arch")
    args = parser.parse_args()
    return run(lambda: _build(Store(args.store), args.release, args.target))


def _build(store: Store, digest: str, arch: str) -> None:
    release = load_release(store, digest)
    key = release.keys.engine(arch)
    if unchanged(store, "engine", key):
        return
    from build_images.engine_builder.build import build_release

    choice = build_release(store, release, arch)
    print(f"built: engine {key[:12]} for {arch}: {choice.reason}")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m build_images.exporter export|validate --store DIR --release DIGEST`, the exporter pod's main.

Each imports only what it needs: `export` no Great Expectations, and neither anything when the key is there.
"""

import argparse
import sys

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store


def main() -> int:
    """Parse, do one step, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    parser = argparse.ArgumentParser(prog="python -m build_images.exporter", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, text in (("export", "PyTorch to ONNX"), ("validate", "PyTorch against ONNX Runtime")):
        add_store_arguments(steps.add_parser(name, help=text))
    args = parser.parse_args()
    work = _export if args.step == "export" else _validate
    return run(lambda: work(Store(args.store), args.release))


def _export(store: Store, digest: str) -> None:
    release = load_release(store, digest)
    key = release.keys.onnx
    if unchanged(store, "onnx", key):
        return
    _one_thread()
    from build_images.exporter.export import export_release

    export_release(store, release)
    print(f"built: onnx {key[:12]}")


def _validate(store: Store, digest: str) -> None:
    release = load_release(store, digest)
    key = release.keys.numerics
    from build_images.exporter.validate import raise_if_failed, validate_release

    if unchanged(store, "numerics", key):
        raise_if_failed(store.get("numerics", key))  # a table that failed fails again, without building
        return
    _one_thread()
    validate_release(store, release)
    print(f"built: numerics {key[:12]}")


def _one_thread() -> None:
    """The pod asks for one core; more threads would take turns on it, and on a laptop starve live traffic."""
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())

"""The mains of calibration's pods, and the export of a calibration to TensorRT's own text cache.

python -m calibration --store DIR --release DIGEST                    # INT8 files from the release's samples
python -m calibration gather --store DIR --release DIGEST             # recorded traffic becomes a dataset
python -m calibration drift --store DIR --release DIGEST --against K  # has it moved since calibration K?
python -m calibration export --cache cache.json --method percentile --out calib.cache
"""

import argparse
import os
import sys
from pathlib import Path

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store
from sluice.release import drift_key


def main(argv: list[str] | None = None) -> int:
    """Parse, calibrate or export, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    words = sys.argv[1:] if argv is None else argv
    others = {"export": _export_main, "gather": _gather_main, "drift": _drift_main}
    if words and words[0] in others:
        return others[words[0]](words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_store_arguments(parser)
    args = parser.parse_args(words)
    return run(lambda: _calibrate(Store(args.store), args.release))


def _gather_main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m calibration gather",
        description="Divide the recorded traffic into what calibrates and what is held out, check both, publish them.",
    )
    add_store_arguments(parser)
    args = parser.parse_args(words)
    return run(lambda: _gather(Store(args.store), args.release))


def _drift_main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m calibration drift",
        description="Compare the release's dataset with what an earlier calibration saw, tensor by tensor.",
    )
    add_store_arguments(parser)
    parser.add_argument(
        "--against", required=True, help="store key of the earlier calibration, 64 hex digits"
    )
    args = parser.parse_args(words)
    return run(lambda: _drift(Store(args.store), args.release, args.against))


def _export_main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m calibration export",
        description="Write one method's scales in the text format of TensorRT's calibrators (versions 8 and 10).",
    )
    parser.add_argument("--cache", type=Path, required=True, help="cache.json of a calibration")
    parser.add_argument("--method", required=True, help="whose ranges, such as percentile")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--tensorrt", default="8601", help="version in the first line, such as 101401 (default %(default)s)"
    )
    args = parser.parse_args(words)
    return run(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    from calibration.cache import CalibrationCache
    from calibration.tensorrt_cache import to_tensorrt

    cache = CalibrationCache.from_json(args.cache.read_bytes())
    text = to_tensorrt(cache, args.method, version=args.tensorrt)
    args.out.write_text(text, encoding="utf-8")
    print(f"written: {args.out}: {len(text.splitlines()) - 1} scales of {args.method}")


def _gather(store: Store, digest: str) -> None:
    from calibration.dataset import forget_old, gather_release

    os.umask(0o027)  # what people sent is for the pods' user and group
    release = load_release(store, digest)
    for key in forget_old(store, release.spec):
        print(f"removed: dataset {key[:12]}, older than recording.retention_days", flush=True)
    dataset = gather_release(store, release)
    print(f"gathered: dataset {dataset.receipt.key[:12]} of {dataset.facts['seen']} requests", flush=True)


def _drift(store: Store, digest: str, against: str) -> None:
    release = load_release(store, digest)
    if unchanged(store, "drift", drift_key(release, against)):
        return
    from calibration.moved import compare_release

    facts = compare_release(store, release, against).facts
    print(f"compared with {against[:12]}: {facts['why'] or 'no tensor moved'}", flush=True)


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

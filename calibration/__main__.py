"""The calibration pod's main, and the export of a calibration to TensorRT's own text cache.

python -m calibration --store DIR --release DIGEST
python -m calibration export --cache cache.json --method percentile --out calib.cache
"""

import argparse
import sys
from pathlib import Path

from artifacts.pods import add_store_arguments, load_release, run, unchanged
from artifacts.store import Store


def main(argv: list[str] | None = None) -> int:
    """Parse, calibrate or export, return the exit code (2 usage, 3 fatal, 4 retryable)."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["export"]:
        return _export_main(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_store_arguments(parser)
    args = parser.parse_args(words)
    return run(lambda: _calibrate(Store(args.store), args.release))


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

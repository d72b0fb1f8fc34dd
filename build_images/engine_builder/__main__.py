"""Build the engine of one target: the fastest that is accurate enough, for the machine that this runs on.

In a pod, from a run's artifacts:
  python -m build_images.engine_builder --store DIR --release DIGEST --target ARCH
From files, on a workstation with the GPU:
  python -m build_images.engine_builder --onnx model.onnx --spec model.yaml --samples samples.jsonl
      --target ARCH --out DIR [--calibration DIR] [--caches DIR]
"""

import argparse
import os
import sys
from pathlib import Path

from artifacts.pods import load_release, run, unchanged
from artifacts.store import Store
from sluice.errors import EXIT_USAGE, FatalError
from sluice.spec import parse_spec

FROM_STORE, FROM_FILES = ("store", "release"), ("onnx", "spec", "samples", "out")
MAY_BE = ("calibration", "caches")  # with files only


def main(argv: list[str] | None = None) -> int:
    """Parse, build one engine, return the exit code (2 usage, 3 fatal, 4 retryable, 5 the wrong device)."""
    parser = argparse.ArgumentParser(
        prog="python -m build_images.engine_builder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", required=True, help="architecture, as in the spec's targets[].arch")
    pod = parser.add_argument_group("from a run's artifacts")
    pod.add_argument("--store", type=Path, help="folder of the artifact store")
    pod.add_argument("--release", help="digest of the release's document, 64 hex digits")
    files = parser.add_argument_group("from files")
    files.add_argument("--onnx", type=Path, help="the FP32 model")
    files.add_argument("--spec", type=Path, help="release spec: shapes, precisions, accuracy, limits")
    files.add_argument(
        "--samples", type=Path, help="real inputs, one un-batched sample a line; task.pairs beside it"
    )
    files.add_argument("--calibration", type=Path, help="folder with the Q/DQ files, for int8")
    files.add_argument("--caches", type=Path, help="folder that keeps timing caches between builds")
    files.add_argument("--out", type=Path, help="folder to write; must be empty or not there")
    args = parser.parse_args(argv)
    names = (*FROM_STORE, *FROM_FILES, *MAY_BE)
    given = {name for name in names if getattr(args, name) is not None}
    if given == set(FROM_STORE):
        return run(lambda: _from_store(Store(args.store), args.release, args.target))
    if given - set(MAY_BE) == set(FROM_FILES):
        return run(lambda: _from_files(args))
    told = [" ".join(f"--{name}" for name in names) for names in (FROM_STORE, FROM_FILES)]
    print(f"error: give --target and either {told[0]}, or {told[1]}", file=sys.stderr)
    return EXIT_USAGE


def _from_store(store: Store, digest: str, arch: str) -> None:
    release = load_release(store, digest)
    key = release.keys.engine(arch)
    if unchanged(store, "engine", key):
        return
    from build_images.engine_builder.build import build_release

    choice = build_release(store, release, arch)
    print(f"built: engine {key[:12]} for {arch}: {choice.reason}")


def _from_files(args: argparse.Namespace) -> None:
    from build_images.engine_builder.build import build_engine, ready_backend
    from build_images.engine_builder.request import BuildRequest, text_of

    _check_paths(args)
    out: Path = args.out
    spec = parse_spec(text_of(args.spec), os.environ)
    with ready_backend(spec, args.target) as backend:
        request = BuildRequest.of_files(
            spec,
            args.target,
            onnx=args.onnx,
            samples=args.samples,
            calibration=args.calibration,
            store=Store(args.caches) if args.caches else None,
        )
        out.mkdir(parents=True, exist_ok=True)
        _, choice = build_engine(request, backend, out)
    print(f"built: {out} for {args.target}: {choice.reason}")


def _check_paths(args: argparse.Namespace) -> None:
    """Before hours are spent on what cannot be read or written. Raises FatalError."""
    for name in ("onnx", "spec", "samples"):
        if not (path := getattr(args, name)).is_file():
            why = "is no file" if path.exists() else "is not there"
            raise FatalError(f"--{name} {path} {why}", f"name the file that --help tells of under --{name}")
    for name in ("calibration", "caches", "out"):
        path = getattr(args, name)
        if path is not None and path.exists() and not path.is_dir():
            raise FatalError(f"--{name} {path} is no folder", "name a folder")
    if args.out.is_dir() and any(args.out.iterdir()):
        raise FatalError(
            f"--out {args.out} is not empty", "name an empty folder, or one that is not there yet"
        )


if __name__ == "__main__":
    sys.exit(main())

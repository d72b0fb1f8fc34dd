"""FP32 against INT8 of MiniLM by ONNX Runtime's entropy, by ModelOpt and by ours, on the same texts and pairs.

python -m benchmarks.calibration --json --modelopt-python ENV/bin/python --page docs/results/calibration.md
python -m benchmarks.calibration --seeds 0 --resume              # a split at a time; what was done is kept in --out
python -m benchmarks.calibration --only server                   # one part: splits, server or invariance
python -m benchmarks.calibration --from result.json --page page.md   # the page of a result made before

ModelOpt wants other versions than the product, so it lives in an environment of its own: nvidia-modelopt[onnx] of PyPI,
where onnxruntime stands in for onnxruntime-gpu.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.calibration.invariance import SAMPLES, kept
from benchmarks.calibration.invariance import measured as collected
from benchmarks.calibration.job import MODELOPT, ORT_ENTROPY, ORT_MINMAX, ORT_STRIDED, OURS
from benchmarks.calibration.measure import Place, measured, split_file
from benchmarks.calibration.page import page
from benchmarks.calibration.result import HELD_OUT, SPLITS, TEXTS, result
from benchmarks.calibration.texts import split
from benchmarks.engines.hardware import hardware
from benchmarks.shipped import shipped

EVERY: Final = (OURS, MODELOPT, ORT_ENTROPY)
SERVER, INVARIANCE = "server", "invariance"
PARTS: Final = ("splits", SERVER, INVARIANCE)
ONCE: Final = (ORT_MINMAX, ORT_STRIDED)  # beside what was promised: on the first split alone, to save an hour


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read; print the object. 1 when what was promised is missed."""
    args = _parser().parse_args(argv)
    # The Rust tokenizer spreads over every core by default.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    made = json.loads(args.made.read_text(encoding="utf-8")) if args.made else None
    whole = made or result(hardware(), splits(args), *(part(args, name) for name in (SERVER, INVARIANCE)))
    if args.page:
        args.page.write_text(page(whole), encoding="utf-8")
    print(json.dumps(whole, indent=None if args.json else 2, allow_nan=False))
    return 0 if all(line["holds"] is not False for line in whole["acceptance"]) else 1


def splits(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each seed, what is kept of an earlier run or measured now."""
    if "splits" not in args.only:
        return []
    args.out.mkdir(parents=True, exist_ok=True)
    out, onnx = args.out.resolve(), args.onnx
    made = []
    for number, seed in enumerate(args.seeds):
        if args.resume and (kept := _kept(out, seed, (args.texts, args.held_out))):
            made.append(kept)
            continue
        onnx = onnx or exported(out)
        one = split(seed, texts=args.texts, held_out=args.held_out)
        place = Place(onnx, out, args.threads, args.modelopt_python)
        made.append(measured(one, (*EVERY, *ONCE) if number == 0 else EVERY, place))
    return made


def part(args: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """What a part found, now or in an earlier run; None where it is not asked for. Kept in --out as well."""
    if name not in args.only:
        return None
    out = args.out.resolve()
    file = out / f"{name}.json"
    if args.resume and (earlier := kept(file)):
        return earlier
    out.mkdir(parents=True, exist_ok=True)
    if name == SERVER:
        from benchmarks.calibration.serve import measured as served

        found = served(out / "served", pairs=args.held_out)
    else:
        texts = split(0, texts=min(args.texts, SAMPLES), held_out=1).calibration
        found = collected(args.onnx or exported(out), texts)
    file.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    return found


def _kept(out: Path, seed: int, sizes: tuple[int, int]) -> dict[str, Any] | None:
    """What an earlier run left of this split, None where it was of other sizes."""
    file = split_file(out, seed)
    if not file.is_file():
        return None
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return kept if (kept["texts"], kept["held_out"]) == sizes else None


def exported(folder: Path) -> Path:
    """MiniLM as the product's exporter writes it for the demo's spec."""
    from build_images.exporter.export import write_onnx
    from local.demo.checkpoint import make_checkpoint

    path = folder / "onnx" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    checkpoint = make_checkpoint(folder / "checkpoint")
    write_onnx(checkpoint, shipped(), path)
    return path


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: whole numbers, comma between") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print the JSON object in one line")
    add("--seeds", type=_seeds, default=list(range(SPLITS)), help="one split each (default 0,1,2,3)")
    add("--texts", type=int, default=TEXTS, help="that calibrate (default %(default)s)")
    add("--held-out", type=int, default=HELD_OUT, help="pairs (default %(default)s)")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts alone")
    add("--onnx", type=lambda text: Path(text).resolve(), help="an FP32 model; else exported here")
    # Not resolved: a virtual environment's Python is a link to one that has none of its packages.
    add("--modelopt-python", type=lambda text: Path(text).absolute(), help="a Python with nvidia-modelopt")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the models that answer")
    add("--out", type=Path, default=Path(".sluice/calibration"), help="folder of split-<seed>.json")
    add("--resume", action="store_true", help="keep the splits and parts that an earlier run left in --out")
    add("--from", type=Path, dest="made", help="a result made before; measures nothing")
    add("--page", type=Path, help="write the result for people into this Markdown file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

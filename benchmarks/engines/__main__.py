"""TensorRT engines beside PyTorch eager, torch.compile and ONNX Runtime, each model on the product's own way.

python -m benchmarks.engines --json --page docs/results/engines.md       # everything, on a machine with the GPU
python -m benchmarks.engines --models gpt --budget-s 560 --resume        # a part; what was done is not done again
python -m benchmarks.engines --merge .sluice/engines/*.json --json       # parts of one machine as one result
python -m benchmarks.engines --from result.json --page page.md           # the page of a result made before
python -m benchmarks.engines --backend onnxruntime --tiny --json         # the harness itself, on any machine
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.bars import MODELS
from benchmarks.engines.clock import Clock
from benchmarks.engines.hardware import hardware
from benchmarks.engines.measure import STEPS, Effort, Measuring
from benchmarks.engines.models import subjects
from benchmarks.engines.page import page
from benchmarks.engines.product import Place
from benchmarks.engines.result import merged, result

TINY = Effort(warm=2, runs=10, peak_runs=2, compiled=())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read; print the object. 1 when something that was promised is missed."""
    args = _parser().parse_args(argv)
    why = json.loads(args.why.read_text(encoding="utf-8")) if args.why else {}
    if args.made:
        whole = json.loads(args.made.read_text(encoding="utf-8"))
    elif args.merge:
        whole = result(*merged(json.loads(path.read_text(encoding="utf-8")) for path in args.merge), why)
    else:
        whole = result(*merged(measured(args)), why)
    if args.page:
        args.page.write_text(page(whole), encoding="utf-8")
    print(json.dumps(whole, indent=None if args.json else 2, allow_nan=False))
    return 0 if all(line["holds"] is not False for line in whole["acceptance"]) else 1


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The document of each model that was asked for."""
    clock, machine = Clock(args.budget_s), hardware()
    place = Place(
        arch=args.target or _arch(args.backend),
        backend=args.backend,
        threads=args.threads or len(os.sched_getaffinity(0)),
        price=args.price_per_hour,
    )
    made = []
    for name in args.models:
        subject = subjects(tiny=args.tiny, minilm=args.minilm)[name]
        one = Measuring(subject, place, args.out, machine, TINY if args.tiny else Effort())
        if args.resume:
            one.resume()
        one.run(clock, keep=args.keep, only=args.steps)
        made.append(one.document)
    return made


def _arch(backend: str) -> str:
    if backend == "tensorrt":
        return "sm_90"
    from build_images.engine_builder.device import device_facts

    return str(device_facts()["arch"])


def _models(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        raise argparse.ArgumentTypeError(f"unknown model {unknown[0]}; there are {', '.join(MODELS)}")
    return names


def _steps(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"unknown step {unknown[0]}; there are {', '.join(STEPS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print the JSON object in one line")
    add("--models", type=_models, default=list(MODELS), help=f"some of {','.join(MODELS)}, comma between")
    add("--steps", type=_steps, default=list(STEPS), help=f"some of {','.join(STEPS)}; the rest by --resume")
    add("--out", type=Path, default=Path(".sluice/engines"), help="folder of <model>.json and of the work")
    add("--resume", action="store_true", help="keep what an earlier run into --out measured, do the rest")
    add("--keep", action="store_true", help="leave the store when a model is done")
    add("--budget-s", type=float, help="stop after so many seconds; what was not begun says so")
    add(
        "--minilm",
        type=Path,
        help="checkpoint folder with trained weights; else made by local.demo.checkpoint",
    )
    add("--backend", choices=("tensorrt", "onnxruntime"), default="tensorrt")
    add("--target", help="architecture; sm_90 for tensorrt, this machine's for onnxruntime")
    add("--threads", type=int, help="CPU threads of the builder and of the CPU sides; all cores")
    add("--price-per-hour", type=float, help="of the device, for the cost of a million rows")
    add("--tiny", action="store_true", help="small models, few runs, no torch.compile: a test of the harness")
    add("--merge", type=Path, nargs="+", help="results of one machine to join; measures nothing")
    add("--from", type=Path, dest="made", help="a result made before; measures nothing")
    add("--why", type=Path, help='JSON {"model.what": reason} of misses, put before the computed reason')
    add("--page", type=Path, help="write the result for people into this Markdown file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

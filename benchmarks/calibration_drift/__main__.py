"""Does the drift check tell the same traffic from other traffic? Trained MiniLM, real texts, 200 seeded draws.

python -m benchmarks.calibration_drift --json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import yaml

from benchmarks.calibration_drift.measure import INPUTS, TRAFFIC, Collected, collected, drawn, summed, whole
from benchmarks.calibration_drift.texts import ENGLISH, LANGUAGES, catalog_texts, code_texts, samples_of
from benchmarks.engines.hardware import hardware
from benchmarks.engines.models import subjects
from calibration.drift import LIMIT, divergence
from calibration.emit import weighted_operators
from sluice.model_inputs import Sample, parse_samples
from sluice.spec import ReleaseSpec, parse_spec

DRAWS, SIZE, SEED, SHARE = 200, 1000, 20, 0.99
TRAFFIC_TEXTS, CODE_TEXTS = 3000, 1500
SMALL: Final = 200  # samples of the demo's own calibration
WHOLE: Final = 300  # texts a side that are collected as a user collects them
CODE, CONTROL = "code", "english_interface"
TARGET: Final = (
    "The drift check: 1 000 samples of the same traffic pass in 99 % of 200 seeded draws; texts of another language or "
    "code fail in 99 %."
)


def minilm(folder: Path, *, texts: int) -> tuple[onnx.ModelProto, list[Sample]]:
    """The exported model and its traffic. folder: gets the checkpoint and the ONNX."""
    from build_images.exporter.export import write_onnx
    from local.demo.checkpoint import make_checkpoint

    checkpoint = make_checkpoint(folder / "checkpoint", texts=texts, pairs=2)
    spec = _spec(checkpoint)
    write_onnx(checkpoint, spec, folder / "model.onnx")
    lines = (checkpoint / spec.model.samples).read_text(encoding="utf-8")
    return onnx.load(str(folder / "model.onnx")), list(parse_samples(lines, INPUTS, spec.model.axes))


def _spec(checkpoint: Path) -> ReleaseSpec:
    subject = subjects(tiny=False, minilm=checkpoint)["minilm"]
    raw = subject.spec(arch="cpu-avx2", backend="onnxruntime", threads=1, checkpoint=checkpoint, price=None)
    return parse_spec(yaml.safe_dump(raw), {})


def other_texts(tokenizer_file: Path) -> dict[str, list[Sample]]:
    """By kind: code, each language, and the English catalog, which no bar is set for."""
    texts = {CODE: code_texts()} | {name: catalog_texts(short) for name, short in LANGUAGES.items()}
    texts[CONTROL] = catalog_texts(ENGLISH)
    return {kind: samples_of(some, tokenizer_file, CODE_TEXTS) for kind, some in texts.items()}


def figures(model: onnx.ModelProto, texts: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """All that is measured."""
    tensors = tuple(dict.fromkeys(operator.activation for operator in weighted_operators(model)))
    found = collected(model, tensors, texts)
    return {
        "limit": LIMIT,
        "tensors": len(tensors),
        "texts": {kind: len(some) for kind, some in texts.items()},
        "tokens_mean": {
            kind: round(float(np.mean([len(one["input_ids"]) for one in some])), 1)
            for kind, some in texts.items()
        },
        "samples_1000": told(drawn(found, draws=DRAWS, size=SIZE, seed=SEED), tensors),
        f"samples_{SMALL}": told(drawn(found, draws=DRAWS, size=SMALL, seed=SEED), tensors),
        "grids_of_their_own": own_grids(model, tensors, texts, found),
    }


def told(draws: Mapping[str, np.ndarray], tensors: Sequence[str]) -> dict[str, Any]:
    """{kind: share of draws that pass, the farthest tensor's divergence in the least, middle, ... draw}."""
    result = {}
    for kind, values in draws.items():
        farthest = values.max(axis=1)
        places = np.bincount(values.argmax(axis=1), minlength=len(tensors))
        marks = {"least": 0.0, "p1": 0.01, "median": 0.5, "p99": 0.99, "most": 1.0}
        result[kind] = {
            "draws": len(values),
            "passed": float((farthest <= LIMIT).mean()),
            **{name: float(f"{np.quantile(farthest, at):.3g}") for name, at in marks.items()},
            "farthest": tensors[int(places.argmax())],
        }
    return result


def own_grids(
    model: onnx.ModelProto, tensors: Sequence[str], texts: Mapping[str, Sequence[Sample]], found: Collected
) -> dict[str, Any]:
    """The farthest tensor of one draw, collected whole and as the draws above are."""
    result = {}
    for kind, first in ((TRAFFIC, WHOLE), (CODE, 0)):
        new = range(first, first + WHOLE)
        sums = zip(summed(found, TRAFFIC, range(WHOLE)), summed(found, kind, new), strict=True)
        as_drawn = max(divergence(one, other) for one, other in sums)
        as_used = whole(model, tensors, texts[TRAFFIC][:WHOLE], [texts[kind][number] for number in new]).max()
        result[kind] = {
            "samples": WHOLE,
            "whole": float(f"{as_used:.3g}"),
            "as_drawn": float(f"{as_drawn:.3g}"),
        }
    return result


def acceptance(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The promise, from the figures: a kind that was not drawn often enough does not hold it."""
    draws = measured["samples_1000"]
    kinds = (TRAFFIC, CODE, *LANGUAGES)
    value = {
        kind: round(draws[kind]["passed"] if kind == TRAFFIC else 1.0 - draws[kind]["passed"], 4)
        for kind in kinds
        if kind in draws
    }
    holds = all(kind in draws and draws[kind]["draws"] >= DRAWS and value[kind] >= SHARE for kind in kinds)
    return [{"id": "calibration.4", "target": TARGET, "value": value, "holds": holds}]


def measure() -> dict[str, Any]:
    """The result as one JSON object."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        model, traffic = minilm(Path(work), texts=TRAFFIC_TEXTS)
        others = other_texts(Path(work) / "checkpoint" / "tokenizer.json")
        found = figures(model, {TRAFFIC: traffic, **others})
    found["seconds"] = round(time.perf_counter() - began, 1)
    return {
        "benchmark": "calibration_drift",
        "hardware": hardware(),
        "n": DRAWS,
        "figures": found,
        "acceptance": acceptance(found),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration_drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object on one line")
    args = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    result = measure()
    print(json.dumps(result, indent=None if args.json else 2))
    return 0 if all(line["holds"] for line in result["acceptance"]) else 1


if __name__ == "__main__":
    sys.exit(main())

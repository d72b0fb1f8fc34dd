"""The models that are measured: each a checkpoint folder and a release spec, as a team would write them."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from sluice.spec import ReleaseSpec, Target

HERE: Final = Path(__file__).parent
DIGEST: Final = "0" * 64  # of images: nothing is pulled here, and a name without a digest is refused
SEED: Final = 20
PAIRS: Final = 2000  # at most: among 256 a point of recall is three pairs, which is luck
TINY: Final = "2 small layers"
MASKED_IDS: Final = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model. lengths: least and most tokens of a sample. hidden: size of the output's rows.

    write: makes the checkpoint in an empty folder. batches, sequences: the buckets; the sequence axis begins at 4.
    profiles: the batch sizes with an optimisation profile of their own; each costs a build as much again.
    calibrate, judge: samples that find INT8 ranges; those behind them that accuracy is measured on.
    """

    name: str
    title: str
    trained: bool
    inputs: tuple[str, ...]
    output: str
    hidden: int
    batches: tuple[int, ...]
    sequences: tuple[int, ...]
    calibrate: int
    judge: int
    methods: tuple[str, ...]
    profiles: tuple[int, ...]
    write: Callable[[Path], None]

    @property
    def latency_shape(self) -> dict[str, int]:
        """One row of 128 tokens, or of the largest bucket below."""
        return {"batch": 1, "sequence": max(size for size in self.sequences if size <= 128)}

    @property
    def largest_shape(self) -> dict[str, int]:
        """The largest bucket."""
        return {"batch": self.batches[-1], "sequence": self.sequences[-1]}

    def axes(self) -> dict[str, Any]:
        """As in a spec. Candidates are ranked at batch 8, or the largest below, and the latency's sequence."""
        rank = max(size for size in self.batches if size <= 8)
        sequence = self.latency_shape["sequence"]
        return {
            "batch": {"min": 1, "opt": rank, "max": self.batches[-1], "buckets": list(self.batches)},
            "sequence": {
                "min": 4,
                "opt": sequence,
                "max": self.sequences[-1],
                "buckets": list(self.sequences),
            },
        }

    def spec(
        self, *, arch: str, backend: str, threads: int, checkpoint: Path, price: float | None
    ) -> dict[str, Any]:
        """The release spec. price: of one hour of the device; None: unknown."""
        precisions = ["fp16", "int8"] if backend == "tensorrt" else ["fp32", "int8"]
        target: dict[str, Any] = {
            "arch": arch,
            "backend": backend,
            "selector": {"sluice.dev/arch": arch},
            "image": f"sluice/engine-builder:1@sha256:{DIGEST}",
            "resources": {"cpu": str(threads), "memory": "64Gi"},
            "build": self._build(),
        }
        if price is not None and "price_per_hour" in Target.model_fields:
            target["price_per_hour"] = price
        ids = [{"name": name, "dtype": "int64", "dims": ["batch", "sequence"]} for name in self.inputs]
        output = {"name": self.output, "dtype": "float32", "dims": ["batch", self.hidden]}
        return {
            "service": self.name.replace("_", "-"),
            "model": {
                "source": str(checkpoint.parent),
                "inputs": ids,
                "outputs": [output],
                "axes": self.axes(),
            },
            "numerics": {"samples": self.judge},
            "precisions": precisions,
            "calibration": {"samples": self.calibrate, "methods": list(self.methods)},
            "targets": [target],
            "images": {"exporter": "sluice/exporter:1", "calibration": "sluice/exporter:1"},
            "server": {"image": "sluice/runtime:1"},
            **self._task(checkpoint),
        }

    def _build(self) -> dict[str, Any]:
        """What one profile would have cost is asked of the smallest model alone: it is one build more."""
        profiles = {"batch": list(self.profiles)}
        compare = {"compare_one_profile": self.trained}
        return {"workspace_mib": 4096, "optimization_level": 3, "profiles": profiles, **compare}

    def _task(self, checkpoint: Path) -> dict[str, Any]:
        """Judged by what it is for where there is something to judge it on: a model with random weights has nothing."""
        if not (checkpoint / "pairs.jsonl").is_file() or "task" not in ReleaseSpec.model_fields:
            return {}
        return {
            "task": {"metric": "recall_at_1", "output": self.output, "pairs": "pairs.jsonl", "max_drop": 0.01}
        }


def subjects(*, tiny: bool, minilm: Path | None) -> dict[str, Subject]:
    """By name. tiny: the same models with two small layers, for a test of the harness on any machine.

    minilm: a checkpoint folder with trained weights; None: made from the package that holds them.
    """
    made = (_minilm(minilm), _bert(tiny), _gpt(tiny))
    return {one.name: one for one in made}


def _minilm(given: Path | None) -> Subject:
    def write(folder: Path) -> None:
        if given is not None:
            shutil.copytree(given, folder, dirs_exist_ok=True)
            return
        from local.demo.checkpoint import make_checkpoint  # asks for the package with the weights

        make_checkpoint(folder, pairs=PAIRS)

    return Subject(
        name="minilm",
        title="MiniLM: 6 layers, hidden 384, trained weights, sentence embeddings",
        trained=True,
        inputs=MASKED_IDS,
        output="embedding",
        hidden=384,
        batches=(1, 2, 4, 8, 16, 32),
        sequences=(32, 128, 512),
        calibrate=200,
        judge=256,
        methods=("percentile",),
        profiles=(1, 8, 32),
        write=write,
    )


def _bert(tiny: bool) -> Subject:
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    vocabulary, hidden, longest = (100, 32, 16) if tiny else (30_522, 768, 512)
    config = {"vocab_size": vocabulary, "seed": SEED, **(sizes if tiny else {})}
    return Subject(
        name="bert_base",
        title=f"BERT-base: {TINY if tiny else '12 layers, hidden 768'}, random weights, mean of the hidden states",
        trained=False,
        inputs=MASKED_IDS,
        output="pooled",
        hidden=hidden,
        batches=(1, 2) if tiny else (1, 2, 4, 8, 16, 32),
        sequences=(8, 16) if tiny else (32, 128, 512),
        calibrate=4 if tiny else 16,
        judge=4 if tiny else 32,
        methods=("percentile",),
        profiles=(1, 2) if tiny else (1, 32),
        write=_writer("model_bert.py", config, MASKED_IDS, (4, longest // 2), vocabulary),
    )


def _gpt(tiny: bool) -> Subject:
    sizes = {"layers": 2, "hidden": 32, "heads": 2} if tiny else {"layers": 24, "hidden": 2048, "heads": 16}
    vocabulary, longest = (100, 16) if tiny else (32_000, 512)
    config = {**sizes, "vocabulary": vocabulary, "positions": longest, "seed": SEED}
    return Subject(
        name="gpt",
        title=f"GPT-style decoder, prefill: {TINY if tiny else '24 layers, hidden 2048, 1.3 B'} random weights",
        trained=False,
        inputs=("input_ids",),
        output="hidden",
        hidden=int(sizes["hidden"]),
        batches=(1, 2) if tiny else (1, 8),
        sequences=(8, 16) if tiny else (128, 512),
        calibrate=4,
        judge=4 if tiny else 8,
        methods=("minmax",),
        profiles=(1, 2) if tiny else (8,),  # a second one takes minutes more
        # Ranges are found on one core, a sample at a time: short samples keep that to seconds.
        write=_writer("model_gpt.py", config, ("input_ids",), (4, 16) if tiny else (24, 64), vocabulary),
    )


def _writer(
    code: str, config: Mapping[str, Any], inputs: tuple[str, ...], lengths: tuple[int, int], vocabulary: int
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copyfile(HERE / code, folder / "model.py")
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        rng = np.random.default_rng(SEED)
        lines = []
        for length in rng.integers(lengths[0], lengths[1], size=80, endpoint=True):
            ids = rng.integers(5, vocabulary, size=int(length)).tolist()
            lines.append(
                json.dumps({name: ids if name == "input_ids" else [1] * len(ids) for name in inputs})
            )
        (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write

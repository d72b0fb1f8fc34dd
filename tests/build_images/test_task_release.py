"""The whole way of a task with a model that is exported and calibrated here."""

import json

import numpy as np
import pytest

from build_images.engine_builder.build import build_release
from build_images.engine_builder.task import read_pairs
from build_images.exporter.export import export_release
from calibration.candidates import calibrate_release
from sluice.pairs import PairError
from tests.build_images.support import ARCH, released, write_checkpoint
from tests.build_images.test_task import RECALL, near, rows_of, spec

EMBEDDER = """
import torch

class Embedder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.up = torch.nn.Linear(8, 32, bias=False)

    def forward(self, x):
        return self.up(x).sum(dim=1)

def load(folder):
    return Embedder()
"""


def pair_lines(n, *, seed=9):
    queries = rows_of(n, seed=seed)
    halves = zip(queries, near(queries, 0.05), strict=True)
    return [json.dumps({"query": _plain(q), "answer": _plain(a)}) for q, a in halves]


def _plain(sample):
    return {"x": sample["x"].round(4).tolist()}


def made(tmp_path, lines, *, task=RECALL, **changes):
    checkpoint = write_checkpoint(tmp_path / "ckpt", EMBEDDER)
    if lines is not None:
        (checkpoint / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    model = {"outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 32]}]}
    store, release = released(tmp_path / "store", checkpoint, task=task, model=model, **changes)
    export_release(store, release)
    calibrate_release(store, release)
    build_release(store, release, ARCH)
    folder = store.get("engine", release.keys.engine(ARCH)).path
    return json.loads((folder / "report.json").read_text())


def test_every_candidate_of_a_real_build_has_its_task_in_the_report(tmp_path):
    report = made(tmp_path, pair_lines(40))
    assert {"fp32", "int8-minmax"} <= set(report["candidates"])
    for name, candidate in report["candidates"].items():
        task = candidate["task"]
        assert (task["metric"], task["samples"]) == ("recall_at_1", 40), name
        assert 0.9 < task["value"] <= 1.0
    assert report["candidates"]["fp32"]["task"]["drop"] == 0.0


def test_a_file_in_another_encoding_is_named(tmp_path):
    checkpoint = write_checkpoint(tmp_path, EMBEDDER)
    (checkpoint / "pairs.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(PairError, match="pairs: no UTF-8"):
        read_pairs(checkpoint, checkpoint / "samples.jsonl", spec(RECALL))


def close_lines(n, *, seed=11):
    """Pairs with an answer beside each that INT8 cannot tell from it, since one step of it is far wider."""
    rng = np.random.default_rng(seed)
    lines = []
    for base in rows_of(n // 2, seed=seed):
        for _ in range(2):
            answer = base["x"] + rng.normal(size=base["x"].shape) * 1e-3
            query = answer + rng.normal(size=answer.shape) * 1e-5
            halves = {"query": query, "answer": answer}
            lines.append(json.dumps({side: {"x": half.round(7).tolist()} for side, half in halves.items()}))
    return lines


def test_int8_of_a_high_cosine_that_fails_the_task_gives_fp32_which_nobody_asked_for(tmp_path):
    report = made(tmp_path, close_lines(40), precisions=["int8"])
    assert report["chosen"] == "fp32"
    assert report["candidates"]["fp32"]["task"]["value"] == 1.0
    int8 = {name: one for name, one in report["candidates"].items() if name != "fp32"}
    assert set(int8) >= {"int8-minmax", "int8-percentile"}
    for name, one in int8.items():
        value, drop = one["task"]["value"], one["task"]["drop"]
        assert one["accuracy"]["y"]["cosine_min"] > 0.98, name
        assert drop > 0.1, name
        says = f"recall_at_1 {value:.3g}, {drop:.3g} below fp32's 1 (limit 0.01)"
        assert report["rejected"][name] == says

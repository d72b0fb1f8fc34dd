"""Small real checkpoints, and releases of them in a store of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from artifacts.store import Artifact, Store, tree_sha256
from build_images.engine_builder.device import device_facts
from sluice.release import Release
from sluice.spec import parse_spec

ARCH = device_facts()["arch"]
WIDTH = 8

MLP = """
import torch

class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.up, self.down = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

def load(folder):
    return Mlp()
"""


def write_checkpoint(folder: Path, code: str, *, samples: int = 40, **files: str) -> Path:
    """`model.py` with this code, samples of random rows, and other files by stem (`.py` is added)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(code)
    rng = np.random.default_rng(3)
    lines = [
        json.dumps({"x": rng.normal(size=(rng.integers(2, 7), WIDTH)).round(4).tolist()})
        for _ in range(samples)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)
    return folder


def spec_dict(**changes: Any) -> dict[str, Any]:
    """A spec for one input x [batch, rows, 8] and one output y of the same shape; `model` is merged."""
    model = {
        "source": "/nowhere",
        "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", "rows", WIDTH]}],
        "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", "rows", WIDTH]}],
        "axes": {
            "batch": {"min": 1, "opt": 3, "max": 5, "buckets": [1, 5]},
            "rows": {"min": 2, "opt": 4, "max": 6, "buckets": [6]},
        },
        **changes.pop("model", {}),
    }
    target = {"arch": ARCH, "backend": "onnxruntime", "selector": {"sluice.dev/arch": ARCH}, "image": "x"}
    base = {
        "service": "tiny",
        "model": model,
        "numerics": {"samples": 12},
        "calibration": {"samples": 20, "methods": ["percentile", "minmax"]},
        "targets": [target],
        "images": {"exporter": "exporter:1", "calibration": "exporter:1"},
        "server": {"image": "runtime:1"},
    }
    return {**base, **changes}


def released(root: Path, checkpoint: Path, **changes: Any) -> tuple[Store, Release]:
    """A store that holds the checkpoint and the release of this spec."""
    store = Store(root)
    release = Release(parse_spec(yaml.safe_dump(spec_dict(**changes)), {}), tree_sha256(checkpoint))
    store.publish_tree("checkpoint", release.keys.checkpoint, checkpoint, {"source": str(checkpoint)})
    with store.staged("release", release.document_sha256) as draft:
        (draft.path / "release.json").write_text(release.to_json())
        draft.publish({})
    return store, release


def publish_onnx(store: Store, release: Release, source: Path) -> Artifact:
    """Put a hand-made model.onnx where the export's would be."""
    with store.staged("onnx", release.keys.onnx) as draft:
        (draft.path / "model.onnx").write_bytes(source.read_bytes())
        return draft.publish({"onnx_sha256": "0" * 64})

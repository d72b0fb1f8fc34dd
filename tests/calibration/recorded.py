"""A service whose traffic was recorded: a store with its release, ONNX and recordings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from artifacts.store import Store
from sluice.release import CalibratedOn, Release
from tests.build_images.support import publish_onnx, released, write_checkpoint
from tests.calibration.test_calibration import model_of

DATASET, OTHER_DATASET = "d" * 64, "e" * 64
PARTS = {"calibration": {"samples": 20, "methods": ["percentile", "minmax"]}, "numerics": {"samples": 12}}
RECORDING = {"percent": 1, "recorder": "http://127.0.0.1:1", "source": "recordings", "lengths": [3, 5]}


def rows(
    count: int, *, seed: int = 1, scale: float = 1.0, lengths: Sequence[int] = (2, 3, 4, 5, 6)
) -> list[Any]:
    """Un-batched samples of one input x [rows, 8], each its own."""
    rng = np.random.default_rng(seed)
    return [
        {"x": (scale * rng.normal(size=(lengths[number % len(lengths)], 8))).round(4).tolist()}
        for number in range(count)
    ]


def town(root: Path, samples: Sequence[Any] | None, **changes: Any) -> tuple[Store, Release]:
    """samples: a JSONL log in the store's folder `recordings`; None: nothing was recorded."""
    checkpoint = write_checkpoint(root / "ckpt", "")
    spec = {**PARTS, "recording": RECORDING, **changes}
    store, release = released(root / "store", checkpoint, **spec)
    if samples is not None:
        write_log(store, samples)
    release = replace(release, calibrated_on=CalibratedOn(dataset=DATASET))
    onnx.save(model_of(), root / "model.onnx")
    publish_onnx(store, release, root / "model.onnx")
    return store, release


def write_log(store: Store, samples: Sequence[Any]) -> None:
    """Replace what was recorded."""
    folder = store.root / "recordings"
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in samples), encoding="utf-8")

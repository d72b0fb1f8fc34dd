"""What a model answers for the held-out pairs, and what that is worth beside FP32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from benchmarks.calibration.texts import Ids
from build_images.engine_builder.task import recall_hits
from sluice.cosine import cosines

BATCH: Final = 32  # texts at once, sorted by length: little of it is padding


def embedded(model: Path, texts: Sequence[Ids], *, threads: int) -> np.ndarray:
    """float32 [texts, size]: the first output for each text, in the order of `texts`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    rows: dict[int, np.ndarray] = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        ids = np.zeros((len(part), len(texts[part[-1]])), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, place in enumerate(part):
            ids[row, : len(texts[place])] = texts[place]
            mask[row, : len(texts[place])] = 1
        answers = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        rows |= dict(zip(part, answers, strict=True))
    return np.stack([rows[place] for place in range(len(texts))])


def figures(reference: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """Of one model on one split. Both: [2 n, size], n first sentences, then the n rests in the same order.

    {recall, lost, agreement, cosine_min, cosine_mean, n}: lost is FP32's recall less this one's, agreement the share of
    first sentences whose nearest rest is FP32's. ValueError on other shapes and on values that are not finite.
    """
    if answers.shape != reference.shape or len(answers) % 2 or not len(answers):
        raise ValueError(f"answers of shape {answers.shape}, wanted {reference.shape}")
    if not np.isfinite(answers).all():
        raise ValueError("answers that are not finite")
    n = len(answers) // 2
    exact, got = recall(reference), recall(answers)
    rows = cosines(answers.astype(np.float64), reference.astype(np.float64))
    return {
        "n": n,
        "recall": got,
        "lost": round(exact - got, 12),
        "agreement": float((nearest(answers) == nearest(reference)).mean()),
        "cosine_min": float(rows.min()),
        "cosine_mean": float(rows.mean()),
    }


def recall(answers: np.ndarray) -> float:
    """The share of first sentences that are nearer to their own rest than to every other, as the builder counts it."""
    n = len(answers) // 2
    return float(recall_hits(list(answers[:n]), list(answers[n:]), range(n)).mean())


def nearest(answers: np.ndarray) -> np.ndarray:
    """int64 [n]: for each first sentence the place of the nearest rest."""
    unit = answers.astype(np.float64) / np.linalg.norm(answers, axis=1, keepdims=True)
    n = len(unit) // 2
    return (unit[:n] @ unit[n:].T).argmax(axis=1)

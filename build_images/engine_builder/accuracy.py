"""How far an engine's answers are from the FP32 ONNX on real samples that did not calibrate it.

Invariant: outputs are compared by name and shape before by value; NaN and infinity never pass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from build_images.engine_builder.runs import Feed, Run
from sluice.cosine import cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of one output over all samples. cosine_min: the worst sample's, -1 when anything was not comparable."""

    samples: int
    cosine_min: float
    cosine_mean: float
    max_abs: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; max_abs is null when it is not finite."""
        return asdict(self)


def references(run: Run, feeds: Iterable[Feed]) -> list[tuple[Feed, dict[str, np.ndarray]]]:
    """Each feed with the FP32 ONNX's answer."""
    return [(feed, run(feed)) for feed in feeds]


def accuracy(run: Run, expected: list[tuple[Feed, dict[str, np.ndarray]]]) -> dict[str, Accuracy]:
    """By output name. ValueError on nothing to compare."""
    if not expected:
        raise ValueError("no samples to compare on")
    got = [(answer, run(feed)) for feed, answer in expected]
    return {name: _of_output(name, got) for name in expected[0][1]}


def _of_output(name: str, pairs: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> Accuracy:
    rows: list[float] = []
    worst = 0.0
    for wanted, got in pairs:
        a, b = wanted[name], got.get(name)
        if set(wanted) != set(got) or b is None or a.shape != b.shape or not _finite(a, b):
            return Accuracy(samples=len(rows), cosine_min=-1.0, cosine_mean=-1.0, max_abs=None)
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        rows.extend(cosines(a64, b64).tolist())
        worst = max(worst, float(np.abs(a64 - b64).max()))
    return Accuracy(samples=len(rows), cosine_min=min(rows), cosine_mean=float(np.mean(rows)), max_abs=worst)


def _finite(*arrays: np.ndarray) -> bool:
    return all(array.size > 0 and bool(np.isfinite(array).all()) for array in arrays)


def least_cosine(by_output: Mapping[str, Accuracy]) -> float:
    """What the spec's bar is compared with: the worst sample of the worst output."""
    return min(one.cosine_min for one in by_output.values())

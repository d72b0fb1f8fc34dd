"""Which operators stay in FP32 when all of them in INT8 cost more accuracy than the spec allows.

Problem: a few operators add most of the noise (the inputs of a transformer's MLP have outliers), and a candidate that
quantizes them too is turned down as a whole. Invariants: operators are ranked by the noise that INT8 adds to their own
output, measured on real samples; as few of the worst stay in FP32 as reach the target, in steps; what is found is one
more candidate beside the whole ones, and the builder judges it on other samples than these.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from calibration.emit import Quantized, Weighted
from sluice.cosine import cosines
from sluice.model_inputs import Sample, batch
from sluice.signature import TensorSpec

JUDGED: Final = 32  # samples, of those that calibrate: it ranks and picks, nothing is passed by it
SHARES: Final = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of the operators, left in FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Found: operators in INT8, and those left in FP32, worst first. cosine: the least over the judged samples."""

    operators: tuple[Weighted, ...]
    left: tuple[str, ...]
    cosine: float


def target_of(bar: float) -> float:
    """What a candidate should reach here, so that it passes `bar` on other and more samples: half way to 1."""
    return 1.0 - (1.0 - bar) / 2


def noise(quantized: Quantized, samples: Sequence[Sample], inputs: Sequence[TensorSpec]) -> dict[str, float]:
    """{node: squared error of its output over its squares, all samples together}; infinite where it answers zeros."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "shadows.onnx"
        names = quantized.write_shadows(path)
        session = _session(path)
        wanted = [name for pair in names.values() for name in pair]
        sums = np.zeros(len(wanted))
        for sample in samples:
            sums += np.asarray(session.run(wanted, batch([sample], inputs)), dtype=np.float64)
    found = dict(zip(wanted, sums.tolist(), strict=True))
    return {node: found[n] / found[s] if found[s] > 0 else math.inf for node, (n, s) in names.items()}


def least_cosine(
    expected: Sequence[Sequence[np.ndarray]],
    path: Path,
    samples: Sequence[Sample],
    inputs: Sequence[TensorSpec],
) -> float:
    """Of the worst sample and output against `expected`; -1 for answers that are not finite."""
    session, least = _session(path), 1.0
    for sample, wanted in zip(samples, expected, strict=True):
        for a, b in zip(wanted, session.run(None, batch([sample], inputs)), strict=True):
            fine = bool(np.isfinite(b).all())
            least = min(
                least, float(cosines(a.astype(np.float64), b.astype(np.float64)).min()) if fine else -1.0
            )
    return least


def answers(path: Path, samples: Sequence[Sample], inputs: Sequence[TensorSpec]) -> list[list[np.ndarray]]:
    """Of the FP32 model, a list of its outputs for each sample."""
    session = _session(path)
    return [session.run(None, batch([sample], inputs)) for sample in samples]


def find_mixed(
    quantized: Quantized, ranking: Sequence[str], judge: Callable[[Path], float], target: float
) -> Mixed | None:
    """The first step at which `judge` reaches `target`; None when none does. ranking: nodes, the noisiest first."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "mixed.onnx"
        for share in SHARES:
            left = tuple(ranking[: math.ceil(share * len(ranking))])
            operators = tuple(one for one in quantized.operators if one.node not in left)
            if not operators:
                break
            quantized.write(path, operators)
            cosine = judge(path)
            if cosine >= target:
                return Mixed(operators=operators, left=left, cosine=cosine)
    return None


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

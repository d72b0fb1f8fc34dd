"""What an engine does at the model's task, beside how near its numbers are to the FP32 ONNX's.

Problem: a cosine of 0.99 may turn the greatest of a thousand classes into the second, or may not; only the task tells.
Invariants: an answer that cannot be judged (missing, of another shape, not finite, a vector without length) never
passes, and says why; a metric at which the FP32 ONNX itself is no better than chance lets nothing pass; of two that
are equally near, neither is the nearest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from build_images.engine_builder.runs import Run
from sluice.errors import FatalError
from sluice.model_inputs import Sample, batch, batches, shapes_of, wanted_samples
from sluice.pairs import Pairs, parse_pairs
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec
from sluice.spec_types import RECALL_AT_1

TIE: Final = 1e-9  # cosines nearer than this are equal: sums of one row differ by as much with its place
QUERIES_AT_ONCE: Final = 1024
Rows = list[np.ndarray]  # one sample's answer each, without the batch dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One engine at the task. reference, value: of the FP32 ONNX and of the engine, 0 to 1; drop: how far below.

    samples: answers compared (top1, every position of each) or queries asked (recall_at_1). drop is below 0 where the
    engine is better. why: what made it worthless, None where it was judged.
    """

    metric: str
    samples: int
    reference: float
    value: float
    drop: float
    why: str | None = None

    @classmethod
    def of(cls, metric: str, samples: int, reference: float, value: float, why: str | None = None) -> Self:
        """The drop is rounded, so that 0.90 - 0.89 is no more than a limit of 0.01."""
        drop = round(reference - value, 12)
        return cls(metric=metric, samples=samples, reference=reference, value=value, drop=drop, why=why)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def passes(self, max_drop: float) -> bool:
        """Whether the engine is good enough. NaN is not, nor is what could not be judged."""
        return self.samples > 0 and self.why is None and self.drop <= max_drop

    def why_not(self, max_drop: float) -> str:
        """For a person, of one that does not pass."""
        if self.why is not None:
            return f"{self.metric}: {self.why}"
        below = f"{self.drop:.3g} below fp32's {self.reference:.3g}"
        return f"{self.metric} {self.value:.3g}, {below} (limit {max_drop:g})"


def read_pairs(folder: Path, samples: Path, spec: ReleaseSpec) -> Pairs | None:
    """The pairs of the spec's task, None without them. folder: that of the checkpoint; samples: its samples' file.

    Raises PairError, also for a half that is one of the samples that calibrate; FatalError when the file is missing.
    """
    if spec.task is None or spec.task.pairs is None:
        return None
    file, model = folder / spec.task.pairs, spec.model
    if not file.is_file():
        step = "write it into the checkpoint folder, or set task to null"
        raise FatalError(f"task.pairs is {spec.task.pairs}: there is no such file in {folder}", step)
    calibrated: tuple[Sample, ...] = ()
    if "int8" in spec.precisions:
        wanted, text = spec.calibration.samples, samples.read_text(encoding="utf-8")
        calibrated = wanted_samples(
            text, model.inputs, model.axes, field_name="calibration.samples", wanted=wanted
        )
    return parse_pairs(file.read_text(encoding="utf-8"), model.inputs, model.axes, calibrated=calibrated)


class UnusableError(ValueError):
    """Answers that say nothing about the task; the text is the reason. `TaskBench` turns it into a result."""


@dataclass(frozen=True, slots=True)
class TaskBench:
    """The task of one model. samples: what top1 runs on; pairs: what recall_at_1 runs on, which must be there then."""

    spec: ReleaseSpec
    samples: Sequence[Sample]
    pairs: Pairs | None
    reference: Run
    _kept: dict[str, Any] = field(default_factory=dict)  # the reference is run once for all candidates

    def result(self, run: Run) -> TaskResult | None:
        """None where the spec names no task."""
        if self.spec.task is None:
            return None
        metric = self.spec.task.metric
        judged = self._recall_at_1 if metric == RECALL_AT_1 else self._top1
        try:
            return judged(run)
        except UnusableError as error:
            reference, samples = self._kept.get("reference", 0.0), self._kept.get("samples", 0)
            return TaskResult.of(metric, samples, reference, 0.0, str(error))

    def _top1(self, run: Run) -> TaskResult:
        if "rows" not in self._kept:
            rows = self._of_reference(self.samples)
            self._kept.update({"rows": rows, "reference": 1.0, "samples": sum(_places(one) for one in rows)})
        hits = top1_hits(self._kept["rows"], self._answers(run, self.samples))
        return TaskResult.of("top1", hits.size, 1.0, float(hits.mean()))

    def _recall_at_1(self, run: Run) -> TaskResult:
        pairs = self.pairs
        if pairs is None or not pairs.queries:
            raise UnusableError("there are no pairs")
        chance = 1 / len(pairs.answers)
        if "reference" not in self._kept:
            found = self._of_reference(pairs.queries), self._of_reference(pairs.answers)
            try:
                share = float(recall_hits(*found, pairs.own).mean())
            except UnusableError as error:
                raise UnusableError(f"the fp32 onnx itself: {error}") from None
            self._kept.update({"reference": share, "samples": len(pairs.queries)})
        reference = self._kept["reference"]
        if not reference > chance:
            raise UnusableError(f"the fp32 onnx itself has {reference:.3g}, and chance {chance:.3g}")
        found = self._answers(run, pairs.queries), self._answers(run, pairs.answers)
        value = float(recall_hits(*found, pairs.own).mean())
        why = None if value > chance else f"{value:.3g} is no better than chance, {chance:.3g}"
        return TaskResult.of(RECALL_AT_1, len(pairs.queries), reference, value, why)

    def _of_reference(self, samples: Sequence[Sample]) -> Rows:
        try:
            return self._answers(self.reference, samples)
        except UnusableError as error:
            raise UnusableError(f"the fp32 onnx itself: {error}") from None

    def _answers(self, run: Run, samples: Sequence[Sample]) -> Rows:
        task, model = self.spec.task, self.spec.model
        name = task.output if task else ""
        return answers(run, samples, self.spec, next(one for one in model.outputs if one.name == name))


def answers(run: Run, samples: Sequence[Sample], spec: ReleaseSpec, output: TensorSpec) -> Rows:
    """Each sample's answer, cut to the sample's own sizes: what padding answers is nobody's answer.

    In batches of the least size, all of them full. Raises UnusableError.
    """
    if not samples:
        raise UnusableError("there are no samples")
    inputs, axes, first = spec.model.inputs, spec.model.axes, spec.model.inputs[0].dims[0]
    size = first if isinstance(first, int) else axes[first].min
    filled = [*samples, *samples[:1] * (-len(samples) % size)]
    rows: Rows = []
    for feed in batches(filled, inputs, lambda axis: axes[axis].min):
        got = run(feed).get(output.name)
        wanted = shapes_of(feed, inputs, [output])[output.name]
        if got is None:
            raise UnusableError(f"no output {output.name}")
        if got.shape != wanted:
            raise UnusableError(f"{output.name} has the shape {list(got.shape)}, wanted {list(wanted)}")
        if got.size == 0 or not np.isfinite(got).all():
            raise UnusableError(f"{output.name} holds a value that is not finite")
        rows.extend(got)
    return [_cut(row, one, spec, output) for row, one in zip(rows, samples, strict=False)]


def _cut(row: np.ndarray, sample: Sample, spec: ReleaseSpec, output: TensorSpec) -> np.ndarray:
    """Without what padding added."""
    inputs = spec.model.inputs
    shape = shapes_of(batch([sample], inputs), inputs, [output])[output.name]
    return row[tuple(slice(size) for size in shape[1:])]


def _places(row: np.ndarray) -> int:
    return row.size // row.shape[-1]


def top1_hits(wanted: Rows, got: Rows) -> np.ndarray:
    """For each position of each sample, whether the greatest value over the last axis stands where it should.

    A position that tells no two classes apart is wrong, unless the reference's does not either.
    """
    hits = [np.zeros(0, dtype=bool)]
    for a, b in zip(wanted, got, strict=True):
        dead = (np.ptp(b, axis=-1) == 0) & (np.ptp(a, axis=-1) > 0)
        hits.append(np.atleast_1d((a.argmax(axis=-1) == b.argmax(axis=-1)) & ~dead).ravel())
    return np.concatenate(hits)


def recall_hits(queries: Rows, found: Rows, own: Sequence[int]) -> np.ndarray:
    """For each query, whether its own answer is nearer by cosine than every other. Raises UnusableError."""
    if not queries or len(queries) != len(own):
        raise UnusableError(f"{len(queries)} queries, {len(own)} answers of their own")
    q, a = _directions(queries), _directions(found)
    hits = []
    for start in range(0, len(own), QUERIES_AT_ONCE):
        near = q[start : start + QUERIES_AT_ONCE] @ a.T
        places = np.arange(len(near)), np.asarray(own[start : start + QUERIES_AT_ONCE])
        mine = near[places].copy()
        near[places] = -np.inf
        hits.append(mine > near.max(axis=1) + TIE)
    return np.concatenate(hits)


def _directions(rows: Rows) -> np.ndarray:
    stacked = np.stack(rows).astype(np.float64)
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise UnusableError("a vector without length has no nearest answer")
    unit: np.ndarray = stacked / lengths
    return unit

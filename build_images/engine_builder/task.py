"""What an engine does at the model's task, beside how near its numbers are to the FP32 ONNX's.

Problem: a cosine of 0.99 may turn the greatest of a thousand classes into the second, or may not; only the task tells.
Invariants: an answer that cannot be judged (missing, of another shape, not finite, a vector without length) never
passes, and says why; nor does what does not depend on the input, however the answers are spread; a metric at which the
FP32 ONNX itself is no better than that lets nothing pass; of two that are equally near, neither is the nearest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from build_images.engine_builder.runs import Run
from sluice.errors import FatalError
from sluice.model_inputs import Sample, batch, batches, shapes_of, wanted_samples
from sluice.pairs import PairError, Pairs, parse_pairs
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec
from sluice.spec_types import RECALL_AT_1

TIE: Final = 1e-9  # cosines nearer than this are equal: sums of one row differ by as much with its place
QUERIES_AT_ONCE: Final = 1024
NO_PAIRS: Final = Pairs(queries=(), answers=(), own=())
Rows = Sequence[np.ndarray]  # one sample's answer each, without the batch dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One engine at the task. reference, value: of the FP32 ONNX and of the engine, 0 to 1; drop: how far below.

    samples: answers compared (top1, every position of each) or queries asked (recall_at_1). drop is below 0 where the
    engine is better. why: what made it worthless, None where it was judged. None: a number that nobody could measure.
    """

    metric: str
    samples: int
    reference: float | None
    value: float | None
    drop: float | None
    why: str | None = None

    @classmethod
    def of(
        cls,
        metric: str,
        samples: int,
        reference: float | None,
        value: float | None,
        why: str | None = None,
    ) -> Self:
        """The drop is rounded, so that 0.90 - 0.89 is no more than a limit of 0.01."""
        drop = None if reference is None or value is None else round(reference - value, 12)
        return cls(metric=metric, samples=samples, reference=reference, value=value, drop=drop, why=why)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def passes(self, max_drop: float) -> bool:
        """Whether the engine is good enough. NaN is not, nor is what could not be judged."""
        return self.samples > 0 and self.why is None and self.drop is not None and self.drop <= max_drop

    def why_not(self, max_drop: float) -> str:
        """For a person, of one that does not pass."""
        if self.why is not None or self.drop is None:
            return f"{self.metric}: {self.why or 'not measured'}"
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
        calibrated = wanted_samples(
            samples.read_text(encoding="utf-8"),
            model.inputs,
            model.axes,
            field_name="calibration.samples",
            wanted=spec.calibration.samples,
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PairError(0, f"no UTF-8 ({error})") from error
    return parse_pairs(text, model.inputs, model.axes, calibrated=calibrated)


class UnusableError(ValueError):
    """Answers that say nothing about the task; the text is the reason. `TaskBench` turns it into a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """The FP32 ONNX at the task. blind: the most that answers which do not depend on the input would get.

    tops: where its greatest values stand, for top1.
    """

    samples: int
    value: float
    blind: float
    tops: Rows = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskBench:
    """The task of one model. samples: what top1 runs on; pairs: what recall_at_1 runs on, which must be there then."""

    spec: ReleaseSpec
    samples: Sequence[Sample]
    pairs: Pairs | None
    reference: Run
    _kept: dict[str, _Reference | str] = field(default_factory=dict)  # run once for all candidates

    def result(self, run: Run) -> TaskResult | None:
        """None where the spec names no task."""
        if self.spec.task is None:
            return None
        metric = self.spec.task.metric
        if "reference" not in self._kept:
            self._kept["reference"] = self._known(metric)
        known = self._kept["reference"]
        if isinstance(known, str):
            return TaskResult.of(metric, 0, None, None, known)
        try:
            value = self._recall(run) if metric == RECALL_AT_1 else self._top1(run, known.tops)
        except UnusableError as error:
            return TaskResult.of(metric, known.samples, known.value, None, str(error))
        why = None if value > known.blind else _blind(value, known.blind)
        return TaskResult.of(metric, known.samples, known.value, value, why)

    def _known(self, metric: str) -> _Reference | str:
        """What the reference does, or why nothing can be judged by it."""
        if metric == RECALL_AT_1 and not (self.pairs and self.pairs.queries):
            return "there are no pairs"
        try:
            known = self._of_pairs() if metric == RECALL_AT_1 else self._of_samples()
        except UnusableError as error:
            return f"the fp32 onnx itself: {error}"
        if not known.value > known.blind:
            return f"the fp32 onnx itself: {_blind(known.value, known.blind)}"
        return known

    def _of_samples(self) -> _Reference:
        tops = [greatest(row) for row in self._answers(self.reference, self.samples)]
        places = sum(one[..., 0].size for one in tops)
        return _Reference(samples=places, value=1.0, blind=blind_top1(tops), tops=tops)

    def _of_pairs(self) -> _Reference:
        own = (self.pairs or NO_PAIRS).own
        value = self._recall(self.reference)
        return _Reference(samples=len(own), value=value, blind=int(np.bincount(own).max()) / len(own))

    def _top1(self, run: Run, tops: Rows) -> float:
        return float(top1_hits(tops, self._answers(run, self.samples)).mean())

    def _recall(self, run: Run) -> float:
        pairs = self.pairs or NO_PAIRS
        queries, found = (list(self._answers(run, side)) for side in (pairs.queries, pairs.answers))
        return float(recall_hits(queries, found, pairs.own).mean())

    def _answers(self, run: Run, samples: Sequence[Sample]) -> Iterator[np.ndarray]:
        task, model = self.spec.task, self.spec.model
        name = task.output if task else ""
        return answers(run, samples, self.spec, next(one for one in model.outputs if one.name == name))


def _blind(value: float, blind: float) -> str:
    return f"{value:.3g} is no better than answers that do not depend on the input, which get {blind:.3g}"


def answers(
    run: Run, samples: Sequence[Sample], spec: ReleaseSpec, output: TensorSpec
) -> Iterator[np.ndarray]:
    """Each sample's answer, cut to the sample's own sizes: what padding answers is nobody's answer.

    In batches of the least size, all of them full. Raises UnusableError.
    """
    if not samples:
        raise UnusableError("there are no samples")
    inputs, axes, first = spec.model.inputs, spec.model.axes, spec.model.inputs[0].dims[0]
    size = first if isinstance(first, int) else axes[first].min
    filled, left = [*samples, *samples[:1] * (-len(samples) % size)], iter(samples)
    for feed in batches(filled, inputs, lambda axis: axes[axis].min):
        got = run(feed).get(output.name)
        wanted = shapes_of(feed, inputs, [output])[output.name]
        if got is None:
            raise UnusableError(f"no output {output.name}")
        if got.shape != wanted:
            raise UnusableError(f"{output.name} has the shape {list(got.shape)}, wanted {list(wanted)}")
        if got.size == 0 or not np.isfinite(got).all():
            raise UnusableError(f"{output.name} holds a value that is not finite")
        for row, sample in zip(got, left, strict=False):  # the last batch may be filled up
            yield _cut(row, sample, spec, output)


def _cut(row: np.ndarray, sample: Sample, spec: ReleaseSpec, output: TensorSpec) -> np.ndarray:
    """Without what padding added."""
    inputs = spec.model.inputs
    shape = shapes_of(batch([sample], inputs), inputs, [output])[output.name]
    return row[tuple(slice(size) for size in shape[1:])]


def greatest(row: np.ndarray) -> np.ndarray:
    """Where the greatest value over the last axis stands: more than one place where several are equal."""
    found: np.ndarray = row == row.max(axis=-1, keepdims=True)
    return found


def top1_hits(tops: Rows, got: Iterable[np.ndarray]) -> np.ndarray:
    """For each position of each sample, whether every greatest value stands where one of the reference's does.

    So a position that tells its classes apart less than the reference's is wrong.
    """
    hits = [(a | ~greatest(b)).all(axis=-1).ravel() for a, b in zip(tops, got, strict=True)]
    return np.concatenate(hits)


def blind_top1(tops: Rows) -> float:
    """The greatest top1 of answers that are the same whatever is asked: at each position the most frequent class."""
    shape = tuple(max(sizes) for sizes in zip(*(one.shape for one in tops), strict=True))
    counts = np.zeros(shape, dtype=np.uint32)
    for one in tops:
        counts[tuple(slice(size) for size in one.shape)] += one
    return int(counts.max(axis=-1).sum()) / sum(one[..., 0].size for one in tops)


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

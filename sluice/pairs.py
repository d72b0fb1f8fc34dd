"""Queries and their own answers: what an embedding is judged by.

Problem: a metric over pairs that cannot fail says nothing: one answer for all, a query that is its own answer, a text
that the INT8 ranges were found on, one query counted a hundred times. Invariant: there are two different answers at
least, each query stands once and is not its own answer, and no half of a pair is a calibration sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sluice.model_inputs import AxisRange, Sample, SampleError, filled_lines, json_of, sample_of
from sluice.signature import TensorSpec

Identity = tuple[tuple[str, tuple[int, ...], bytes], ...]


class PairError(SampleError):
    """A file of pairs that cannot be used: which line (from 1; 0 is the whole file) and what is wrong."""

    @property
    def message(self) -> str:
        return f"pairs, line {self.line}: {self.problem}" if self.line else f"pairs: {self.problem}"

    @property
    def next_step(self) -> str:
        return 'correct task.pairs: one {"query": sample, "answer": sample} a line, each as a line of model.samples'


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """answers: each once. own: for each query the index of its answer; several queries may share one."""

    queries: tuple[Sample, ...]
    answers: tuple[Sample, ...]
    own: tuple[int, ...]


def parse_pairs(
    text: str,
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, AxisRange],
    *,
    calibrated: Sequence[Sample] = (),
) -> Pairs:
    """Every pair of the file, in order. calibrated: the samples that INT8 ranges were found on.

    Raises PairError on the first bad line, on no pair, and on a single answer, which every query would find.
    """
    held = {identity(sample): number for number, sample in enumerate(calibrated, start=1)}
    queries: dict[Identity, tuple[int, Sample]] = {}
    answers: dict[Identity, tuple[int, Sample]] = {}
    own: list[int] = []
    for number, line in filled_lines(text):
        query, answer = _pair(number, line, inputs, axes, held)
        first, _ = queries.setdefault(identity(query), (number, query))
        if first != number:
            raise PairError(number, f"the query stands in line {first} already")
        place, _ = answers.setdefault(identity(answer), (len(answers), answer))
        own.append(place)
    if len(answers) < 2:
        raise PairError(0, f"the file holds {len(answers)} different answers, 2 or more are wanted")
    asked, found = (tuple(one for _, one in side.values()) for side in (queries, answers))
    return Pairs(queries=asked, answers=found, own=tuple(own))


def identity(sample: Sample) -> Identity:
    """Equal for equal samples: by name, shape and value; -0.0 is 0.0."""
    return tuple((name, sample[name].shape, (sample[name] + 0).tobytes()) for name in sorted(sample))


def _pair(
    number: int,
    line: str,
    inputs: Sequence[TensorSpec],
    axes: Mapping[str, AxisRange],
    held: Mapping[Identity, int],
) -> tuple[Sample, Sample]:
    values = _parsed(number, "", partial(json_of, number, line))
    if not isinstance(values, dict) or not {"query", "answer"} <= set(values):
        raise PairError(number, 'no object of "query" and "answer"')
    halves = []
    for side in ("query", "answer"):
        half = _parsed(number, side, partial(sample_of, number, values[side], inputs, axes))
        if (same := held.get(identity(half))) is not None:
            raise PairError(number, f"{side} is sample {same}, which calibrates: leave one of them out")
        halves.append(half)
    if identity(halves[0]) == identity(halves[1]):
        raise PairError(number, "the query is its own answer, which every engine finds")
    return halves[0], halves[1]


def _parsed(number: int, side: str, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except SampleError as error:
        raise PairError(number, f"{side} {error.problem}".lstrip()) from error

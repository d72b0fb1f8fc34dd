"""One pass of a dataset through a model: every sample alone, on several threads, one chunk of samples in memory.

Problem: what is found must not depend on how the samples were collected: in how many chunks, in which order, by how
many threads. In a batch it would: rows are padded to one length, and even rows of one length need not come out as they
do alone. With ONNX Runtime 1.32 on an AVX-512 CPU all 24 activations of MiniLM were the same to the bit alone and in
batches of 64 (seven lengths, 10 752 arrays), but a mean over 10 channels behind a MatMul differed in 17 rows of 64.
Invariants: each sample runs alone on one thread, so its activations are its own; tallies are merged by sums of whole
numbers, minima and maxima, which no order changes; of several samples that fail, the first in order is the one named.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from sluice.errors import FatalError
from sluice.model_inputs import Sample, batch
from sluice.signature import TensorSpec

CHUNK: Final = 64  # samples
THREADS: Final = 4  # at most: each holds one sample's activations
Chunks = Callable[
    [], Iterable[Sequence[Sample]]
]  # called once a pass; the same samples each time, in any order


class CalibrationError(FatalError):
    """Ranges that cannot be found."""


class Tally(Protocol):
    """What one thread finds."""

    def add(self, number: int, values: Sequence[np.ndarray]) -> None:
        """Count one sample's tensors. number: of the sample, from 0."""


T = TypeVar("T", bound=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A session whose outputs are `tensors`, and the inputs it takes. Sessions run on several threads at once."""

    session: Any
    tensors: Sequence[str]
    inputs: Sequence[TensorSpec]

    def run(self, number: int, sample: Sample) -> list[np.ndarray]:
        """The tensors of one sample, in their order. CalibrationError names the sample that cannot be run."""
        if missing := [spec.name for spec in self.inputs if spec.name not in sample]:
            raise CalibrationError(
                f"sample {number} (from 0) lacks {', '.join(missing)}",
                "give every sample each input of the model",
            )
        try:
            found: list[np.ndarray] = self.session.run(list(self.tensors), batch([sample], self.inputs))
        except Exception as error:  # ORT's exception types share no other root
            raise CalibrationError(
                f"the model fails on sample {number} (from 0): {' '.join(str(error).split())[:400]}",
                "correct the sample: sizes and values that the model takes",
            ) from error
        return found


def in_chunks(samples: Sequence[Sample] | Callable[[], Iterable[Sample]], size: int = CHUNK) -> Chunks:
    """`samples`, or what each call of it gives, in chunks of `size` (1 or more), the last one shorter."""
    if size < 1:
        raise CalibrationError(f"a chunk of {size} samples", "choose 1 or more")

    def chunks() -> Iterator[Sequence[Sample]]:
        chunk: list[Sample] = []
        for sample in samples() if callable(samples) else samples:
            chunk.append(sample)
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    return chunks


def tallied(model: Model, chunks: Chunks, make: Callable[[], T], threads: int) -> list[T]:
    """One tally for each thread; together they saw every sample once. threads: 1 or more.

    Raises what the first sample in order raised that cannot be run or counted, and CalibrationError for an empty chunk.
    """
    source = _Source(chunks())
    with ThreadPoolExecutor(threads) as pool:
        works = [pool.submit(source.feed, model, make()) for _ in range(threads)]
    if source.failed:
        raise min(source.failed, key=lambda one: one[0])[1]
    return [work.result() for work in works]


class _Source:
    """Hands the samples out in order to whichever thread is free.

    Samples are taken in order and none is dropped once taken, so the first that fails is known whoever fails first.
    """

    def __init__(self, chunks: Iterable[Sequence[Sample]]) -> None:
        self._samples, self._lock = _numbered(chunks), threading.Lock()
        self.failed: list[tuple[float, Exception]] = []

    def feed(self, model: Model, tally: T) -> T:
        """Until nothing is left, or something failed anywhere."""
        number = np.inf  # of a chunk that cannot be read: behind every sample that was
        try:
            while not self.failed and (taken := self._take()):
                number = taken[0]
                tally.add(taken[0], model.run(*taken))
                number = np.inf
        except Exception as error:  # raised again by the caller, once every thread has ended
            self.failed.append((number, error))
        return tally

    def _take(self) -> tuple[int, Sample] | None:
        with self._lock:
            return next(self._samples, None)


def _numbered(chunks: Iterable[Sequence[Sample]]) -> Iterator[tuple[int, Sample]]:
    number = 0
    for place, chunk in enumerate(chunks):
        if not len(chunk):
            raise CalibrationError(
                f"chunk {place} (from 0) holds no sample", "leave out a part without samples, or fill it"
            )
        for sample in chunk:
            yield number, sample
            number += 1

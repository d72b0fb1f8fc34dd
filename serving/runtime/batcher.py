"""Dynamic batching, "dispatch when idle": a run takes whatever has queued while the one before it was computing.

Problem: a timer that waits for a fuller batch costs every request its delay, and timers below a millisecond do
not exist. While the engine is busy requests gather by themselves; when it is idle the first one starts at once.

Invariants: one run at a time, on one thread; every accepted request is answered exactly once, on the event loop;
a request that spoils a run (an error of the engine) does not spoil the others in it: each is then run alone.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import Final

import numpy as np

from serving.runtime.backend import Backend
from serving.runtime.batching import assemble, split, take
from serving.runtime.metrics import Metrics
from serving.runtime.oip import Array
from serving.runtime.refusal import Refusal
from serving.runtime.shapes import BATCH, Model, Sizes

log = logging.getLogger(__name__)
RETRY_AFTER_S: Final = 1

Outcome = dict[str, Array] | Refusal


class Call:
    """One request in the batcher. `done` is called once, on the event loop, unless the client has gone."""

    __slots__ = ("done", "gone", "queued_at", "sizes", "tensors")

    def __init__(self, tensors: Mapping[str, Array], sizes: Sizes, done: Callable[[Outcome], None]) -> None:
        self.tensors, self.sizes, self.done = tensors, sizes, done
        self.gone = False
        self.queued_at = perf_counter()


class Batcher:
    """The queue in front of one backend. All methods belong to the event loop; the thread only computes."""

    def __init__(
        self, model: Model, backend: Backend, metrics: Metrics, *, max_queue: int, max_delay_s: float
    ) -> None:
        self._model, self._backend, self._metrics = model, backend, metrics
        self._max_queue, self._max_delay_s = max_queue, max_delay_s
        self._waiting: deque[Call] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def prepare(self, load: Callable[[], None]) -> asyncio.Future[None]:
        """Run `load` (load and warm) on the engine's thread; the future ends with it."""
        ready: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put(lambda: self._prepare(load, ready))
        return ready

    def submit(self, call: Call) -> None:
        """Queue a call. Raises Refusal 429 when `max_queue` calls wait already."""
        if len(self._waiting) >= self._max_queue:
            raise Refusal(
                429,
                f"queue: {len(self._waiting)} requests wait, the most there may be; send it again later",
                "queue_full",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self._waiting.append(call)
        if not self._busy and self._timer is None:
            # The next turn of the loop: what arrived in the same read goes into the same run.
            self._timer = (
                self._loop.call_later(self._max_delay_s, self._dispatch)
                if self._max_delay_s > 0
                else self._loop.call_soon(self._dispatch)
            )

    def close(self) -> None:
        """End the thread after what it is doing, and free the engine."""
        self._inbox.put(None)
        self._thread.join()
        self._backend.close()

    def _dispatch(self) -> None:
        self._timer = None
        batch = take(self._waiting, self._model)
        self._busy = bool(batch)
        if batch:
            self._inbox.put(lambda: self._compute(batch))

    def _finish(self, batch: Sequence[Call], outcomes: Sequence[Outcome], began: float, ended: float) -> None:
        self._dispatch()  # first the next run, then the answers of this one: the engine does not wait for JSON
        self._metrics.compute.observe(ended - began)
        self._metrics.batch_rows.observe(sum(call.sizes.get(BATCH, 1) for call in batch))
        for call, outcome in zip(batch, outcomes, strict=True):
            self._metrics.queue.observe(began - call.queued_at)
            if not call.gone:
                call.done(outcome)

    # --- the engine's thread ---

    def _work(self) -> None:
        while (job := self._inbox.get()) is not None:
            job()

    def _prepare(self, load: Callable[[], None], ready: asyncio.Future[None]) -> None:
        try:
            load()
        except Exception as error:
            self._loop.call_soon_threadsafe(_fail, ready, error)
        else:
            self._loop.call_soon_threadsafe(_succeed, ready)

    def _compute(self, batch: Sequence[Call]) -> None:
        began = perf_counter()
        outcomes = self._run(batch)
        self._loop.call_soon_threadsafe(self._finish, batch, outcomes, began, perf_counter())

    def _run(self, batch: Sequence[Call]) -> list[Outcome]:
        try:
            outputs = self._backend.run(assemble(batch, self._model, exact=self._backend.exact))
            return [_checked(own) for own in split(batch, self._model, outputs)]
        except Exception as error:
            if len(batch) > 1:
                return [outcome for call in batch for outcome in self._run([call])]
            log.warning("the engine failed on one request: %s", error)
            reason = " ".join(str(error).split())[:300]
            return [Refusal(500, f"the engine failed on this request: {reason}", "backend")]


def _checked(outputs: dict[str, Array]) -> Outcome:
    """The outputs, unless a value in them is no number: such an answer looks like one and is none."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            return Refusal(
                500, f"output '{name}': {count} of {array.size} values are NaN or infinite", "nonfinite"
            )
    return outputs


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

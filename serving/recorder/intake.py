"""One mirrored request into samples. No socket, no clock, no file.

Problem: what a client sends is more than the model's inputs, and not all of it is what the spec says. Invariants:
nothing but the inputs' values leaves this module; each sample passed the check that calibration's reader makes, after
the redaction hook as well; the hook comes before anything is hashed or kept; what does not pass is counted by its
reason and gone.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from serving.recorder.metrics import Metrics
from serving.runtime.oip import decode
from serving.runtime.refusal import Refusal
from serving.runtime.shapes import Axis, Model, Tensor
from sluice.errors import FatalError
from sluice.model_inputs import Sample, SampleError, sample_of
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec

Hook = Callable[[dict[str, np.ndarray]], Any]


class HookError(FatalError):
    """A redaction hook that cannot be called."""

    def __init__(self, hook: str, problem: str) -> None:
        super().__init__(hook, problem)
        self.hook, self.problem = hook, problem

    @property
    def message(self) -> str:
        return f"recording.redact = {self.hook!r}: {self.problem}"

    @property
    def next_step(self) -> str:
        return "give module:function and put the module on PYTHONPATH; nothing is recorded without it"


def hook_of(text: str | None) -> Hook | None:
    """The function that `module:function` names. Raises HookError; without a hook, None."""
    if text is None:
        return None
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the team's own: it may fail in any way, and must not be skipped
        raise HookError(text, f"cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise HookError(text, f"is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


class Intake:
    """What is done with the requests of one service."""

    def __init__(self, spec: ReleaseSpec, hook: Hook | None, metrics: Metrics) -> None:
        self.service, self.inputs, self._axes = spec.service, spec.model.inputs, spec.model.axes
        self._hook, self._metrics = hook, metrics
        self._model = _model_of(spec)

    def samples(self, body: bytes, header_length: str | None) -> Iterator[Sample]:
        """One sample for each row of the request; each is a copy of its own."""
        try:
            tensors = decode(body, header_length, self._model).tensors
        except Refusal:
            self._metrics.drop(self.service, "unreadable")
            return
        rows = min(len(tensor) for tensor in tensors.values())
        if any(len(tensor) != rows for tensor in tensors.values()):
            self._metrics.drop(self.service, "no_sample")
            return
        for row in range(rows):
            sample = self._checked(
                {name: tensor[row].copy() for name, tensor in tensors.items()}, "no_sample"
            )
            if sample is not None and self._hook is not None:
                sample = self._redacted(self._hook, dict(sample))
            if sample is not None:
                yield sample

    def _redacted(self, hook: Hook, sample: dict[str, np.ndarray]) -> Sample | None:
        try:
            redacted = hook(sample)
        except (
            Exception
        ):  # the team's own code: whatever it raises (and may say of the sample), the sample is dropped
            self._metrics.drop(self.service, "redaction_failed")
            return None
        if redacted is None:
            self._metrics.drop(self.service, "redacted")
            return None
        return self._checked(redacted, "redaction_failed")

    def _checked(self, values: Any, reason: str) -> Sample | None:
        try:
            return sample_of(0, values, self.inputs, self._axes)
        except SampleError:
            self._metrics.drop(self.service, reason)
            return None


def sample_bytes(inputs: tuple[TensorSpec, ...], sizes: dict[str, int]) -> int:
    """Bytes of one un-batched sample whose axes have these sizes."""
    total = 0
    for spec in inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims[1:]]
        total += int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    return total


def _model_of(spec: ReleaseSpec) -> Model:
    def tensor(one: TensorSpec) -> Tensor:
        return Tensor(name=one.name, dtype=np.dtype(one.dtype), dims=tuple(one.dims))

    return Model(
        name=spec.service,
        version="",
        arch="",
        precision="",
        backend="",
        inputs={one.name: tensor(one) for one in spec.model.inputs},
        outputs={one.name: tensor(one) for one in spec.model.outputs},
        axes={
            name: Axis(low=axis.min, high=axis.max, buckets=(axis.max,))
            for name, axis in spec.model.axes.items()
        },
    )

"""Names, types and dimensions of the served model, and which shapes a request may have.

Problem: a request of a wrong shape must be refused with the tensor, the field, what was got and what is wanted,
and requests of different lengths may share a batch only where padding cannot change an answer.

Invariants: an axis has one size in a request, whatever the tensor; no size above its maximum gets through.
Padding (zeros) is allowed only for a model with an input whose name ends in `mask` over the padded axes: there a
zero says "not part of the request". Without it only requests of equal size share a batch, and nothing is padded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Final

import numpy as np

from serving.runtime.refusal import bad

BATCH: Final = "batch"  # the name of the axis that is rows of independent requests
MASK_SUFFIX: Final = "mask"

Sizes = dict[str, int]  # axis name -> its size in one request or one batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output; dims: a fixed size or the name of an axis."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape under the given sizes of the axes; KeyError for an axis that `sizes` lacks."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A dynamic axis: sizes from `low` to `high`; `buckets` ascending, the greatest is `high`."""

    low: int
    high: int
    buckets: tuple[int, ...]

    def bucket(self, size: int) -> int:
        """The smallest bucket that holds `size` (at most `high`)."""
        return next(bucket for bucket in self.buckets if bucket >= size)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is served, as requests see it. Built once from the engine's manifest."""

    name: str
    version: str
    arch: str
    precision: str
    backend: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    axes: Mapping[str, Axis]

    @cached_property
    def batched(self) -> bool:
        """True when rows of several requests may share one run: the batch axis leads every tensor."""
        tensors = (*self.inputs.values(), *self.outputs.values())
        return BATCH in self.axes and all(tensor.dims[:1] == (BATCH,) for tensor in tensors)

    @cached_property
    def padded_axes(self) -> frozenset[str]:
        """The axes that zeros may lengthen: those of an input `…mask`, but never the batch axis."""
        masks = [tensor for tensor in self.inputs.values() if tensor.name.endswith(MASK_SUFFIX)]
        return frozenset(dim for mask in masks for dim in mask.dims if isinstance(dim, str)) - {BATCH}

    @property
    def max_rows(self) -> int:
        """Rows of the largest batch; 1 for a model that is not batched."""
        return self.axes[BATCH].high if self.batched else 1

    def buckets(self, *, combined: bool) -> list[Sizes]:
        """What has to be warm before the model is ready, the smallest first.

        combined: every combination of buckets (an engine that prepares something per shape); otherwise each
        bucket of each axis once, with the other axes at their smallest.
        """
        used = sorted({dim for tensor in self.inputs.values() for dim in tensor.dims if isinstance(dim, str)})
        every = [
            dict(zip(used, sizes, strict=True)) for sizes in product(*(self.axes[n].buckets for n in used))
        ]
        smallest = {name: self.axes[name].buckets[0] for name in used}
        few = [sizes for sizes in every if sum(size != smallest[name] for name, size in sizes.items()) <= 1]
        return sorted(every if combined else few, key=lambda sizes: math.prod(sizes.values()))

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
        """Check the shapes of all inputs and give the size of each axis. Refusal 400 names the first misfit."""
        sizes: Sizes = {}
        for tensor in self.inputs.values():
            shape = shapes[tensor.name]
            if len(shape) != len(tensor.dims):
                raise _misfit(tensor, "shape", list(shape), f"{len(tensor.dims)} dimensions {_dims(tensor)}")
            for index, (size, dim) in enumerate(zip(shape, tensor.dims, strict=True)):
                self._check(tensor, index, size, dim, sizes)
        return sizes

    def _check(self, tensor: Tensor, index: int, size: int, dim: int | str, sizes: Sizes) -> None:
        field = f"shape[{index}]"
        if isinstance(dim, int):
            if size != dim:
                raise _misfit(tensor, field, size, str(dim))
            return
        axis = self.axes[dim]
        low = 1 if dim in self.padded_axes else axis.low  # what is too short is padded where it may be
        if not low <= size <= axis.high:
            raise _misfit(tensor, field, size, f"{low} to {axis.high} (axis {dim})")
        if sizes.setdefault(dim, size) != size:
            raise _misfit(tensor, field, size, f"{sizes[dim]} as in the inputs before it (axis {dim})")


def _misfit(tensor: Tensor, field: str, got: object, wanted: str) -> Exception:
    return bad(f"input '{tensor.name}': {field} is {got}, wanted {wanted}")


def _dims(tensor: Tensor) -> str:
    return f"[{', '.join(str(dim) for dim in tensor.dims)}]"


def model_of(manifest: Any, *, name: str, version: str) -> Model:
    """Build the Model from a `sluice.manifest.EngineManifest` under the name and version it is served as."""
    return Model(
        name=name,
        version=version,
        arch=manifest.arch,
        precision=manifest.precision,
        backend=manifest.backend,
        inputs={tensor.name: _tensor(tensor) for tensor in manifest.inputs},
        outputs={tensor.name: _tensor(tensor) for tensor in manifest.outputs},
        axes={key: _axis(axis) for key, axis in manifest.axes.items()},
    )


def _tensor(spec: Any) -> Tensor:
    return Tensor(name=spec.name, dtype=np.dtype(spec.dtype), dims=tuple(spec.dims))


def _axis(spec: Any) -> Axis:
    buckets = sorted({bucket for bucket in spec.buckets if bucket <= spec.max} | {spec.max})
    return Axis(low=spec.min, high=spec.max, buckets=tuple(buckets))

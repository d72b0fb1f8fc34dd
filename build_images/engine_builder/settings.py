"""What a backend that builds ahead of time is told: limits, and the shapes to optimise for. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice.model_inputs import AxisRange
from sluice.signature import TensorSpec
from sluice.spec import ReleaseSpec, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Of one input: the least, the best-served and the largest shape."""

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """profiles: input name -> range, one mapping per optimisation profile. time_limit_s: of one build."""

    threads: int
    profiles: tuple[Mapping[str, ShapeRange], ...]
    workspace_bytes: int
    optimization_level: int
    time_limit_s: float


def settings_of(spec: ReleaseSpec, target: Target, threads: int) -> BuildSettings:
    """The settings of one target's build."""
    return BuildSettings(
        threads=threads,
        profiles=tuple(profiles_of(spec.model.inputs, spec.model.axes)),
        workspace_bytes=target.build.workspace_mib * 2**20,
        optimization_level=target.build.optimization_level,
        time_limit_s=target.build.time_limit_s,
    )


def profiles_of(inputs: Sequence[TensorSpec], axes: Mapping[str, Any]) -> Iterator[dict[str, ShapeRange]]:
    """One profile for each bucket of the batch axis; together they hold every shape, each batch size once.

    The other axes keep their whole range in each: docs/decisions/0007 has the cost of more.
    """
    batch = inputs[0].dims[0]
    if not isinstance(batch, str):
        yield _profile(inputs, axes)
        return
    axis, least = axes[batch], axes[batch].min
    last = axis.buckets[-1]
    for bucket in axis.buckets:
        most = axis.max if bucket == last else bucket
        yield _profile(inputs, {**axes, batch: _Range(least, bucket, most)})
        least = bucket + 1


@dataclass(frozen=True, slots=True)
class _Range:
    min: int
    opt: int
    max: int


def _profile(inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange]) -> dict[str, ShapeRange]:
    def shape(tensor: TensorSpec, point: str) -> tuple[int, ...]:
        return tuple(getattr(axes[dim], point) if isinstance(dim, str) else dim for dim in tensor.dims)

    return {
        tensor.name: ShapeRange(
            least=shape(tensor, "min"), best=shape(tensor, "opt"), most=shape(tensor, "max")
        )
        for tensor in inputs
    }

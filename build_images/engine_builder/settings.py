"""What a backend that builds ahead of time is told: limits, and the shapes to optimise for. Pure."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

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
    """profiles: input name -> range, one mapping per optimisation profile. time_limit_s: of one build.

    cache: file of the timing cache, read before a build where it exists and written after it; None: without one.
    replay: refuse a build that needs a timing which the cache does not hold.
    """

    threads: int
    profiles: tuple[Mapping[str, ShapeRange], ...]
    workspace_bytes: int
    optimization_level: int
    time_limit_s: float
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    strip_weights: bool = False
    cache: Path | None = None
    replay: bool = False

    def one_profile(self) -> Self:
        """The same with one profile over all shapes, best where the last one is."""
        first, last = self.profiles[0], self.profiles[-1]
        joined = {
            name: ShapeRange(least=first[name].least, best=shape.best, most=shape.most)
            for name, shape in last.items()
        }
        return replace(self, profiles=(joined,))


def settings_of(spec: ReleaseSpec, target: Target, threads: int, cache: Path | None = None) -> BuildSettings:
    """The settings of one target's build."""
    build = target.build
    return BuildSettings(
        threads=threads,
        profiles=tuple(profiles_of(spec.model.inputs, spec.model.axes, build.profiles)),
        workspace_bytes=build.workspace_mib * 2**20,
        optimization_level=build.optimization_level,
        time_limit_s=build.time_limit_s,
        hardware_compatibility=build.hardware_compatibility,
        version_compatible=build.version_compatible,
        strip_weights=build.strip_weights,
        cache=cache,
        replay=build.replays,
    )


def profiles_of(
    inputs: Sequence[TensorSpec], axes: Mapping[str, Any], split: Mapping[str, Sequence[int]] | None = None
) -> Iterator[dict[str, ShapeRange]]:
    """One profile for each combination of the sizes in `split`, by axis; None: of every bucket of the batch axis.

    Together they hold every shape, each size of a split axis once. Other axes keep their whole range in each:
    docs/decisions/0007 has the cost of more.
    """
    batch = inputs[0].dims[0]
    if split is None:
        split = {batch: axes[batch].buckets} if isinstance(batch, str) else {}
    parts = [[(name, part) for part in _parts(axes[name], sizes)] for name, sizes in split.items()]
    for chosen in itertools.product(*parts):
        yield _profile(inputs, {**axes, **dict(chosen)})


def _parts(axis: AxisRange, sizes: Sequence[int]) -> Iterator["_Range"]:
    """Each range ends at its size and is best there; the last one reaches to the axis' end."""
    least = axis.min
    for size in sizes:
        yield _Range(least, size, axis.max if size == sizes[-1] else size)
        least = size + 1


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

"""Every candidate built, run on real samples, timed and weighed, all side by side."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from build_images.engine_builder.accuracy import Accuracy, accuracy, mixed, references
from build_images.engine_builder.backend import Backend, Candidate, Layers
from build_images.engine_builder.errors import (
    DeviceMemoryError,
    LargestShapeError,
    NoPlanError,
    UnsupportedNodeError,
)
from build_images.engine_builder.measure import Timing
from build_images.engine_builder.request import BuildRequest
from build_images.engine_builder.settings import BuildSettings, settings_of
from build_images.engine_builder.task import TaskBench, TaskResult
from sluice.errors import FatalError, SluiceError
from sluice.model_inputs import batches, fill, label
from sluice.spec import ReleaseSpec, Target

ONE_PROFILE: Final = "one profile"
# Of one candidate: another precision may do.
OF_ONE: Final = (NoPlanError, UnsupportedNodeError, DeviceMemoryError, LargestShapeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one candidate showed. task: None without one. timings: by shape. build: what the backend tells of it."""

    candidate: Candidate
    engine: Path
    accuracy: dict[str, Accuracy]
    task: TaskResult | None
    timings: dict[str, Timing]  # empty where the engine cannot run
    peak_memory_bytes: int | None
    engine_bytes: int
    build_seconds: float
    build: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "precision": self.candidate.precision,
            "engine_bytes": self.engine_bytes,
            "build_seconds": self.build_seconds,
            "build": dict(self.build),
            "accuracy": {name: one.to_dict() for name, one in self.accuracy.items()},
            "task": self.task.to_dict() if self.task else None,
            "timings": {shape: one.to_dict() for shape, one in self.timings.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True, slots=True)
class _Built:
    """An engine, the seconds that it took, what the backend tells of it, and its memory at the largest shape."""

    engine: Path
    seconds: float
    told: Mapping[str, Any]
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and on what all candidates are measured. work: a folder; one folder in it per candidate.

    cache: file of the timing cache; None without one.
    """

    backend: Backend
    request: BuildRequest
    work: Path
    cache: Path | None

    @property
    def spec(self) -> ReleaseSpec:
        return self.request.spec

    @property
    def threads(self) -> int:
        return threads_of(self.request.target)

    @property
    def settings(self) -> BuildSettings:
        return settings_of(self.spec, self.request.target, self.threads, self.cache)

    @property
    def runs_here(self) -> bool:
        return self.backend.runs_here(self.request.target.arch)

    @property
    def why_not_timed(self) -> str:
        return f"built ahead of time for {self.request.target.arch}, which this machine does not run"

    @property
    def ranked_by(self) -> str:
        """The shape that candidates are ranked by."""
        return label(_opt_sizes(self.spec))

    def profile(self, candidates: Sequence[Candidate]) -> tuple[dict[str, Profile], dict[str, FatalError]]:
        """Build and measure every candidate, accuracy against the FP32 ONNX; and those that cannot be built or served.

        Where an engine cannot run, the very ONNX that it is built from is judged instead, and nothing is timed.
        """
        built, failed = self._all_built(candidates)
        made = [one for one in candidates if one.name in built]
        engines = {name: one.engine for name, one in built.items()}
        judged = self._judged(made, engines)
        timings = self._timings(engines) if engines else {}
        profiles = {
            one.name: Profile(
                candidate=one,
                engine=engines[one.name],
                accuracy=judged[one.name][0],
                task=judged[one.name][1],
                timings={shape: measured[one.name] for shape, measured in timings.items()},
                peak_memory_bytes=built[one.name].peak_bytes,
                engine_bytes=_bytes(engines[one.name].parent),
                build_seconds=built[one.name].seconds,
                build=built[one.name].told,
            )
            for one in made
        }
        return profiles, failed

    def _all_built(self, candidates: Sequence[Candidate]) -> tuple[dict[str, _Built], dict[str, FatalError]]:
        """Each runs its largest shape alone first: one that fails there need not be timed beside the others."""
        built: dict[str, _Built] = {}
        failed: dict[str, FatalError] = {}
        for one in candidates:
            try:
                made = self._built(one, one.name, self.settings)
                built[one.name] = replace(made, peak_bytes=self._peak(made.engine))
            except OF_ONE as error:
                print(f"left out: {one.name}: {error.message}", flush=True)
                failed[one.name] = error
        return built, failed

    def layers(self, engine: Path) -> Layers | None:
        """The slowest layers at the shape that ranks; None where the engine cannot run or the library does not tell."""
        if not self.runs_here:
            return None
        feed = fill(_opt_sizes(self.spec), self.request.samples, self.spec.model.inputs)
        return self.backend.layers(engine, feed)

    def one_profile(self, best: Profile) -> dict[str, dict[str, float]] | None:
        """{shape: {p50_ms, one_profile_p50_ms, ratio}}: what one profile over all shapes would have cost.

        ratio: over 1 where the chosen engine is faster. None unless the spec asks, and there are several profiles.
        """
        settings = self.settings
        if (
            not (self.request.target.build.compare_one_profile and self.runs_here)
            or len(settings.profiles) < 2
        ):
            return None
        try:
            built = self._built(best.candidate, ONE_PROFILE, settings.one_profile())
            timed = self._timings({"own": best.engine, ONE_PROFILE: built.engine})
        except SluiceError as error:  # it is for the report alone
            print(f"not compared with one profile: {error.message}", flush=True)
            return None
        return {
            shape: {
                "p50_ms": both["own"].p50_ms,
                "one_profile_p50_ms": both[ONE_PROFILE].p50_ms,
                "ratio": both[ONE_PROFILE].p50_ms / both["own"].p50_ms,
            }
            for shape, both in timed.items()
        }

    def _built(self, candidate: Candidate, folder: str, settings: BuildSettings) -> _Built:
        engine = self.work / folder / self.backend.engine_file
        engine.parent.mkdir()
        start = time.monotonic()
        told = self.backend.build(candidate, engine, arch=self.request.target.arch, settings=settings)
        return _Built(engine, time.monotonic() - start, told)

    def _judged(
        self, candidates: Sequence[Candidate], engines: Mapping[str, Path]
    ) -> dict[str, tuple[dict[str, Accuracy], TaskResult | None]]:
        backend, spec, threads = self.backend, self.spec, self.threads
        feeds = batches(self.request.samples, spec.model.inputs, lambda axis: spec.model.axes[axis].min)
        reference = backend.reference(self.request.onnx, threads=threads)
        expected = references(reference, feeds)
        rows = mixed(self.request.samples, spec.model.inputs, spec.model.outputs, self._batch_sizes())
        served = [(one, reference(one.feed)) for one in rows]
        task = TaskBench(spec, self.request.samples, self.request.pairs, reference)
        found = {}
        for one in candidates:
            if self.runs_here:
                run = backend.open(engines[one.name], threads=threads)
            else:
                run = backend.reference(one.source, threads=threads)
            found[one.name] = accuracy(run, expected, served), task.result(run)
        return found

    def _timings(self, engines: Mapping[str, Path]) -> dict[str, dict[str, Timing]]:
        if not self.runs_here:
            return {}
        found = {}
        for sizes in self._shapes():
            feed = fill(sizes, self.request.samples, self.spec.model.inputs)
            found[label(sizes)] = self.backend.time(engines, feed, threads=self.threads)
            said = ", ".join(f"{name} {one.p50_ms:.2f} ms" for name, one in found[label(sizes)].items())
            print(f"timed {label(sizes)}: {said}", flush=True)
        return found

    def _batch_sizes(self) -> list[int]:
        """Every bucket of the batch axis beside its least size, which the samples are judged at."""
        first = self.spec.model.inputs[0].dims[0]
        if not isinstance(first, str):
            return []
        axis = self.spec.model.axes[first]
        return [size for size in axis.buckets if size != axis.min]

    def _shapes(self) -> list[dict[str, int]]:
        """The shape that ranks, one row of it (latency of a lone request), and every bucket where that is cheap."""
        opt, axes = _opt_sizes(self.spec), self.spec.model.axes
        first = self.spec.model.inputs[0].dims[0]
        shapes = [opt, {**opt, first: axes[first].min}] if isinstance(first, str) else [opt]
        if self.backend.every_bucket:
            sizes = itertools.product(*(axis.buckets for axis in axes.values()))
            shapes += [dict(zip(axes, chosen, strict=True)) for chosen in sizes]
        return list({label(one): one for one in shapes}.values())

    def _peak(self, engine: Path) -> int | None:
        """At the largest shape; None where the engine cannot run."""
        if not self.runs_here:
            return None
        sizes = {name: axis.max for name, axis in self.spec.model.axes.items()}
        largest = fill(sizes, self.request.samples, self.spec.model.inputs)
        return self.backend.peak_memory_bytes(engine, largest, threads=self.threads)


def _opt_sizes(spec: ReleaseSpec) -> dict[str, int]:
    return {name: axis.opt for name, axis in spec.model.axes.items()}


def _bytes(folder: Path) -> int:
    return sum(part.stat().st_size for part in folder.iterdir())


def threads_of(target: Target) -> int:
    """Whole cores that the target's pods may use: at least 1, and `500m` is one."""
    cpu = target.resources.cpu
    cores = float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, math.ceil(cores))

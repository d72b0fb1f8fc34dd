"""From the release's ONNX to one engine for this machine, with what was measured and why it was chosen."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from artifacts.store import Store
from artifacts.tree import tree_files
from build_images.engine_builder.accuracy import Accuracy, accuracy, least_cosine, references
from build_images.engine_builder.backend import Backend, Candidate, Feed, Run, backend_of
from build_images.engine_builder.choose import Choice, Measured, choose
from build_images.engine_builder.measure import Timing, measure
from build_images.engine_builder.settings import settings_of
from sluice.manifest import MANIFEST_FILE, OF_ENGINE, OF_ONNX, EngineManifest
from sluice.model_inputs import Sample, batches, fill, label, wanted_samples
from sluice.release import Release
from sluice.spec import ReleaseSpec, Target
from sluice.spec_types import int8_file

PROFILE_BUDGET_S: Final = (
    2.0  # for each of two shapes, all candidates together: live traffic shares the machine
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one candidate showed. timings: by shape."""

    candidate: Candidate
    engine: Path
    accuracy: dict[str, Accuracy]
    timings: dict[str, Timing]  # empty where the engine cannot run
    peak_memory_bytes: int | None
    engine_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "precision": self.candidate.precision,
            "engine_bytes": self.engine_bytes,
            "accuracy": {name: one.to_dict() for name, one in self.accuracy.items()},
            "timings": {shape: one.to_dict() for shape, one in self.timings.items()},
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and on what all candidates are measured. work: a folder; one folder in it per candidate."""

    backend: Backend
    spec: ReleaseSpec
    target: Target
    samples: Sequence[Sample]
    work: Path

    @property
    def threads(self) -> int:
        return threads_of(self.target)

    @property
    def runs_here(self) -> bool:
        return self.backend.runs_here(self.target.arch)

    @property
    def why_not_timed(self) -> str:
        return f"built ahead of time for {self.target.arch}, which this machine does not run"


def build_release(store: Store, release: Release, arch: str) -> Choice:
    """Publish the `engine` artifact of one target; return what was chosen and why."""
    spec, target = release.spec, release.spec.target(arch)
    backend = backend_of(target.backend)
    backend.check_device(arch)
    samples = held_out(store.get("checkpoint", release.keys.checkpoint).path, spec)
    with store.staged("engine", release.keys.engine(arch)) as draft, tempfile.TemporaryDirectory() as work:
        candidates, left_out = candidates_of(store, release, backend, Path(work))
        bench = Bench(backend=backend, spec=spec, target=target, samples=samples, work=Path(work))
        profiles = profile(bench, candidates)
        choice = _chosen(profiles, spec, left_out)
        best = profiles[choice.name]
        for part in best.engine.parent.iterdir():
            shutil.move(part, draft.path / part.name)
        report = _report(bench, profiles, choice)
        (draft.path / "report.json").write_text(
            json.dumps(report, indent=1, allow_nan=False), encoding="utf-8"
        )
        onnx_sha256 = store.get("onnx", release.keys.onnx).facts["onnx_sha256"]
        manifest = _manifest(release, target, bench, best, draft.path, onnx_sha256)
        (draft.path / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        draft.publish({"precision": best.candidate.precision, "reason": choice.reason, "built": True})
    return choice


def held_out(checkpoint: Path, spec: ReleaseSpec) -> tuple[Sample, ...]:
    """The `numerics.samples` samples behind those that calibrate. Raises TooFewSamplesError."""
    used = spec.calibration.samples if "int8" in spec.precisions else 0
    text = (checkpoint / spec.model.samples).read_text(encoding="utf-8")
    wanted, field_name = spec.numerics.samples, "numerics.samples"
    return wanted_samples(
        text, spec.model.inputs, spec.model.axes, field_name=field_name, wanted=wanted, used=used
    )


def candidates_of(
    store: Store, release: Release, backend: Backend, work: Path
) -> tuple[list[Candidate], dict[str, str]]:
    """What is built, FP32 first and always; and each asked-for precision that cannot be, with the reason."""
    onnx = store.get("onnx", release.keys.onnx).path / "model.onnx"
    candidates = [Candidate(name="fp32", precision="fp32", source=onnx)]
    asked = release.spec.precisions
    left_out = {
        precision: f"backend {type(backend).__name__} cannot build it on this machine"
        for precision in asked
        if precision not in backend.precisions()
    }
    if "fp16" in asked and "fp16" not in left_out:
        from build_images.engine_builder.precision import (
            write_fp16,
        )  # needs onnx, which nothing else here does

        write_fp16(onnx, work / "fp16.onnx")
        candidates.append(Candidate(name="fp16", precision="fp16", source=work / "fp16.onnx"))
    if "int8" in asked and "int8" not in left_out:
        calibrated = store.get("calibration", release.keys.calibration)
        candidates += [
            Candidate(
                name=f"int8-{method}",
                precision="int8",
                source=calibrated.path / int8_file(backend.int8_form, method),
            )
            for method in calibrated.facts["methods"]
        ]
    return candidates, left_out


def profile(bench: Bench, candidates: Sequence[Candidate]) -> dict[str, Profile]:
    """Build and measure every candidate; accuracy against the first one's ONNX, which is FP32.

    Where an engine cannot run, the very ONNX that it is built from is judged instead, and nothing is timed.
    """
    backend, spec, threads = bench.backend, bench.spec, bench.threads
    engines = {one.name: bench.work / one.name / backend.engine_file for one in candidates}
    settings = settings_of(spec, bench.target, threads)
    for one in candidates:
        engines[one.name].parent.mkdir()
        backend.build(one.source, engines[one.name], arch=bench.target.arch, settings=settings)
    if bench.runs_here:
        runs = {name: backend.open(engine, threads=threads) for name, engine in engines.items()}
    else:
        runs = {one.name: backend.reference(one.source, threads=threads) for one in candidates}
    feeds = batches(bench.samples, spec.model.inputs, lambda axis: spec.model.axes[axis].min)
    expected = references(backend.reference(candidates[0].source, threads=threads), feeds)
    accuracies = {name: accuracy(run, expected) for name, run in runs.items()}
    timings = _timings(bench, runs)
    return {
        one.name: Profile(
            candidate=one,
            engine=engines[one.name],
            accuracy=accuracies[one.name],
            timings={shape: measured[one.name] for shape, measured in timings.items()},
            peak_memory_bytes=_peak(bench, engines[one.name]),
            engine_bytes=sum(part.stat().st_size for part in engines[one.name].parent.iterdir()),
        )
        for one in candidates
    }


def _timings(bench: Bench, runs: Mapping[str, Run]) -> dict[str, dict[str, Timing]]:
    if not bench.runs_here:
        return {}
    return {shape: measure(runs, feed, budget_s=PROFILE_BUDGET_S) for shape, feed in _shapes(bench).items()}


def _peak(bench: Bench, engine: Path) -> int | None:
    """At the largest shape; None where the engine cannot run."""
    if not bench.runs_here:
        return None
    axes = bench.spec.model.axes
    largest = fill({name: axis.max for name, axis in axes.items()}, bench.samples, bench.spec.model.inputs)
    return bench.backend.peak_memory_bytes(engine, largest, threads=bench.threads)


def opt_sizes(spec: ReleaseSpec) -> dict[str, int]:
    """The shape that candidates are ranked by."""
    return {name: axis.opt for name, axis in spec.model.axes.items()}


def threads_of(target: Target) -> int:
    """Whole cores that the target's pods may use: at least 1, and `500m` is one."""
    cpu = target.resources.cpu
    cores = float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, math.ceil(cores))


def _shapes(bench: Bench) -> dict[str, Feed]:
    """The shape that ranks, and one row of it: latency under load, and latency of a lone request."""
    opt = opt_sizes(bench.spec)
    first = bench.spec.model.inputs[0].dims[0]
    shapes = [opt, {**opt, first: bench.spec.model.axes[first].min}] if isinstance(first, str) else [opt]
    return {label(sizes): fill(sizes, bench.samples, bench.spec.model.inputs) for sizes in shapes}


def _chosen(profiles: Mapping[str, Profile], spec: ReleaseSpec, left_out: Mapping[str, str]) -> Choice:
    ranked_by = label(opt_sizes(spec))
    measured = [
        Measured(
            name=name,
            precision=one.candidate.precision,
            cosine=least_cosine(one.accuracy),
            p50_ms=one.timings[ranked_by].p50_ms if one.timings else None,
        )
        for name, one in profiles.items()
    ]
    bars = {name: bar.cosine for name, bar in spec.accuracy.items()}
    return choose(measured, bars, spec.precisions, left_out)


def _report(bench: Bench, profiles: Mapping[str, Profile], choice: Choice) -> dict[str, Any]:
    return {
        "schema": 1,
        "chosen": choice.name,
        "reason": choice.reason,
        "ranked_by": label(opt_sizes(bench.spec)),
        "rejected": dict(choice.rejected),
        "candidates": {name: one.to_dict() for name, one in profiles.items()},
        "accuracy_samples": len(bench.samples),
        "accuracy_of": OF_ENGINE if bench.runs_here else OF_ONNX,
        "measured": bench.runs_here,
        "why_not_measured": None if bench.runs_here else bench.why_not_timed,
        "threads": bench.threads,
        "device": bench.backend.device(),
    }


def _manifest(
    release: Release, target: Target, bench: Bench, best: Profile, folder: Path, onnx_sha256: str
) -> EngineManifest:
    spec, int8 = release.spec, best.candidate.precision == "int8"
    return EngineManifest.from_json(
        {
            "schema": 1,
            "service": spec.service,
            "arch": target.arch,
            "backend": target.backend,
            "backend_version": bench.backend.version(),
            "precision": best.candidate.precision,
            "onnx_sha256": onnx_sha256,  # the FP32 model; calibration_sha256 tells the rest of the way
            "engine_file": best.engine.name,
            "engine_sha256": tree_files(folder)[best.engine.name].sha256,
            "calibration_sha256": release.keys.calibration if int8 else None,
            **spec.signature.to_dict(),
            "axes": spec.to_dict()["model"]["axes"],
            "accuracy": {name: one.to_dict() for name, one in best.accuracy.items()},
            "accuracy_of": OF_ENGINE if bench.runs_here else OF_ONNX,
            "performance": _performance(bench, best),
            "device": bench.backend.device(),
        }
    )


def _performance(bench: Bench, best: Profile) -> dict[str, Any]:
    if not bench.runs_here:
        return {"measured": False, "why": bench.why_not_timed}
    ranked_by = label(opt_sizes(bench.spec))
    return {
        **best.timings[ranked_by].to_dict(),
        "shape": ranked_by,
        "threads": bench.threads,
        "peak_memory_bytes": best.peak_memory_bytes,
    }

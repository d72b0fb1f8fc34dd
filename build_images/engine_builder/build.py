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
from build_images.engine_builder.backend import Backend, Candidate, Feed, backend_of
from build_images.engine_builder.choose import Choice, Measured, choose
from build_images.engine_builder.device import require_arch
from build_images.engine_builder.measure import Timing, measure
from sluice.manifest import MANIFEST_FILE, EngineManifest
from sluice.model_inputs import Sample, batches, fill, label, wanted_samples
from sluice.release import Release
from sluice.spec import ReleaseSpec, Target

PROFILE_BUDGET_S: Final = (
    2.0  # for each of two shapes, all candidates together: live traffic shares the machine
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one candidate showed. timings: by shape."""

    candidate: Candidate
    engine: Path
    accuracy: dict[str, Accuracy]
    timings: dict[str, Timing]
    peak_memory_bytes: int
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
    samples: Sequence[Sample]
    threads: int
    work: Path


def build_release(store: Store, release: Release, arch: str) -> Choice:
    """Publish the `engine` artifact of one target; return what was chosen and why."""
    spec, target = release.spec, release.spec.target(arch)
    backend = backend_of(target.backend)
    require_arch(arch, backend.device())
    samples = held_out(store.get("checkpoint", release.keys.checkpoint).path, spec)
    candidates, left_out = candidates_of(store, release, backend)
    with store.staged("engine", release.keys.engine(arch)) as draft, tempfile.TemporaryDirectory() as work:
        bench = Bench(
            backend=backend, spec=spec, samples=samples, threads=threads_of(target), work=Path(work)
        )
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


def candidates_of(store: Store, release: Release, backend: Backend) -> tuple[list[Candidate], dict[str, str]]:
    """What is built, FP32 first and always; and each asked-for precision that cannot be, with the reason."""
    onnx = store.get("onnx", release.keys.onnx).path / "model.onnx"
    candidates = [Candidate(name="fp32", precision="fp32", source=onnx)]
    asked = release.spec.precisions
    left_out = {
        precision: f"backend {type(backend).__name__} cannot build it on this machine"
        for precision in asked
        if precision not in backend.precisions()
    }
    if "int8" in asked and "int8" not in left_out:
        calibrated = store.get("calibration", release.keys.calibration)
        candidates += [
            Candidate(name=f"int8-{method}", precision="int8", source=calibrated.path / f"int8_{method}.onnx")
            for method in calibrated.facts["methods"]
        ]
    return candidates, left_out


def profile(bench: Bench, candidates: Sequence[Candidate]) -> dict[str, Profile]:
    """Build and measure every candidate; accuracy against the first one's ONNX, which is FP32."""
    backend, spec, threads = bench.backend, bench.spec, bench.threads
    engines = {one.name: bench.work / one.name / backend.engine_file for one in candidates}
    for one in candidates:
        engines[one.name].parent.mkdir()
        backend.build(one.source, engines[one.name], threads=threads)
    runs = {name: backend.open(engine, threads=threads) for name, engine in engines.items()}
    feeds = batches(bench.samples, spec.model.inputs, lambda axis: spec.model.axes[axis].min)
    expected = references(backend.reference(candidates[0].source, threads=threads), feeds)
    accuracies = {name: accuracy(run, expected) for name, run in runs.items()}
    timings = {
        shape: measure(runs, feed, budget_s=PROFILE_BUDGET_S) for shape, feed in _shapes(bench).items()
    }
    largest = fill(
        {name: axis.max for name, axis in spec.model.axes.items()}, bench.samples, spec.model.inputs
    )
    return {
        one.name: Profile(
            candidate=one,
            engine=engines[one.name],
            accuracy=accuracies[one.name],
            timings={shape: measured[one.name] for shape, measured in timings.items()},
            peak_memory_bytes=backend.peak_memory_bytes(engines[one.name], largest, threads=threads),
            engine_bytes=sum(part.stat().st_size for part in engines[one.name].parent.iterdir()),
        )
        for one in candidates
    }


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
            p50_ms=one.timings[ranked_by].p50_ms,
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
        "threads": bench.threads,
        "device": bench.backend.device(),
    }


def _manifest(
    release: Release, target: Target, bench: Bench, best: Profile, folder: Path, onnx_sha256: str
) -> EngineManifest:
    spec, int8 = release.spec, best.candidate.precision == "int8"
    ranked_by = label(opt_sizes(spec))
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
            "performance": {
                **best.timings[ranked_by].to_dict(),
                "shape": ranked_by,
                "threads": bench.threads,
                "peak_memory_bytes": best.peak_memory_bytes,
            },
            "device": bench.backend.device(),
        }
    )

"""From one ONNX to the engine that is served on one kind of machine, with what was measured and why it was chosen."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from artifacts.store import Store
from build_images.engine_builder.accuracy import least_cosine
from build_images.engine_builder.backend import Backend, backend_of
from build_images.engine_builder.bench import Bench, Profile
from build_images.engine_builder.candidates import candidates_of, fallback
from build_images.engine_builder.choose import FALLBACK, Choice, Measured, choose, passes
from build_images.engine_builder.errors import NoStoreError
from build_images.engine_builder.report import Outcome, manifest_of, report_of
from build_images.engine_builder.request import BuildRequest
from build_images.engine_builder.timing_cache import BuildCache
from build_images.engine_builder.weights import keep_weights
from sluice.manifest import MANIFEST_FILE
from sluice.release import Release
from sluice.spec import ReleaseSpec

REPORT_FILE: Final = "report.json"
LAYERS_FILE: Final = "layers.json"  # the library's own account of the engine


def build_release(store: Store, release: Release, arch: str) -> Choice:
    """Publish the `engine` artifact of one target; return what was chosen and why."""
    with ready_backend(release.spec, arch) as backend:
        request = BuildRequest.of_release(store, release, arch)
        with store.staged("engine", release.keys.engine(arch)) as draft:
            best, choice = build_engine(request, backend, draft.path)
            draft.publish({"precision": best.candidate.precision, "reason": choice.reason, "built": True})
    return choice


@contextlib.contextmanager
def ready_backend(spec: ReleaseSpec, arch: str) -> Iterator[Backend]:
    """The target's backend, once the device is seen to be the target's: before anything is read or built.

    Raises WrongDeviceError, NoDeviceError, UnknownBackendError.
    """
    with contextlib.closing(backend_of(spec.target(arch).backend)) as backend:
        backend.check_device(arch)
        yield backend


def build_engine(request: BuildRequest, backend: Backend, folder: Path) -> tuple[Profile, Choice]:
    """Fill `folder` (there, and empty) with the engine, its manifest and its report; what was chosen and why.

    Raises NoEngineError when nothing may be served.
    """
    with tempfile.TemporaryDirectory() as work:
        found, bench = _found(request, backend, Path(work))
        for part in found.best.engine.parent.iterdir():
            shutil.move(part, folder / part.name)
        if found.layers is not None:
            (folder / LAYERS_FILE).write_text(found.layers.described, encoding="utf-8")
        _write(folder / REPORT_FILE, report_of(bench, found))
        manifest = manifest_of(bench, found, folder)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        return found.best, found.choice


def _found(request: BuildRequest, backend: Backend, work: Path) -> tuple[Outcome, Bench]:
    """Build, measure and choose. Raises NoStoreError, NoEngineError, and what the backend raises for FP32."""
    if request.strips_weights and request.store is None:
        raise NoStoreError("strip_weights")
    cache = BuildCache.begin(request, backend, work / "timing.cache")
    bench = Bench(backend=backend, request=request, work=work, cache=cache.file if cache else None)
    try:
        profiles, choice = _chosen(bench)
        one_profile = bench.one_profile(profiles[choice.name])
    finally:  # what was timed is worth keeping even when nothing came of it
        kept = cache.keep() if cache else None
    best = profiles[choice.name]
    found = Outcome(
        profiles=profiles,
        choice=choice,
        one_profile=one_profile,
        layers=bench.layers(best.engine),
        timing_cache=kept,
        weights_sha256=keep_weights(request, best.candidate),
    )
    return found, bench


def _chosen(bench: Bench) -> tuple[dict[str, Profile], Choice]:
    """The asked-for precisions first; FP32 as well when none of them is built and good enough, at the task too."""
    request = bench.request
    candidates, left_out = candidates_of(request, bench.backend, bench.work)
    profiles, failed = bench.profile(candidates)
    bars = {name: bar.cosine for name, bar in request.spec.accuracy.items()}
    max_drop = request.spec.task.max_drop if request.spec.task else None
    if FALLBACK not in {*profiles, *failed} and not any(
        passes(one, bars, max_drop) for one in _measured(profiles, bench)
    ):
        more, more_failed = bench.profile([fallback(request)])
        profiles |= more
        failed |= more_failed
    if not profiles:
        raise failed[FALLBACK]
    left_out |= {name: error.message for name, error in failed.items()}
    return profiles, choose(_measured(profiles, bench), bars, request.spec.precisions, left_out, max_drop)


def _measured(profiles: Mapping[str, Profile], bench: Bench) -> list[Measured]:
    return [
        Measured(
            name=name,
            precision=one.candidate.precision,
            cosine=least_cosine(one.accuracy),
            p50_ms=one.timings[bench.ranked_by].p50_ms if one.timings else None,
            task=one.task,
        )
        for name, one in profiles.items()
    ]


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")

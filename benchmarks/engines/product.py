"""A model on the product's own way: spec, release, store, export, calibration, and the builder as a pod runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import yaml

from artifacts.store import Store, tree_sha256
from artifacts.tree import files_of
from benchmarks.engines.clock import Clock, OutOfTimeError
from benchmarks.engines.models import Subject
from sluice.cosine import cosines
from sluice.model_inputs import Sample, batch, fill, wanted_samples
from sluice.release import Release
from sluice.spec import parse_spec

REPO: Final = Path(__file__).resolve().parents[2]
SAID: Final = 400  # characters of a failed process' last line
UNCHANGED: Final = "unchanged: engine"


class StepError(RuntimeError):
    """A step that failed; the text stands where its figures would."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where engines are built and run. price: of one hour of the device; None: unknown."""

    arch: str
    backend: str
    threads: int
    price: float | None

    @property
    def device(self) -> str:
        """Of the PyTorch sides."""
        return "cuda" if self.backend == "tensorrt" else "cpu"

    @property
    def precision(self) -> str:
        """That the sides are compared in: what the device is made for."""
        return "fp16" if self.device == "cuda" else "fp32"


@dataclass(frozen=True, slots=True)
class Product:
    """One released model. store: holds its checkpoint and release document; the rest is made by the steps."""

    subject: Subject
    place: Place
    work: Path
    store: Store
    release: Release

    @classmethod
    def released(cls, subject: Subject, place: Place, work: Path) -> "Product":
        """Write the checkpoint and resolve the release, or find both where an earlier run left them."""
        checkpoint, store = work / "source" / "checkpoint", Store(work / "store")
        if not checkpoint.is_dir():
            unfinished = checkpoint.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            subject.write(unfinished)
            unfinished.rename(checkpoint)
        raw = subject.spec(
            arch=place.arch,
            backend=place.backend,
            threads=place.threads,
            checkpoint=checkpoint,
            price=place.price,
        )
        release = Release(parse_spec(yaml.safe_dump(raw), {}), tree_sha256(checkpoint))
        store.publish_tree("checkpoint", release.keys.checkpoint, checkpoint, {"source": str(checkpoint)})
        if not store.has("release", release.document_sha256):
            with store.staged("release", release.document_sha256) as draft:
                (draft.path / "release.json").write_text(release.to_json(), encoding="utf-8")
                draft.publish({})
        return cls(subject, place, work, store, release)

    @property
    def checkpoint(self) -> Path:
        """The folder in the store."""
        return self.store.path("checkpoint", self.release.keys.checkpoint)

    @property
    def onnx(self) -> Path:
        """The FP32 model."""
        return self.store.path("onnx", self.release.keys.onnx) / "model.onnx"

    def prepare(self) -> dict[str, Any]:
        """{export_seconds, calibration_seconds, onnx_bytes}; seconds null where it was there already."""
        from build_images.exporter.export import export_release
        from calibration.candidates import calibrate_release

        keys = self.release.keys
        export_s = self._made("onnx", keys.onnx, lambda: export_release(self.store, self.release))
        calibration_s = self._made(
            "calibration", keys.calibration, lambda: calibrate_release(self.store, self.release)
        )
        size = sum(file.stat().st_size for file in self.onnx.parent.glob("model.onnx*"))
        return {"export_seconds": export_s, "calibration_seconds": calibration_s, "onnx_bytes": size}

    def cold_build(self, clock: Clock) -> dict[str, Any]:
        """With no timing cache. See `_build`."""
        caches = [self.store.root / "timing_cache", self.store.root / ".timing_caches", self._engine]
        for folder in caches:
            shutil.rmtree(folder, ignore_errors=True)
        return self._build(clock)

    def warm_build(self, clock: Clock) -> dict[str, Any]:
        """The engine taken out of the store, the timing cache of the cold build left in it."""
        aside = self.work / "cold_engine"
        shutil.rmtree(aside, ignore_errors=True)
        self._engine.rename(aside)
        try:
            return self._build(clock)
        except BaseException:
            shutil.rmtree(self._engine, ignore_errors=True)
            aside.rename(self._engine)  # a build that failed must not take the cold one's figures along
            raise

    def unchanged(self, clock: Clock) -> dict[str, Any]:
        """Called again with nothing changed: {seconds, said, built_nothing}."""
        before = self._stamps()
        seconds, said = self._builder(clock)
        nothing = said.startswith(UNCHANGED) and self._stamps() == before
        return {"seconds": seconds, "said": said, "built_nothing": nothing}

    def engine_against_pytorch(self, answers: np.ndarray) -> dict[str, Any]:
        """{candidate, samples, cosine_min, cosine_mean} of the chosen engine. answers: PyTorch's, in FP32."""
        from build_images.engine_builder.backend import backend_of

        report = self.report()
        backend = backend_of(self.place.backend)
        try:
            run = backend.open(self._engine / backend.engine_file, threads=self.place.threads)
            rows = [run(feed)[self.subject.output].copy() for feed in self.accuracy_feeds()]
        finally:
            getattr(backend, "close", lambda: None)()
        return {"candidate": report["chosen"], **compared(np.concatenate(rows), answers)}

    def report(self) -> dict[str, Any]:
        """The builder's report of the engine in the store."""
        found: dict[str, Any] = json.loads((self._engine / "report.json").read_text(encoding="utf-8"))
        return found

    def samples(self) -> tuple[Sample, ...]:
        """Those that accuracy is measured on, as the builder takes them."""
        spec = self.release.spec
        return wanted_samples(
            (self.checkpoint / spec.model.samples).read_text(encoding="utf-8"),
            spec.model.inputs,
            spec.model.axes,
            field_name="numerics.samples",
            wanted=self.subject.judge,
            used=self.subject.calibrate,
        )

    def accuracy_feeds(self) -> list[dict[str, np.ndarray]]:
        """Each sample alone."""
        return [batch([sample], self.release.spec.model.inputs) for sample in self.samples()]

    def feed(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Real values at this shape: the very bytes that the builder times engines on."""
        return fill(sizes, self.samples(), self.release.spec.model.inputs)

    @property
    def _engine(self) -> Path:
        return self.store.path("engine", self.release.keys.engine(self.place.arch))

    def _made(self, kind: str, key: str, make: Any) -> float | None:
        if self.store.has(kind, key):
            return None
        start = time.perf_counter()
        make()
        return round(time.perf_counter() - start, 2)

    def _build(self, clock: Clock) -> dict[str, Any]:
        """{seconds, build_seconds, timing_cache, said}: of the whole call; of each candidate's build in it."""
        seconds, said = self._builder(clock)
        report = self.report()
        builds = {name: one.get("build_seconds") for name, one in report["candidates"].items()}
        return {
            "seconds": seconds,
            "build_seconds": builds,
            "timing_cache": report.get("timing_cache"),
            "said": said,
            "report": report,
        }

    def _builder(self, clock: Clock) -> tuple[float, str]:
        """Seconds of one call as a pod makes it, and its last line. Raises StepError and OutOfTimeError."""
        argv = [sys.executable, "-m", "build_images.engine_builder", "--store", str(self.store.root)]
        argv += ["--release", self.release.document_sha256, "--target", self.place.arch]
        return run_program(argv, clock)

    def _stamps(self) -> dict[str, int]:
        return {name: path.stat().st_mtime_ns for name, path in files_of(self._engine).items()}


def compared(got: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """{samples, cosine_min, cosine_mean}, row by row. StepError on other shapes and on values that are not finite."""
    if got.shape != wanted.shape:
        raise StepError(f"answers of shape {got.shape}, wanted {wanted.shape}")
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        raise StepError("answers that are not finite")
    rows = cosines(got.astype(np.float64), wanted.astype(np.float64))
    return {"samples": len(rows), "cosine_min": float(rows.min()), "cosine_mean": float(rows.mean())}


def run_program(argv: list[str], clock: Clock) -> tuple[float, str]:
    """(seconds, last line of stdout); all that it says is shown at once. Raises StepError and OutOfTimeError."""
    start = time.perf_counter()
    path = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    limit_s = clock.left_s()
    process = subprocess.Popen(
        argv,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with ThreadPoolExecutor(2) as readers:
        said, complained = (readers.submit(_last_line, pipe) for pipe in (process.stdout, process.stderr))
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children hold the pipes open
            raise OutOfTimeError(f"stopped: the budget of {clock.budget_s:g} s was spent") from None
    seconds = round(time.perf_counter() - start, 2)
    if process.returncode:
        raise StepError(f"{argv[2]} ended with {process.returncode}: {complained.result() or 'no message'}")
    return seconds, said.result()


def _last_line(lines: IO[str]) -> str:
    """Its end, after every line was shown as it came: a build of minutes says how far it is."""
    last = ""
    for line in lines:
        sys.stderr.write(line)
        sys.stderr.flush()
        last = line.strip() or last
    return last[-SAID:]

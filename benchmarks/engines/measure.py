"""One model, step by step: what a step found is on disk before the next begins, and one that fails loses no other."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.engines.clock import Clock, OutOfTimeError
from benchmarks.engines.models import Subject
from benchmarks.engines.product import REPO, Place, Product, StepError, compared
from benchmarks.engines.sides import COMPILED, EAGER, GRAPHS, ONNXRUNTIME, one_line
from sluice.model_inputs import label

WARM, RUNS, PEAK_RUNS = 50, 400, 20
SIDE_BUDGET_S: Final = 30.0  # of the warm-up, and again of the runs, of one side at one shape
CPU_BUDGET_S: Final = 6.0
STEPS: Final = (
    *("prepare", "cold_build", "torch", "peak", "onnxruntime"),
    *("pytorch_against_onnx", "engine_against_pytorch", "warm_build", "unchanged"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is done, and which PyTorch sides there are. The defaults are what is promised."""

    warm: int = WARM
    runs: int = RUNS
    peak_runs: int = PEAK_RUNS
    compiled: Sequence[str] = (COMPILED, GRAPHS)


class Measuring:
    """The steps of one model. out: folder of `<model>.json`; work: of the store and the jobs' files."""

    def __init__(
        self, subject: Subject, place: Place, out: Path, hardware: Mapping[str, Any], effort: Effort
    ) -> None:
        self.subject, self.place, self.effort = subject, place, effort
        self.file, self.work = out / f"{subject.name}.json", out / "work" / subject.name
        self._product: Product | None = None
        self.document: dict[str, Any] = {
            "benchmark": "engines",
            "hardware": dict(hardware),
            "model": subject.name,
            "measured": {
                "title": subject.title,
                "trained": subject.trained,
                "backend": place.backend,
                "precision": place.precision,
                "price_per_hour": place.price,
                "latency": label(subject.latency_shape),
                "largest": label(subject.largest_shape),
                "effort": {"warm": effort.warm, "runs": effort.runs, "peak_runs": effort.peak_runs},
                "steps": {},
            },
        }

    @property
    def steps(self) -> dict[str, Any]:
        """What each step found: its figures, or {"error": why}."""
        found: dict[str, Any] = self.document["measured"]["steps"]
        return found

    def resume(self) -> None:
        """Take over what an earlier run on the same hardware found. Raises StepError when it was another's."""
        if not self.file.is_file():
            return
        earlier = json.loads(self.file.read_text(encoding="utf-8"))
        mine = self.document
        same = all(earlier["measured"][name] == mine["measured"][name] for name in ("backend", "effort"))
        if earlier["hardware"] != mine["hardware"] or not same:
            raise StepError(
                f"{self.file} is of other hardware or another effort; remove it, or leave --resume out"
            )
        found = earlier["measured"]["steps"]
        self.steps.update({name: one for name, one in found.items() if not _failed(one)})

    def run(self, clock: Clock, *, keep: bool, only: Sequence[str] = STEPS) -> None:
        """Those of the steps `only` that are not done. keep: leave the store even when all steps are done."""
        steps: dict[str, Callable[[Clock], Any]] = {
            "prepare": lambda _: self.product.prepare(),
            "cold_build": self.product.cold_build,
            "torch": lambda clock: self._timed(clock, "time", (EAGER, *self.effort.compiled)),
            "peak": self._peaks,
            "warm_build": self._warm,
            "unchanged": self.product.unchanged,
            "onnxruntime": lambda clock: self._timed(clock, "onnxruntime", (ONNXRUNTIME,)),
            "pytorch_against_onnx": self._chain,
            "engine_against_pytorch": self._direct,
        }
        for name, step in steps.items():
            if name in only and name not in self.steps:
                self.steps[name] = self._attempt(name, step, clock)
                self._write()
        if not keep and set(self.steps) == set(STEPS) and not any(map(_failed, self.steps.values())):
            shutil.rmtree(self.work, ignore_errors=True)

    @property
    def product(self) -> Product:
        """Released when first asked for: that writes the checkpoint."""
        if self._product is None:
            self._product = Product.released(self.subject, self.place, self.work)
        return self._product

    def _attempt(self, name: str, step: Callable[[Clock], Any], clock: Clock) -> Any:
        try:
            with clock.step(f"{self.subject.name}: {name}"):
                return step(clock)
        except (
            Exception
        ) as error:  # whatever it is, it stands in the figures' place and the next step is tried
            clock.say(f"{self.subject.name}: {name} failed: {one_line(error)}")
            return {"error": str(error) if isinstance(error, StepError | OutOfTimeError) else one_line(error)}

    def _warm(self, clock: Clock) -> dict[str, Any]:
        found = self.product.warm_build(clock)
        return {name: one for name, one in found.items() if name != "report"}

    def _timed(self, clock: Clock, what: str, sides: Sequence[str]) -> dict[str, Any]:
        """{side: {shape: timing or error}}."""
        sizes = (self.subject.latency_shape, self.subject.largest_shape)
        feeds = {label(one): self._feed(one) for one in sizes}
        cpu = what == "onnxruntime"
        job = {
            "sides": list(sides),
            "feeds": feeds,
            **self._accuracy_job("onnx" if cpu else "pytorch"),
            "warm": self.effort.warm,
            "runs": self.effort.runs,
            "side_budget_s": CPU_BUDGET_S if cpu else SIDE_BUDGET_S,
        }
        lines, ended = self._job(clock, what, {**job, "onnx": str(self.product.onnx)})
        missing = {"error": ended or "left no answer"}
        told = {(line["side"], line["shape"]): line for line in lines if "side" in line}
        return {
            side: {shape: _figures(told.get((side, shape), missing)) for shape in feeds} for side in sides
        }

    def _peaks(self, clock: Clock) -> dict[str, Any]:
        """{side: peak or error} of eager and torch.compile, each in a process of its own and none beside it."""
        found = {}
        for side in (EAGER, *self.effort.compiled[:1]):
            job = {
                "side": side,
                "feed": self._feed(self.subject.largest_shape),
                "runs": self.effort.peak_runs,
            }
            lines, ended = self._job(clock, "peak", job)
            found[side] = _figures(lines[0]) if lines else {"error": ended or "left no answer"}
        return found

    def _chain(self, _: Clock) -> dict[str, Any]:
        """PyTorch FP32 against the FP32 ONNX, on the samples that engines are judged by."""
        return compared(self._answers("onnx"), self._answers("pytorch"))

    def _direct(self, _: Clock) -> dict[str, Any]:
        return self.product.engine_against_pytorch(self._answers("pytorch"))

    def _job(
        self, clock: Clock, what: str, job: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The lines that the job printed; why it ended early, None when it did not. Raises OutOfTimeError."""
        path = self._path(f"{what}.job.json")
        whole = {
            "what": what,
            "checkpoint": str(self.product.checkpoint),
            "entrypoint": self.product.release.spec.model.entrypoint,
            "device": self.place.device,
            "threads": self.place.threads,
            **job,
        }
        path.write_text(json.dumps(whole), encoding="utf-8")
        limit_s = clock.left_s()
        argv = [sys.executable, "-m", "benchmarks.engines.sides", str(path)]
        # A cache of its own: what an earlier model or run compiled must not make this one's compilation look fast.
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor")}
        process = subprocess.Popen(argv, cwd=REPO, env=env, stdout=subprocess.PIPE, text=True)
        ended = None
        try:
            told, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
            ended = f"stopped: the budget of {clock.budget_s:g} s was spent"
        if process.returncode and ended is None:
            ended = f"{what} ended with {process.returncode}; its last words are on stderr"
        return [json.loads(line) for line in told.splitlines()], ended

    def _accuracy_job(self, name: str) -> dict[str, Any]:
        paths = []
        for number, feed in enumerate(self.product.accuracy_feeds()):
            path = self._path(f"sample-{number}.npz")
            np.savez(path, **feed)
            paths.append(str(path))
        return {"accuracy": paths, "answers": str(self._path(f"{name}.npy"))}

    def _answers(self, name: str) -> np.ndarray:
        path = self._path(f"{name}.npy")
        if not path.is_file():
            raise StepError(f"there are no answers of {name}: its step failed")
        return np.asarray(np.load(path))

    def _feed(self, sizes: Mapping[str, int]) -> str:
        """File of the arrays at this shape."""
        path = self._path(f"{label(sizes)}.npz".replace(" ", "-"))
        np.savez(path, **self.product.feed(sizes))
        return str(path)

    def _path(self, name: str) -> Path:
        folder = self.work / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.document, indent=1, allow_nan=False), encoding="utf-8")
        unfinished.replace(self.file)


def _figures(line: Mapping[str, Any]) -> dict[str, Any]:
    """A job's line without what it is found by."""
    return {name: value for name, value in line.items() if name not in ("side", "shape")}


def _failed(found: Any) -> bool:
    """Whether anything of a step is an error."""
    if isinstance(found, Mapping):
        return "error" in found or any(map(_failed, found.values()))
    return False

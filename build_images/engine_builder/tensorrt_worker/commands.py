"""The commands of this program by name, and the engines that are loaded."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from build_images.engine_builder.tensorrt_worker import building, cuda, library, running
from build_images.engine_builder.tensorrt_worker.log import Log
from build_images.engine_builder.tensorrt_worker.protocol import FAULT, WorkerError


class Worker:
    """The engines that are loaded, and the commands by name."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self.log = Log(lambda text: self._send({"progress": text}))
        self.engines: dict[str, running.Engine] = {}

    def serve(self, requests: Any) -> None:
        """Answer each line, in order."""
        for line in requests:
            request = json.loads(line)
            self.log.forget()
            try:
                result = getattr(self, f"do_{request.pop('command')}")(**request)
            except WorkerError as error:
                self._send({"error": error.to_dict()})
            except Exception as error:
                traceback.print_exc()
                self._send({"error": {"kind": FAULT, "reason": f"{type(error).__name__}: {error}"}})
            else:
                self._send({"result": result or {}})

    def do_facts(self) -> dict[str, Any]:
        """The library's version, what it offers, what the device is."""
        cuda.begin()
        device = cuda.facts()
        return {"version": library.version(), "offers": library.describe(), "device": device}

    def do_build(self, **request: Any) -> dict[str, Any]:
        """See `building.build`."""
        cuda.begin()
        return building.build(request, self.log)

    def do_open(self, name: str, engine: str, weights: str | None) -> None:
        """Load a plan under a name."""
        cuda.begin()
        self.engines[name] = running.Engine(
            Path(engine), self.log, weights=Path(weights) if weights else None
        )

    def do_close(self, name: str) -> None:
        """Forget an engine."""
        self.engines.pop(name).release()

    def do_run(self, name: str, inputs: str, outputs: str) -> None:
        """One batch from a file to a file."""
        np.savez(outputs, **self.engines[name].run(_read(inputs)))

    def do_time(self, names: list, inputs: str, rounds: int, least: int, budget_s: float) -> dict[str, Any]:
        """See `running.timed`."""
        chosen = {name: self.engines[name] for name in names}
        return running.timed(chosen, _read(inputs), rounds=rounds, least=least, budget_s=budget_s)

    def do_layers(self, name: str, inputs: str) -> dict[str, Any]:
        """The slowest layers, and the library's account of all."""
        engine = self.engines[name]
        return {"layers": engine.layers(_read(inputs)), "described": engine.describe()}

    def do_peak(self, engine: str, inputs: str, runs: int, weights: str | None) -> dict[str, Any]:
        """See `running.peak`; ask a fresh process for it."""
        source = Path(weights) if weights else None
        return running.peak(Path(engine), _read(inputs), self.log, runs=runs, weights=source)

    def _send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def _read(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: np.ascontiguousarray(file[name]) for name in file.files}

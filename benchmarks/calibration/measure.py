"""Every tool on one split: a calibration in its own process, then what its model answers for the held-out pairs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.calibration.job import MODELOPT, ORT_ENTROPY, REPO
from benchmarks.calibration.recall import embedded, figures, recall
from benchmarks.calibration.texts import LONGEST, Split, write_samples

SAID: Final = 300  # characters of a failed process' last line
LIMIT_S: Final = 900
KEPT_BYTES: Final = (
    450_000  # of activations for each token, which ONNX Runtime's entropy keeps of MiniLM until its end
)
NO_MODELOPT: Final = "no Python with nvidia-modelopt was named; see --modelopt-python"


@dataclass(frozen=True, slots=True)
class Place:
    """onnx: the FP32 model. out: folder of split-<seed>.json and of the work. modelopt: a Python that imports it."""

    onnx: Path
    out: Path
    threads: int
    modelopt: Path | None = None


def split_file(out: Path, seed: int) -> Path:
    """Where a split's figures are kept, for a run that goes on."""
    return out / f"split-{seed}.json"


def measured(one: Split, tools: Sequence[str], place: Place) -> dict[str, Any]:
    """{seed, texts, held_out, fp32, tools}; tools: {name: what the job told and models, or {error}}.

    Also written to the split's file. models: {candidate: figures}.
    """
    work = place.out / f"split-{one.seed}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    samples = write_samples(work / "samples.jsonl", one.calibration)
    held = [*(pair[0] for pair in one.pairs), *(pair[1] for pair in one.pairs)]
    reference = embedded(place.onnx, held, threads=place.threads)
    found: dict[str, Any] = {}
    for tool in tools:
        folder = work / tool.replace(" ", "-")
        folder.mkdir()
        job = {"tool": tool, "onnx": str(place.onnx), "samples": str(samples), "folder": str(folder)}
        found[tool] = _judged({**job, "texts": len(one.calibration)}, reference, held, place)
        shutil.rmtree(folder)
        print(f"split {one.seed}: {tool}: {_short(found[tool])}", file=sys.stderr, flush=True)
    shutil.rmtree(work)
    made = {"seed": one.seed, "texts": len(one.calibration), "held_out": len(one.pairs), "tools": found}
    made["fp32"] = {"recall": recall(reference)}
    split_file(place.out, one.seed).write_text(json.dumps(made, allow_nan=False), encoding="utf-8")
    return made


def _judged(
    job: Mapping[str, Any], reference: np.ndarray, held: Sequence[tuple[int, ...]], place: Place
) -> dict[str, Any]:
    told = _run(job, place)
    if "error" in told:
        return told
    models: dict[str, Any] = {}
    for name, file in told.pop("files").items():
        try:
            models[name] = figures(reference, embedded(Path(file), held, threads=place.threads))
        except ValueError as error:
            models[name] = {"error": str(error)}
    return {**told, "models": models}


def _run(job: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """What the job told; {error} where it cannot run here or failed."""
    tool = job["tool"]
    python = str(place.modelopt) if tool == MODELOPT and place.modelopt else sys.executable
    if tool == MODELOPT and place.modelopt is None:
        return {"error": NO_MODELOPT}
    if tool == ORT_ENTROPY and (reason := _no_room(job["texts"])):
        return {"error": reason}
    path = Path(job["folder"]) / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    argv = [python, "-m", "benchmarks.calibration.job", str(path)]
    try:
        done = subprocess.run(
            argv,
            cwd=path.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)[-SAID:]}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"ended with {done.returncode}: {last[-SAID:]}"}
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _no_room(texts: int) -> str | None:
    """Why so much memory cannot be had, None where it can: a machine that others use is not driven out of memory."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    there = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    wanted = texts * LONGEST * KEPT_BYTES * 5 // 4
    if there >= wanted:
        return None
    return f"asks for about {wanted / 2**30:.1f} GiB; {there / 2**30:.1f} GiB are available"


def _short(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    one = found["models"][found["taken"]]
    lost = one.get("lost", one.get("error"))
    return f"{found['seconds']:.0f} s, {found['peak_bytes'] / 2**20:.0f} MiB, {found['taken']} lost {lost}"

"""A recorder as a process of its own, and the spec of the model that it records."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from artifacts.recordings import Recording, read_recording
from sluice.spec import ReleaseSpec
from tests.sluice.specs import parse, whole

ROOT = Path(__file__).parents[3]
CHANGES: dict[str, Any] = {
    "service": "minilm",
    "model.inputs": [
        {"name": name, "dtype": "int64", "dims": ["batch", "sequence"]}
        for name in ("input_ids", "attention_mask")
    ],
    "model.axes.sequence": {"min": 2, "opt": 8, "max": 64, "buckets": [8, 64]},
    "recording": {"percent": 100, "recorder": "http://127.0.0.1:9", "lengths": [4, 16]},
}


def spec(**recording: Any) -> ReleaseSpec:
    """The model of these tests; `recording` is laid over the section."""
    return parse({**CHANGES, "recording": {**CHANGES["recording"], **recording}})


def request(*rows: list[int], **more: Any) -> bytes:
    """An inference request of rows of equal length."""
    shape, flat = [len(rows), len(rows[0])], [token for row in rows for token in row]
    inputs = [
        {"name": name, "shape": shape, "datatype": "INT64", "data": data}
        for name, data in (("input_ids", flat), ("attention_mask", [1] * len(flat)))
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def token_rows(recording: Recording) -> list[list[int]]:
    """The input_ids that were kept, sorted."""
    return sorted(row.sample["input_ids"].tolist() for row in recording.rows)


@dataclass(frozen=True)
class Recorder:
    process: subprocess.Popen[str]
    port: int
    out: Path
    lines: list[str]

    def end(self) -> int:
        """SIGTERM, and the exit code once everything is written."""
        self.process.terminate()
        self.lines.extend(self.process.communicate(timeout=60)[0].splitlines())
        return self.process.returncode

    def recording(self) -> Recording:
        return read(self.out)


def read(out: Path) -> Recording:
    """What the recorder wrote of the service."""
    model = spec().model
    return read_recording(
        str(out / "minilm"), model.inputs, model.axes, service="minilm", salt="unused", lengths=(4, 16)
    )


def command(out: Path, spec_file: Path, *more: str) -> list[str]:
    base = [
        sys.executable,
        "-m",
        "serving.recorder",
        "--spec",
        str(spec_file),
        "--out",
        str(out),
        "--port",
        "0",
    ]
    return [*base, *more]


def write_spec(folder: Path, **recording: Any) -> Path:
    """The spec as a file."""
    raw = whole({**CHANGES, "recording": {**CHANGES["recording"], **recording}})
    path = folder / "minilm.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@contextmanager
def recorder(
    folder: Path, *more: str, env: dict[str, str] | None = None, **recording: Any
) -> Iterator[Recorder]:
    """Start one that writes to `folder/out`, wait until it listens, end it afterwards."""
    out, lines = folder / "out", []
    with subprocess.Popen(
        command(out, write_spec(folder, **recording), *more),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            while not (lines and (port := re.fullmatch(r"listening: http://127\.0\.0\.1:(\d+)", lines[-1]))):
                line = process.stdout.readline()
                assert line, f"the recorder ended with {process.wait()}: {lines}"
                lines.append(line.strip())
            yield Recorder(process, int(port[1]), out, lines)
        finally:
            process.kill()

"""FP32 against INT8 behind the product's model server: two engines by its own builder, one load, turn by turn.

Each server is a process with one thread. Both get the texts of the held-out pairs over HTTP, in blocks of the same
texts: a block to one, then to the other, who comes first changing from pair to pair; so what slows the machine for a
while slows both, and what is compared is the two blocks of a pair. A request leaves when the one before it on its
connection has been answered. Invariant: recall@1 is of the very answers that were timed.
"""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.calibration.job import REPO
from benchmarks.calibration.recall import figures
from benchmarks.calibration.speed import CONNECTIONS, PAIRS, summary
from benchmarks.calibration.texts import Ids
from benchmarks.shipped import shipped
from local.load.client import body_of
from sluice.cpu import cpu_arch, parse_cpuinfo

PRECISIONS: Final = ("fp32", "int8")
SERVICE: Final = "minilm"
WARM: Final = 100  # requests to each server before the first that counts
ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of requests got. ms: of each; answers: embeddings in the order of the texts."""

    seconds: float
    ms: np.ndarray
    answers: np.ndarray
    failed: int


def measured(folder: Path, *, pairs: int, seed: int = 0) -> dict[str, Any]:
    """What `speed.summary` makes of it; {error} where no INT8 engine is good enough. folder: for checkpoint and store.

    pairs: that are held out, of the checkpoint's texts none; twice as many requests go to each server.
    """
    with contextlib.redirect_stdout(sys.stderr):  # where builds tell how far they are: stdout is the result's
        engines = {precision: built(folder, precision) for precision in PRECISIONS}
    reports = {name: json.loads((path / "report.json").read_text("utf-8")) for name, path in engines.items()}
    chosen = {name: report["chosen"] for name, report in reports.items()}
    if not chosen["int8"].startswith("int8"):
        return {"error": f"the builder chose {chosen['int8']}: {reports['int8']['reason']}"}
    texts = held_out(pairs)
    order = np.random.default_rng(seed).permutation(len(texts))
    parts = np.array_split(order, min(PAIRS, len(order)))
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(server(path)) for name, path in engines.items()}
        bodies = [body_of({"input_ids": list(ids), "attention_mask": [1] * len(ids)})[0] for ids in texts]
        for port in ports.values():
            sent(port, bodies[:WARM])
        blocks: dict[str, list[Block]] = {name: [] for name in PRECISIONS}
        for number, part in enumerate(parts):
            for name in PRECISIONS if number % 2 == 0 else PRECISIONS[::-1]:
                blocks[name].append(sent(ports[name], [bodies[place] for place in part]))
    answers = {name: in_order(some, order) for name, some in blocks.items()}
    flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    accuracy = {name: accuracy_of(answers["fp32"], one) for name, one in answers.items()}
    return {**summary(blocks, accuracy, flags), "chosen": chosen}


def accuracy_of(reference: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """`recall.figures`, or {error} for answers that cannot be judged."""
    try:
        return figures(reference, answers)
    except ValueError as error:
        return {"error": str(error)}


def in_order(blocks: Sequence[Block], order: np.ndarray) -> np.ndarray:
    """The answers of all blocks, in the order of the texts."""
    rows = np.concatenate([block.answers for block in blocks])
    back = np.empty_like(rows)
    back[order] = rows
    return back


def held_out(pairs: int) -> list[Ids]:
    """The first sentences of so many docstrings, then the rest of each; none shares a text with the checkpoint."""
    from local.demo.checkpoint import TEXTS_DEFAULT, pairs_without, token_lists

    found = pairs_without(frozenset(token_lists()[:TEXTS_DEFAULT]))[:pairs]
    if len(found) < pairs:
        raise ValueError(f"{pairs} held-out pairs are asked for, {len(found)} are left")
    return [*(one for one, _ in found), *(rest for _, rest in found)]


def built(folder: Path, precision: str) -> Path:
    """The folder of the engine that the product builds of MiniLM where nothing but `precision` is asked for."""
    from artifacts.store import Store, tree_sha256
    from build_images.engine_builder.build import build_release
    from build_images.exporter.export import export_release
    from calibration.candidates import calibrate_release
    from local.demo.checkpoint import make_checkpoint
    from sluice.release import Release

    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        make_checkpoint(checkpoint)
    arch = cpu_arch(parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    spec = shipped({"precisions": [precision]}, CHECKPOINTS=str(folder), CPU_ARCH=arch)
    store, release = Store(folder / "store"), Release(spec, tree_sha256(checkpoint))
    keys = release.keys
    if not store.has("checkpoint", keys.checkpoint):
        store.publish_tree("checkpoint", keys.checkpoint, checkpoint, {"source": str(checkpoint)})
    if not store.has("onnx", keys.onnx):
        export_release(store, release)
    if precision == "int8" and not store.has("calibration", keys.calibration):
        calibrate_release(store, release)
    if not store.has("engine", keys.engine(arch)):
        build_release(store, release, arch)
    return store.get("engine", keys.engine(arch)).path


@contextlib.contextmanager
def server(engine: Path) -> Iterator[int]:
    """The port of a model server that is ready. RuntimeError where it ends before it is."""
    words = [
        "--engine",
        str(engine),
        "--model",
        SERVICE,
        "--version",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    argv = [sys.executable, "-m", "serving.runtime", *words, "--threads", "1"]
    with subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = 0
            for line in process.stdout:
                if found := re.fullmatch(r"listening: http://127\.0\.0\.1:(\d+)\n", line):
                    port = int(found[1])
                if line.startswith("ready: "):
                    break
            else:
                raise RuntimeError(f"the server of {engine} ended with {process.wait()} before it was ready")
            yield port
        finally:
            process.kill()


@dataclass(slots=True)
class _Turn:
    """The requests of a block, each taken by one connection."""

    bodies: Sequence[bytes]
    replies: dict[int, tuple[float, int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    following: int = 0

    def run(self, port: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        with contextlib.closing(connection):
            while (place := self._take()) is not None:
                began = time.perf_counter()
                status, body = _asked(connection, self.bodies[place])
                self.replies[place] = ((time.perf_counter() - began) * 1000, status, body)

    def _take(self) -> int | None:
        with self.lock:
            place = self.following
            self.following += 1
        return place if place < len(self.bodies) else None


def sent(port: int, bodies: Sequence[bytes]) -> Block:
    """One block, over CONNECTIONS connections that stay open."""
    turn = _Turn(bodies)
    threads = [threading.Thread(target=turn.run, args=(port,)) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    replies = [turn.replies[place] for place in range(len(bodies))]
    rows = [_embedding(status, body) for _, status, body in replies]
    width = max((len(row) for row in rows), default=0)
    answers = np.full((len(rows), width), np.nan, np.float32)
    for place, row in enumerate(rows):
        answers[place, : len(row)] = row
    failed = sum(status != 200 for _, status, _ in replies)
    return Block(seconds, np.array([ms for ms, _, _ in replies]), answers, failed)


def _asked(connection: HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """(status, body); status 0 where no answer came."""
    try:
        connection.request("POST", f"/v2/models/{SERVICE}/infer", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, HTTPException):
        connection.close()
        return 0, b""


def _embedding(status: int, body: bytes) -> Sequence[float]:
    """The one output of a good answer; empty of any other."""
    if status != 200:
        return []
    outputs: Mapping[str, Any] = {one["name"]: one for one in json.loads(body)["outputs"]}
    values: list[float] = outputs["embedding"]["data"]
    return values

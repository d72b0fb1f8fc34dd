"""Start, refusal, a full queue, and a drain under load, each in a fresh process."""

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Lock, Thread

import onnx
import onnxruntime
import pytest

from serving.runtime.device import machine_arch
from tests.serving.runtime.engines import broken_engine, embedding_engine
from tests.serving.runtime.server import ROOT, Client, Server, command, request, serving

ROW = [1, 2, 3, 4]


def refused(engine: Path, *more: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of a server that does not start."""
    done = subprocess.run(
        command(engine, *more), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "cpu-generic"}, ("arch is cpu-generic", machine_arch(), "build an engine for this target")),
        ({"arch": "sm_90"}, ("arch is sm_90", machine_arch(), "build an engine for this target")),
        (
            {"backend_version": "1.2.3"},
            ("backend_version is 1.2.3", onnxruntime.__version__, "build the engine again"),
        ),
        ({"engine_sha256": "a" * 64}, ("engine_sha256 is aaaa", "build it again")),
        ({"backend": "tensorrt"}, ("plan header: magic is", "wanted b'ftrt'", "build it again")),
        ({"engine_file": "other.onnx"}, ("other.onnx cannot be read", "build the engine again")),
        (
            {"outputs": [{"name": "vector", "dtype": "float32", "dims": ["batch", 8]}]},
            ("its outputs are", "vector", "build the engine again"),
        ),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_3_and_one_line(
    tmp_path: Path, changes: dict, words: tuple
):
    code, lines = refused(embedding_engine(tmp_path / "e", **changes))
    assert code == 3
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_folder_without_a_manifest_and_a_broken_one_are_refused(tmp_path: Path):
    code, lines = refused(tmp_path)
    assert (code, lines[-1].startswith(f"error: {tmp_path}/manifest.json cannot be read")) == (3, True)
    (tmp_path / "manifest.json").write_text("{}")
    code, lines = refused(tmp_path)
    assert (code, len(lines)) == (3, 1)


def test_a_file_that_is_no_model_is_refused_though_its_digest_fits(tmp_path: Path):
    engine = embedding_engine(tmp_path / "e")
    (engine / "engine.onnx").write_bytes(b"no model")
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["engine_sha256"] = hashlib.sha256(b"no model").hexdigest()
    (engine / "manifest.json").write_text(json.dumps(manifest))
    code, lines = refused(engine)
    assert code == 3
    assert lines[-1].startswith("error: engine engine.onnx cannot be loaded: ")


def test_weights_beside_the_engine_are_checked_against_the_receipt(tmp_path: Path):
    engine = embedding_engine(tmp_path / "e")
    model = onnx.load(engine / "engine.onnx")
    onnx.save(
        *(model, engine / "engine.onnx"),
        save_as_external_data=True,
        location="engine.onnx.data",
        size_threshold=1024,
    )
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["engine_sha256"] = hashlib.sha256((engine / "engine.onnx").read_bytes()).hexdigest()
    (engine / "manifest.json").write_text(json.dumps(manifest))
    weights = engine / "engine.onnx.data"
    assert refused(engine)[0] == 3, "no receipt: nothing says what the weights must be"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (engine / "receipt.json").write_text(json.dumps({"files": {weights.name: {"sha256": digest}}}))
    with serving(engine, "--drain-s", "0") as server:
        assert server.client().embed(ROW).status == 200
    weights.write_bytes(bytes(weights.stat().st_size))
    code, lines = refused(engine)
    assert code == 3
    assert "engine.onnx.data has digest" in lines[-1]


def test_a_warm_up_that_fails_is_refused_with_the_shape_and_one_line(tmp_path: Path):
    code, lines = refused(broken_engine(tmp_path / "e"))
    assert (code, len(lines)) == (3, 1)
    assert lines[0].startswith("error: engine engine.onnx cannot be loaded: it fails at batch=1 length=6: ")
    assert "build the engine again" in lines[0]


def test_what_nobody_thought_of_still_ends_with_one_line_behind_its_trace(tiny_engine: Path):
    code = (
        "import sys, serving.runtime.app as app\n"
        "def broken(*_, **__): raise RuntimeError('two\\nlines')\n"
        "app.model_of = broken\n"
        "sys.exit(app.main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, *command(tiny_engine)[3:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    *trace, last = done.stderr.splitlines()
    assert done.returncode == 3
    assert trace[0].startswith("Traceback")
    assert last == "error: RuntimeError: two lines; read the trace above in the pod's log"


def test_an_address_in_use_ends_with_4(tiny_engine: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = refused(tiny_engine, "--port", str(taken.getsockname()[1]))
    assert (code, "cannot be bound" in lines[-1]) == (4, True)


@pytest.mark.parametrize(
    "more", [["--threads", "0"], ["--max-delay-ms", "nan"], ["--port", "70000"], ["--nope"]]
)
def test_wrong_arguments_end_with_2(tiny_engine: Path, more: list[str]):
    assert refused(tiny_engine, *more)[0] == 2


def test_live_at_once_and_ready_only_after_the_warm_up(tmp_path: Path):
    engine = embedding_engine(tmp_path / "slow", turns=60)
    with serving(engine, "--drain-s", "0", ready="") as server:
        client = server.client()
        assert client.get("/v2/health/live").status == 200
        before = [client.get(path).status for path in ("/v2/health/ready", "/v2/models/tiny/ready")]
        early = client.embed(ROW)
        assert server.process.stdout.readline().startswith("ready: tiny version 2 (")
        after = [client.get(path).status for path in ("/v2/health/ready", "/v2/models/tiny/ready")]
    assert (before, after) == ([503, 503], [200, 200])
    assert (early.status, early.headers["retry-after"]) == (503, "1")


def test_a_full_queue_is_429_and_what_was_accepted_is_answered(tmp_path: Path):
    engine = embedding_engine(tmp_path / "slow", turns=80)
    with serving(engine, "--max-queue", "2", "--drain-s", "0") as server:
        answers = []
        start = Barrier(10)

        def ask() -> None:
            client = Client(server.port)
            client.connection.connect()
            start.wait()
            answers.append(client.embed(ROW))

        threads = [Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refusals = [answer for answer in answers if answer.status != 200]
        client = server.client()
        assert 1 <= len(refusals) <= 8
        for answer in refusals:
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"].startswith("queue: 2 requests wait")
        assert client.metric("infer_failures_total", reason="queue_full") == len(refusals)
        assert client.metric("infer_inflight") == 0


def test_a_client_that_leaves_is_forgotten(tmp_path: Path):
    with serving(embedding_engine(tmp_path / "slow", turns=80), "--drain-s", "0") as server:
        watcher = server.client()
        body = json.dumps(request(ROW)).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            while watcher.metric("infer_inflight") < 1:
                pass
        while watcher.metric("infer_inflight") > 0:
            pass
        assert watcher.embed(ROW).status == 200
        assert watcher.metric("infer_inflight") == 0, "the answer that nobody waits for is not counted again"


class Load:
    """Clients that send one request after another, as a gateway does: on a connection until it is told to close,
    on new ones until ready is no longer 200."""

    def __init__(self, server: Server, clients: int) -> None:
        self._server, self._lock = server, Lock()
        self.sent, self.statuses, self.errors = 0, [], []
        self.gone = False  # ready was seen not to be 200
        self.flowing = Barrier(clients + 1)
        self.threads = [Thread(target=self._run, args=(index,)) for index in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self, index: int) -> None:
        row, client, first = [index + 8] * (index + 4), Client(self._server.port), True
        while not self.gone:
            with self._lock:
                self.sent += 1
            try:
                answer = client.embed(row)
            except OSError as error:
                self.errors.append(error)
                return
            self.statuses.append(answer.status)
            if answer.headers.get("connection") == "close":
                client = Client(self._server.port)
            if first:
                self.flowing.wait()
                first = False


def test_a_drain_under_load_loses_no_request(tmp_path: Path):
    """SIGTERM amid requests: ready is 503 while requests are still answered; all are answered; exit 0."""
    engine = embedding_engine(tmp_path / "slow", turns=10)
    with serving(engine, "--drain-s", "1") as server:
        load = Load(server, clients=6)
        load.flowing.wait()
        idle = Client(server.port)
        idle.connection.connect()
        watcher = server.client()
        assert watcher.get("/v2/health/ready").status == 200
        server.terminate()
        while (ready := watcher.get("/v2/health/ready")).status == 200:
            pass
        late = Client(server.port).embed(ROW)
        load.gone = True
        for thread in load.threads:
            thread.join()
        code = server.wait()
    assert ready.status == 503
    assert late.status == 200, "in the grace new connections are still served"
    assert late.headers["connection"] == "close"
    assert load.errors == []
    assert load.statuses == [200] * load.sent
    assert load.sent >= 12
    assert code == 0


def test_requests_in_flight_when_the_grace_ends_are_answered(tmp_path: Path):
    """Three full batches, so that two still wait in the queue when nothing more is accepted."""
    engine = embedding_engine(tmp_path / "slow", turns=80)
    with serving(engine, "--drain-s", "0") as server:
        answers = []
        full = [ROW] * 16
        threads = [Thread(target=lambda: answers.append(Client(server.port).embed(*full))) for _ in range(3)]
        watcher = server.client()
        for thread in threads:
            thread.start()
        while watcher.metric("infer_inflight") < 3:
            pass
        server.terminate()
        for thread in threads:
            thread.join()
        assert server.wait() == 0
    assert [answer.status for answer in answers] == [200] * 3

"""Each fault shows at the socket as promised, and nothing else does: the real server stands behind it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic

import numpy as np
import psutil
import pytest

from local.demo.faulty_server import FAIL_EVERY, FAULTS, Fail, RejectLong, Slow, fault_of
from tests.serving.runtime.engines import embedding_engine, expected
from tests.serving.runtime.server import Client, Server, command, serving

SHORT, LONG = [1, 2, 3, 4], [1] * 65


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_engine(tmp_path_factory.mktemp("engines") / "tiny")


@contextmanager
def faulty(fault: str, engine: Path, *more: str) -> Iterator[Server]:
    usual = command(engine, "--drain-s", "0", *more)[3:]
    with serving(
        engine, argv=[sys.executable, "-m", "local.demo.faulty_server", "--fault", fault, "--", *usual]
    ) as it:
        behind = psutil.Process(it.process.pid).children()
        try:
            yield it
        finally:  # killed, it takes nothing with it; in a cluster that is the container's part
            for process in behind:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.mark.parametrize("fault", FAULTS)
def test_it_becomes_ready_answers_metadata_and_ends_with_0(engine: Path, fault: str):
    with faulty(fault, engine) as server:
        client = server.client()
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/versions/2/ready"):
            assert client.get(path).status == 200
        assert client.get("/v2/models/tiny").json()["versions"] == ["2"]
        assert client.ask("HEAD", "/v2").body == b""
        assert client.infer(b"{").status == 400
        server.terminate()
        assert server.wait() == 0


def test_fail_answers_500_to_one_request_in_twenty(engine: Path):
    with faulty("fail", engine) as server:
        client = server.client()
        statuses = [client.embed(SHORT).status for _ in range(3 * FAIL_EVERY)]
    assert [index + 1 for index, status in enumerate(statuses) if status != 200] == [20, 40, 60]
    assert set(statuses) == {200, 500}


def test_reject_long_answers_422_to_more_than_64_tokens(engine: Path):
    with faulty("reject-long", engine) as server:
        client = server.client()
        assert [client.embed(row).status for row in (SHORT, LONG[:64], LONG, [1] * 128, SHORT)] == [
            *(200, 200, 422, 422, 200)
        ]
        np.testing.assert_allclose(
            client.embed(SHORT).json()["outputs"][0]["data"], expected(SHORT), atol=1e-5
        )


def test_slow_holds_an_answer_for_twice_what_it_took():
    assert Slow().hold_s(0.25) == 0.5
    assert Slow().refusal(None) is None
    assert [type(fault_of(name)) for name in FAULTS[:3]] == [Fail, RejectLong, Slow]
    assert fault_of("nan").hold_s(0.25) == 0.0


def test_slow_takes_at_least_three_times_what_the_model_server_took(tmp_path: Path):
    """A bound from below, which no busy machine can break; the half is for timers that round to milliseconds."""
    with faulty("slow", embedding_engine(tmp_path / "heavy", turns=50)) as server:
        client = server.client()
        began = monotonic()
        assert client.embed(SHORT).status == 200
        took_s = monotonic() - began
        assert took_s >= 2.5 * client.metric("infer_request_seconds_sum")


def test_slow_answers_are_right_and_finished_in_the_drain(tmp_path: Path):
    """The model server is through with its drain while an answer is still held back."""
    engine = embedding_engine(tmp_path / "heavy", turns=100)
    with faulty("slow", engine) as server:
        answers = []
        client = Client(server.port)
        client.connection.connect()
        thread = Thread(target=lambda: answers.append(client.embed(SHORT)))
        thread.start()
        watcher = server.client()
        while watcher.metric("infer_inflight") == 0 and thread.is_alive():
            pass
        server.terminate()
        thread.join()
        assert server.wait() == 0
    assert [answer.status for answer in answers] == [200]
    np.testing.assert_allclose(answers[0].json()["outputs"][0]["data"], expected(SHORT), atol=1e-5)


def test_nan_is_answered_500_by_the_model_server_itself(engine: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with faulty("nan", engine) as server:
        client = server.client()
        answer = client.embed(SHORT)
        assert answer.status == 500
        assert answer.json()["error"] == "output 'embedding': 8 of 8 values are NaN or infinite"
        assert client.metric("infer_failures_total", reason="nonfinite") == 1
        assert list(tmp_path.glob("engine-*")) != []
        server.terminate()
        assert server.wait() == 0
    assert list(tmp_path.glob("engine-*")) == [], "the spoiled copy of the engine is removed"


def test_a_refused_engine_ends_with_the_code_of_the_model_server(engine: Path, tmp_path: Path):
    with faulty_refused(tmp_path / "nothing") as code:
        assert code == 3


@contextmanager
def faulty_refused(engine: Path) -> Iterator[int]:
    import subprocess

    usual = command(engine)[3:]
    argv = [sys.executable, "-m", "local.demo.faulty_server", "--fault", "slow", *usual]
    yield subprocess.run(argv, check=False, timeout=60, cwd=Path(__file__).parents[3]).returncode

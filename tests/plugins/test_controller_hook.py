"""The controller's answers as exceptions: who must act, and what a program may read."""

import pickle

import pytest
from airflow.sdk import Connection

from plugins.hooks import controller as control
from plugins.hooks.controller import ControllerClient, ControllerHook, connection_url
from sluice.errors import FatalError, RetryableError
from tests.plugins.stand import refusal

OPEN = ("POST", "/v1/rollouts/tiny-3/open")

CASES = [
    pytest.param(409, "no-fresh-pass", control.NoFreshPassError, FatalError, id="no-fresh-pass"),
    pytest.param(409, "wrong-stage", control.WrongStageError, FatalError, id="wrong-stage"),
    pytest.param(409, "stale-epoch", control.StaleEpochError, FatalError, id="stale-epoch"),
    pytest.param(409, "ended", control.EndedError, FatalError, id="ended"),
    pytest.param(409, "active-rollout", control.ActiveRolloutError, FatalError, id="active-rollout"),
    pytest.param(409, "turned-back", control.TurnedBackError, FatalError, id="turned-back"),
    pytest.param(409, "already-stable", control.AlreadyStableError, FatalError, id="already-stable"),
    pytest.param(409, "unheard-of", control.ControllerConflictError, FatalError, id="a-conflict-of-tomorrow"),
    pytest.param(
        409, "conflict", control.ControllerUnavailableError, RetryableError, id="another-writer-was-first"
    ),
    pytest.param(401, "unauthorized", control.ControllerRefusedError, FatalError, id="no-token"),
    pytest.param(422, "invalid-request", control.ControllerRefusedError, FatalError, id="wrong-call"),
    pytest.param(503, "capacity", control.ControllerUnavailableError, RetryableError, id="no-capacity-yet"),
    pytest.param(500, "oops", control.ControllerUnavailableError, RetryableError, id="broken"),
]


def client(controller):
    return ControllerClient(f"http://127.0.0.1:{controller.port}", "secret")


@pytest.mark.parametrize(("status", "code", "kind", "root"), CASES)
def test_each_refusal_is_one_type_that_names_code_message_and_next_step(controller, status, code, kind, root):
    controller.answers = {OPEN: (status, refusal(code, "because of this"))}
    with pytest.raises(kind) as caught:
        client(controller).open("tiny-3", epoch=3, stage=1)
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, root)
    assert all(part in str(error) for part in (code, "because of this", "do this"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 our own object


def test_the_fields_of_a_refusal_are_attributes(controller):
    running = {"rollout": "tiny-2", "run_id": "nightly", "state": "running", "stage": 1}
    controller.answers = {("POST", "/v1/rollouts"): (409, refusal("active-rollout", "busy", running=running))}
    with pytest.raises(control.ActiveRolloutError) as caught:
        client(controller).create({"service": "tiny"})
    assert caught.value.running == running


def test_retry_after_is_read_in_seconds_and_rubbish_is_none(controller):
    controller.answers = {OPEN: (503, refusal("gateways", "one is missing"))}
    for text, seconds in (("2", 2.0), ("soon", None)):
        controller.headers = {"Retry-After": text}
        with pytest.raises(control.ControllerUnavailableError) as caught:
            client(controller).open("tiny-3", epoch=3, stage=1)
        assert caught.value.retry_after_s == seconds


def test_nobody_listening_is_retryable_and_names_the_connection(controller):
    away = client(controller)
    away.url = "http://127.0.0.1:9"
    with pytest.raises(control.ControllerUnavailableError, match="AIRFLOW_CONN_SLUICE_CONTROLLER"):
        away.rollout("tiny-3")


def test_the_token_and_the_epoch_travel(controller):
    controller.answers = {OPEN: (200, {"id": "tiny-3"})}
    ControllerHook().get_conn().open("tiny-3", epoch=3, stage=1)
    (asked,) = controller.asked
    assert asked.headers["Authorization"] == "Bearer secret"
    assert asked.body == {"epoch": 3, "stage": 1}


def test_a_service_that_nobody_knows_is_none_and_not_an_error(controller):
    assert client(controller).service("tiny") is None


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("http://:t@10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("https://:t@control.example", "https://control.example"),
        ("http://prometheus:9090/prefix", "http://prometheus:9090/prefix"),
    ],
)
def test_a_connection_is_one_address(uri, url):
    assert connection_url(Connection.from_uri(uri, conn_id="c")) == url


def test_a_connection_without_a_host_says_what_to_write():
    with pytest.raises(FatalError, match="http://host:port"):
        connection_url(Connection(conn_id="c", conn_type="http"))

"""Open Inference Protocol v2 over a real socket of a fresh process."""

import json
import socket

import numpy as np
import pytest

from serving.runtime.device import machine_arch
from tests.serving.runtime.engines import WIDTH, expected
from tests.serving.runtime.server import Client, Server, request


def outputs(answer) -> dict[str, np.ndarray]:
    """The tensors of a JSON answer; fails on any other answer."""
    assert answer.status == 200, answer.body
    return {
        entry["name"]: np.array(entry["data"], np.float32).reshape(entry["shape"])
        for entry in answer.json()["outputs"]
    }


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/v2", {"name": "sluice", "version": "0.1.0", "extensions": ["binary_tensor_data"]}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/2/ready", {"name": "tiny", "ready": True}),
    ],
)
def test_the_small_questions(client: Client, path: str, want: dict):
    answer = client.get(path)
    assert (answer.status, answer.json()) == (200, want)
    assert client.ask("HEAD", path).body == b""


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/2"])
def test_metadata_shows_dynamic_axes_as_minus_one(client: Client, path: str):
    assert client.get(path).json() == {
        "name": "tiny",
        "versions": ["2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "embedding", "datatype": "FP32", "shape": [-1, WIDTH]},
            {"name": "states", "datatype": "FP32", "shape": [-1, -1, WIDTH]},
        ],
    }


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/2/infer"])
def test_infer_answers_every_output_and_the_id(client: Client, path: str):
    ids = [3, 1, 4, 1, 5]
    answer = client.ask("POST", path, request(ids, id="abc"))
    document = answer.json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("tiny", "2", "abc")
    got = outputs(answer)
    assert set(got) == {"embedding", "states"}
    assert got["states"].shape == (1, 5, WIDTH)
    np.testing.assert_allclose(got["embedding"][0], expected(ids), atol=1e-5)


def test_nested_data_is_the_same_as_flat(client: Client):
    flat = request([1, 2, 3, 4], [5, 6, 8, 9])
    nested = request([1, 2, 3, 4], [5, 6, 8, 9])
    nested["inputs"][0]["data"] = [[1, 2, 3, 4], [5, 6, 8, 9]]
    assert client.infer(nested).json() == client.infer(flat).json()


def test_a_text_below_the_axis_minimum_is_padded_and_answered_in_its_own_length(client: Client):
    got = outputs(client.embed([5, 6]))
    assert got["states"].shape == (1, 2, WIDTH)
    np.testing.assert_allclose(got["embedding"][0], expected([5, 6]), atol=1e-5)


def test_only_the_requested_outputs_in_the_requested_form(client: Client):
    answer = client.infer(request([1, 2, 3, 4], outputs=[{"name": "embedding"}]))
    assert set(outputs(answer)) == {"embedding"}


def test_binary_tensors_both_ways(client: Client):
    ids = np.array([[9, 8, 6, 5, 4]], "<i8")
    mask = np.ones_like(ids)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": [1, 5],
                    "datatype": "INT64",
                    "parameters": {"binary_data_size": ids.nbytes},
                }
                for name in ("input_ids", "attention_mask")
            ],
            "outputs": [
                {"name": "embedding", "parameters": {"binary_data": True}},
                {"name": "states", "parameters": {"binary_data": False}},
            ],
        }
    ).encode()
    answer = client.infer(
        header + ids.tobytes() + mask.tobytes(), {"Inference-Header-Content-Length": str(len(header))}
    )
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    embedding, states = json.loads(answer.body[:length])["outputs"]
    assert embedding["parameters"] == {"binary_data_size": WIDTH * 4}
    assert "data" not in embedding
    np.testing.assert_allclose(
        np.frombuffer(answer.body[length:], "<f4"), expected(ids[0].tolist()), atol=1e-5
    )
    assert len(states["data"]) == 5 * WIDTH


def test_the_default_form_of_the_outputs_is_the_request_parameter(client: Client):
    answer = client.infer(request([1, 2, 3, 4], parameters={"binary_data_output": True}))
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.body) - length == (WIDTH + 4 * WIDTH) * 4


def test_pipelined_requests_are_answered_in_order(server: Server):
    body = json.dumps(request([1, 2, 3, 4])).encode()
    infer = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(infer + infer + live)
        got = b"".join(iter(lambda: raw.recv(65536), b""))
    order = [got.find(b'"model_name"'), got.rfind(b'"model_name"'), got.find(b'{"live":true}')]
    assert order == sorted(order)
    assert order[0] > 0
    assert order[0] != order[1]


def test_a_chunked_body_with_expect_continue(server: Server):
    body = json.dumps(request([1, 2, 3, 4])).encode()
    head = (
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head)
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in b"".join(iter(lambda: raw.recv(65536), b""))


def test_metrics_count_what_was_asked_under_the_labels_of_the_version(client: Client):
    labels = {"model": "tiny", "version": "2", "arch": machine_arch(), "precision": "fp32"}
    names = ("infer_request_seconds_count", "infer_queue_seconds_count", "infer_batch_rows_sum")
    before = [client.metric(name, **labels) for name in names]
    assert client.embed([1, 2, 3, 4], [1, 2, 3, 4]).status == 200
    assert [client.metric(name, **labels) for name in names] == [before[0] + 1, before[1] + 1, before[2] + 2]
    assert client.metric("infer_compute_seconds_count", **labels) >= 1
    assert client.metric("infer_inflight", **labels) == 0
    assert client.metric("infer_failures_total", **labels, reason="backend") >= 0

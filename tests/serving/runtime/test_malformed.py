"""What a bad request gets: 4xx that names tensor, field, what was got and what is wanted; never a 500."""

import copy
import json
import socket

import pytest

from tests.serving.runtime.engines import NAN_TOKEN
from tests.serving.runtime.server import Client, Server, request

GOOD = request([1, 2, 3, 4])


def changed(path: str, value: object) -> dict:
    """GOOD with the value at a dotted path replaced; `...` removes it."""
    document = copy.deepcopy(GOOD)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


CASES = [
    ("inputs.0.shape", [1, 200], "input 'input_ids': shape[1] is 200, wanted 1 to 128 (axis sequence)"),
    ("inputs.0.shape", [17, 4], "input 'input_ids': shape[0] is 17, wanted 1 to 16 (axis batch)"),
    ("inputs.0.shape", [0, 4], "input 'input_ids': shape[0] is 0, wanted 1 to 16 (axis batch)"),
    ("inputs.0.shape", [4], "input 'input_ids': shape is [4], wanted 2 dimensions [batch, sequence]"),
    (
        "inputs.0.shape",
        [1, -4],
        "input 'input_ids': shape is [1, -4], wanted a list of whole numbers from 0 on",
    ),
    (
        "inputs.0.shape",
        [1, 4.0],
        "input 'input_ids': shape is [1, 4.0], wanted a list of whole numbers from 0 on",
    ),
    (
        "inputs.0.shape",
        [True, 4],
        "input 'input_ids': shape is [True, 4], wanted a list of whole numbers from 0",
    ),
    ("inputs.0.shape", ..., "input 'input_ids': shape is nothing, wanted a list of whole numbers from 0 on"),
    (
        "inputs.1.shape",
        [1, 5],
        "input 'attention_mask': shape[1] is 5, wanted 4 as in the inputs before it (axis sequence)",
    ),
    ("inputs.0.datatype", "FP32", "input 'input_ids': datatype is 'FP32', wanted INT64"),
    ("inputs.0.datatype", ..., "input 'input_ids': datatype is nothing, wanted INT64"),
    ("inputs.0.data", [1, 2, 3], "input 'input_ids': data has shape [3], wanted [1, 4] or [4]"),
    ("inputs.0.data", [[1, 2], [3, 4]], "input 'input_ids': data has shape [2, 2], wanted [1, 4] or [4]"),
    ("inputs.0.data", [[1, 2, 3], [4]], "input 'input_ids': data is ragged, wanted [1, 4] or flat"),
    ("inputs.0.data", [1, 2, 3, 4.5], "input 'input_ids': data holds other values, wanted INT64"),
    ("inputs.0.data", [1, 2, 3, "4"], "input 'input_ids': data holds other values, wanted INT64"),
    ("inputs.0.data", [1, 2, 3, None], "input 'input_ids': data holds other values, wanted INT64"),
    ("inputs.0.data", [True, True, True, True], "input 'input_ids': data holds other values, wanted INT64"),
    ("inputs.0.data", [1, 2, 3, 2**63], "input 'input_ids': data "),
    ("inputs.0.data", ..., "input 'input_ids': data is nothing, wanted a list"),
    ("inputs.0.data", "1234", "input 'input_ids': data is a string, wanted a list"),
    (
        "inputs.0.parameters",
        {"binary_data_size": 32},
        "input 'input_ids': data and binary_data_size are both there",
    ),
    ("inputs.0.parameters", [], "input 'input_ids': parameters is an empty list, wanted an object"),
    (
        "inputs.0.parameters",
        {"shared_memory_region": "x"},
        "input 'input_ids': shared_memory_region is not supp",
    ),
    ("inputs.0.name", "tokens", "inputs[0].name: got 'tokens', wanted one of input_ids, attention_mask"),
    ("inputs.0.name", "attention_mask", "input 'attention_mask': is there twice, wanted once"),
    ("inputs.0.name", 3, "inputs[0]: got {'name': 3"),
    ("inputs.1", ..., "inputs: 'attention_mask' is missing, wanted input_ids, attention_mask"),
    ("inputs", [], "inputs: got an empty list, wanted a list with at least one object"),
    ("inputs", {}, "inputs: got an object, wanted a list with at least one object"),
    ("inputs", ..., "inputs: got nothing, wanted a list with at least one object"),
    ("id", 5, "id: got 5, wanted a string"),
    ("outputs", [{"name": "other"}], "outputs[0].name: got 'other', wanted one of embedding, states"),
    ("outputs", [{"name": "states"}, {"name": "states"}], "output 'states': is there twice, wanted once"),
    (
        "outputs",
        [{"name": "states", "parameters": {"binary_data": "yes"}}],
        "output 'states': binary_data is 'yes', wanted true or false",
    ),
    ("parameters", {"binary_data_output": 1}, "request: binary_data_output is 1, wanted true or false"),
]


@pytest.mark.parametrize(("path", "value", "message"), CASES)
def test_a_field_that_does_not_fit_is_named(client: Client, path: str, value: object, message: str):
    answer = client.infer(changed(path, value))
    assert (answer.status, answer.json()["error"][: len(message)]) == (400, message)


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"", {}, "body: not JSON"),
        (b"{", {}, "body: not JSON"),
        (b"[]", {}, "body: got an empty list, wanted an object with inputs"),
        (b'{"inputs": [NaN]}', {}, "body: not JSON"),
        (
            b"{}",
            {"Content-Encoding": "gzip"},
            "header Content-Encoding: got 'gzip', wanted an uncompressed body",
        ),
        (
            b"{}",
            {"Inference-Header-Content-Length": "9"},
            "header Inference-Header-Content-Length: got '9', want",
        ),
        (
            b"{}",
            {"Inference-Header-Content-Length": "-1"},
            "header Inference-Header-Content-Length: got '-1'",
        ),
        (
            b"{}",
            {"Inference-Header-Content-Length": "1e3"},
            "header Inference-Header-Content-Length: got '1e3'",
        ),
    ],
)
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes, headers: dict, message: str):
    answer = client.infer(body, headers)
    assert (answer.status, answer.json()["error"][: len(message)]) == (400, message)


@pytest.mark.parametrize(
    ("size", "blob", "message"),
    [
        (31, 32, "input 'input_ids': binary_data_size is 31, wanted 32 (shape x datatype)"),
        ("32", 32, "input 'input_ids': binary_data_size is '32', wanted 32 (shape x datatype)"),
        (32, 31, "input 'input_ids': binary data ends after 31 bytes, wanted 32"),
        (32, 40, "binary data: got 40 bytes, wanted the 32 that binary_data_size adds up to"),
    ],
)
def test_binary_data_must_be_exactly_what_the_header_says(
    client: Client, size: object, blob: int, message: str
):
    document = changed("inputs.0.data", ...)
    document["inputs"][0]["parameters"] = {"binary_data_size": size}
    header = json.dumps(document).encode()
    answer = client.infer(header + bytes(blob), {"Inference-Header-Content-Length": str(len(header))})
    assert (answer.status, answer.json()["error"][: len(message)]) == (400, message)


def test_a_refusal_is_counted_and_the_connection_lives_on(client: Client):
    before = client.metric("infer_failures_total", reason="bad_request")
    assert client.infer(b"{").status == 400
    assert client.metric("infer_failures_total", reason="bad_request") == before + 1
    assert client.embed([1, 2, 3, 4]).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/tiny/versions/1/infer", 404),
        ("GET", "/", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("POST", "/v2/models/tiny", 405),
    ],
)
def test_unknown_paths_and_methods(client: Client, method: str, path: str, status: int):
    answer = client.ask(method, path)
    assert answer.status == status
    assert set(answer.json()) == {"error"}
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("framing", [b"Content-Length: 200001\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_over_the_limit_is_413_and_the_client_sees_it(server: Server, framing: bytes):
    """The client goes on sending: a server that just closed would reset the connection and lose the answer."""
    body = b" " * 300_000
    if framing.startswith(b"Transfer"):
        body = b"493e0\r\n" + body + b"\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: t\r\n" + framing + b"\r\n" + body)
        raw.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"wanted at most 200000 bytes" in answer
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_not_http_is_refused_and_closed(server: Server, sent: bytes, status: bytes):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_non_finite_output_is_500_with_its_reason_and_its_neighbours_are_answered(client: Client):
    before = client.metric("infer_failures_total", reason="nonfinite")
    answer = client.embed([NAN_TOKEN, 1, 2, 3])
    assert (answer.status, answer.json()["error"]) == (
        500,
        "output 'embedding': 8 of 8 values are NaN or infinite",
    )
    assert client.metric("infer_failures_total", reason="nonfinite") == before + 1
    assert client.embed([1, 2, 3, 4]).status == 200


def test_an_error_of_the_engine_is_500_with_its_reason(client: Client):
    before = client.metric("infer_failures_total", reason="backend")
    answer = client.embed([1000, 1, 2, 3])
    assert answer.status == 500
    assert answer.json()["error"].startswith("the engine failed on this request: ")
    assert client.metric("infer_failures_total", reason="backend") == before + 1

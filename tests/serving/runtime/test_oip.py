"""The format alone, no socket: what JSON may become a tensor, for types that the tiny models do not have."""

import numpy as np
import orjson
import pytest

from serving.runtime.oip import DATATYPES, decode, encode
from serving.runtime.refusal import Refusal
from serving.runtime.shapes import Axis, Model, Tensor


def model_with(dtype: str) -> Model:
    tensor = Tensor(name="x", dtype=np.dtype(dtype), dims=("batch",))
    return Model(
        name="m",
        version="1",
        arch="cpu-generic",
        precision="fp32",
        backend="onnxruntime",
        inputs={"x": tensor},
        outputs={"x": tensor},
        axes={"batch": Axis(low=1, high=8, buckets=(1, 8))},
    )


def body(dtype: str, data: list) -> bytes:
    return orjson.dumps(
        {"inputs": [{"name": "x", "shape": [len(data)], "datatype": DATATYPES[dtype], "data": data}]}
    )


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("bool", [True, False]),
        ("int8", [-128, 127]),
        ("uint8", [0, 255]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("float16", [1.5, -2]),
        ("float32", [1, 0.25]),
        ("float64", [1e300, 0.1]),
    ],
)
def test_every_type_goes_in_and_comes_out_as_it_was(dtype: str, data: list):
    model = model_with(dtype)
    request = decode(body(dtype, data), None, model)
    assert request.tensors["x"].dtype == np.dtype(dtype)
    header_length, parts = encode(model, request, request.tensors)
    assert header_length is None
    assert orjson.loads(b"".join(parts))["outputs"][0]["data"] == data


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("bool", [1, 0]),
        ("int8", [128]),
        ("int32", [2**31]),
        ("uint8", [-1]),
        ("uint64", [-1]),
        ("int64", [2**64 - 1]),
        ("int64", [1.0]),
        ("float16", [70_000]),
        ("float32", [1e39]),
        ("float32", [True]),
        ("float32", ["1"]),
    ],
)
def test_a_number_that_does_not_fit_its_type_is_refused_not_changed(dtype: str, data: list):
    with pytest.raises(Refusal, match="input 'x': data ") as refused:
        decode(body(dtype, data), None, model_with(dtype))
    assert refused.value.args[0] == 400

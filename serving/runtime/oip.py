"""Open Inference Protocol v2: bytes of a request in, tensors out, and back. No socket, no clock, no thread.

Both forms of data are read and written: JSON, and the binary tensor extension, where the body is a JSON header
of `Inference-Header-Content-Length` bytes and then the raw little-endian tensors in the order of the header.

Invariants: a number is never wrapped, cut or made infinite to fit a type; what is missing, doubled, unknown or left
over is a Refusal that names the tensor, the field, what was got and what is wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from serving.runtime.refusal import Refusal, bad
from serving.runtime.shapes import Model, Sizes, Tensor

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LENGTH: Final = "inference-header-content-length"
DATATYPES: Final[Mapping[str, str]] = {
    "bool": "BOOL",
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
# JSON numbers that may become a tensor of this kind: an integer is a float, a float is never an integer.
_JSON_KINDS: Final[Mapping[str, str]] = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """One decoded request. tensors: by input name, C-contiguous; wanted: output name -> answer it in binary."""

    id: str | None
    tensors: Mapping[str, Array]
    sizes: Sizes
    wanted: Mapping[str, bool]


def decode(body: bytes, header_length: str | None, model: Model) -> InferRequest:
    """Read the body of an infer request. Raises Refusal (400) naming what does not fit."""
    header, blob = _split(body, header_length)
    document = _document(header)
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise bad(f"id: got {_short(request_id)}, wanted a string")
    entries = _named(document.get("inputs"), "inputs", "input", model.inputs)
    if missing := [name for name in model.inputs if name not in entries]:
        raise bad(f"inputs: '{missing[0]}' is missing, wanted {', '.join(model.inputs)}")
    shapes = {name: _shape(name, entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        _check_datatype(model.inputs[name], entry)
    sizes = model.sizes(shapes)
    tensors, used = {}, 0
    for name, entry in entries.items():
        tensors[name], used = _tensor(model.inputs[name], shapes[name], entry, blob, used)
    if used != len(blob):
        raise bad(f"binary data: got {len(blob)} bytes, wanted the {used} that binary_data_size adds up to")
    return InferRequest(id=request_id, tensors=tensors, sizes=sizes, wanted=_wanted(document, model))


def encode(
    model: Model, request: InferRequest, outputs: Mapping[str, Array]
) -> tuple[int | None, list[bytes]]:
    """The body of the answer in parts, and the length of its JSON header when binary data follows it."""
    described, blobs = [], []
    for name, binary in request.wanted.items():
        array = np.ascontiguousarray(outputs[name])
        entry: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": array.shape}
        if binary:
            blobs.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.ravel()
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = described
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (len(header) if blobs else None), [header, *blobs]


def metadata(model: Model) -> bytes:
    """The answer to `GET /v2/models/M`: a dynamic axis is -1."""
    return orjson.dumps(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": f"{model.backend}_onnx" if model.backend == "onnxruntime" else model.backend,
            "inputs": [_described(tensor) for tensor in model.inputs.values()],
            "outputs": [_described(tensor) for tensor in model.outputs.values()],
        }
    )


def _described(tensor: Tensor) -> dict[str, Any]:
    shape = [-1 if isinstance(dim, str) else dim for dim in tensor.dims]
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype.name], "shape": shape}


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and int(header_length) <= len(body)):
        raise bad(
            f"header Inference-Header-Content-Length: got {_short(header_length)}, "
            f"wanted a number of bytes from 0 to the {len(body)} of the body"
        )
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _document(header: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise bad(f"body: not JSON ({error}), wanted an object with inputs") from None
    if not isinstance(document, dict):
        raise bad(f"body: got {_kind(document)}, wanted an object with inputs")
    return document


def _named(items: Any, field: str, what: str, known: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The entries of `inputs` or `outputs` by name; each name is known and there once."""
    if not isinstance(items, list) or not items:
        raise bad(f"{field}: got {_kind(items)}, wanted a list with at least one object")
    entries: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(items):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise bad(f"{field}[{index}]: got {_short(entry)}, wanted an object with a name")
        if name not in known:
            raise bad(f"{field}[{index}].name: got {_short(name)}, wanted one of {', '.join(known)}")
        if name in entries:
            raise bad(f"{what} '{name}': is there twice, wanted once")
        entries[name] = entry
    return entries


def _shape(name: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise bad(f"input '{name}': shape is {_short(shape)}, wanted a list of whole numbers from 0 on")
    return tuple(shape)


def _check_datatype(tensor: Tensor, entry: Mapping[str, Any]) -> None:
    wanted = DATATYPES[tensor.dtype.name]
    if entry.get("datatype") != wanted:
        raise bad(f"input '{tensor.name}': datatype is {_short(entry.get('datatype'))}, wanted {wanted}")


def _tensor(
    tensor: Tensor, shape: tuple[int, ...], entry: Mapping[str, Any], blob: memoryview, offset: int
) -> tuple[Array, int]:
    """One tensor and how much of the blob is used after it."""
    parameters = _parameters(entry, f"input '{tensor.name}'")
    size = parameters.get("binary_data_size")
    if size is None:
        return _from_json(tensor, shape, entry), offset
    wanted = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
    if "data" in entry:
        raise bad(f"input '{tensor.name}': data and binary_data_size are both there, wanted one of them")
    if type(size) is not int or size != wanted:
        raise bad(
            f"input '{tensor.name}': binary_data_size is {_short(size)}, wanted {wanted} (shape x datatype)"
        )
    if offset + size > len(blob):
        raise bad(
            f"input '{tensor.name}': binary data ends after {len(blob) - offset} bytes, wanted {size}; "
            "the header Inference-Header-Content-Length says where it begins"
        )
    array = np.frombuffer(blob[offset : offset + size], dtype=tensor.dtype.newbyteorder("<")).reshape(shape)
    return (array if array.flags.aligned else array.copy()), offset + size


def _from_json(tensor: Tensor, shape: tuple[int, ...], entry: Mapping[str, Any]) -> Array:
    data = entry.get("data")
    if not isinstance(data, list):
        raise bad(f"input '{tensor.name}': data is {_kind(data)}, wanted a list")
    try:
        array = np.array(data)
        if array.dtype.kind == "f" and tensor.dtype == np.uint64:
            array = _large(data, array)
    except (ValueError, OverflowError):
        raise bad(f"input '{tensor.name}': data is ragged, wanted {list(shape)} or flat") from None
    count = int(np.prod(shape, dtype=np.int64))
    if array.size != count or (array.ndim != 1 and array.shape != shape):
        raise bad(
            f"input '{tensor.name}': data has shape {list(array.shape)}, wanted {list(shape)} or [{count}]"
        )
    if array.dtype.kind not in _JSON_KINDS[tensor.dtype.kind]:
        raise bad(f"input '{tensor.name}': data holds other values, wanted {DATATYPES[tensor.dtype.name]}")
    _check_range(tensor, array)
    return array.astype(tensor.dtype, copy=False).reshape(shape)


def _large(data: list[Any], array: Array) -> Array:
    """NumPy reads a list that holds integers on both sides of 2**63 as floats; take them as they are written."""
    exact = np.array(data, dtype=object)
    return exact.astype(np.uint64) if all(type(value) is int for value in exact.flat) else array


def _check_range(tensor: Tensor, array: Array) -> None:
    if array.dtype == tensor.dtype or tensor.dtype.kind == "b" or not array.size:
        return
    limits: Any = np.finfo(tensor.dtype) if tensor.dtype.kind == "f" else np.iinfo(tensor.dtype)
    if array.min() < limits.min or array.max() > limits.max:
        raise bad(
            f"input '{tensor.name}': data goes from {array.min()} to {array.max()}, "
            f"wanted {DATATYPES[tensor.dtype.name]}, {limits.min} to {limits.max}"
        )


def _wanted(document: Mapping[str, Any], model: Model) -> dict[str, bool]:
    """Output name -> binary. Without `outputs` all of them are answered."""
    default = _flag(_parameters(document, "request"), "binary_data_output", "request", default=False)
    if document.get("outputs") is None:
        return dict.fromkeys(model.outputs, default)
    entries = _named(document["outputs"], "outputs", "output", model.outputs)
    return {
        name: _flag(
            _parameters(entry, f"output '{name}'"), "binary_data", f"output '{name}'", default=default
        )
        for name, entry in entries.items()
    }


def _parameters(entry: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise bad(f"{where}: parameters is {_kind(parameters)}, wanted an object")
    if "shared_memory_region" in parameters:
        raise bad(f"{where}: shared_memory_region is not supported, wanted data or binary_data_size")
    return parameters


def _flag(parameters: Mapping[str, Any], field: str, where: str, *, default: bool) -> bool:
    value = parameters.get(field, default)
    if not isinstance(value, bool):
        raise bad(f"{where}: {field} is {_short(value)}, wanted true or false")
    return value


def _kind(value: Any) -> str:
    names: Sequence[tuple[type, str]] = ((dict, "an object"), (list, "an empty list"), (str, "a string"))
    if value is None:
        return "nothing"
    return next((text for kind, text in names if isinstance(value, kind)), _short(value))


def _short(value: Any, limit: int = 60) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def error_body(refusal: Refusal) -> bytes:
    """`{"error": …}`, the form of every answer >= 400."""
    return orjson.dumps({"error": refusal.message})

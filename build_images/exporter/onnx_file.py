"""The written ONNX file against the spec: opset, names, types, dimensions; external data when it is large.

Problem: an exporter may answer another opset than the one asked for, freeze an axis, or rename an output, and
say nothing. Invariant: what is asserted here is read back from the file on disk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx

from build_images.exporter.errors import WrittenFileError
from sluice.signature import TensorSpec
from sluice.spec import Model

EXTERNAL_ABOVE_BYTES: Final = 1_000_000_000  # protobuf ends at 2 GB; half of it leaves room for INT8 copies
FILE_NAME: Final = "model.onnx"


def finish(path: Path, spec: Model, *, external_above_bytes: int = EXTERNAL_ABOVE_BYTES) -> None:
    """Settle the output dimensions, move large weights out, then assert everything on the file as written.

    Raises WrittenFileError naming the first field that differs from the spec.
    """
    beside = _weight_files(path)
    model = onnx.load(str(path))
    _settle_outputs(model, spec.outputs)
    weights_bytes = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    for file in (path, *beside):
        file.unlink()
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=weights_bytes > external_above_bytes,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise WrittenFileError("onnx.checker", str(error).splitlines()[0], "a valid model") from error
    check(onnx.load(str(path), load_external_data=False), spec)


def _weight_files(path: Path) -> list[Path]:
    """What the exporter wrote beside a model of 2 GB or more: one file for each weight.

    They are in memory once the model is loaded; left there, the artifact would hold every weight twice.
    """
    model = onnx.load(str(path), load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(path.parent / name for name in names)


def check(model: onnx.ModelProto, spec: Model) -> None:
    """Assert the opset and the signature of a model that was read from disk. Raises WrittenFileError."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets.get("ai.onnx") != spec.opset:
        raise WrittenFileError("opset_import", str(opsets), f"ai.onnx {spec.opset}")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    _compare("inputs", inputs, spec.inputs)
    _compare("outputs", model.graph.output, spec.outputs)


def _compare(side: str, values: Sequence[onnx.ValueInfoProto], specs: Sequence[TensorSpec]) -> None:
    names, wanted = [value.name for value in values], [spec.name for spec in specs]
    if names != wanted:
        raise WrittenFileError(f"{side} names", str(names), str(wanted))
    for value, spec in zip(values, specs, strict=True):
        if (dtype := _dtype(value)) != spec.dtype:
            raise WrittenFileError(f"{side} {spec.name} type", dtype, spec.dtype)
        if (dims := _dims(value)) != tuple(spec.dims):
            raise WrittenFileError(f"{side} {spec.name} dims", str(list(dims)), str(list(spec.dims)))


def _settle_outputs(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """Where shape inference only invented a name for a dimension, write the one that the spec states.

    A stated size that is wrong, and an axis that was frozen, stay as they are and fail `check`; that what is
    written here is true is shown by comparing it with every output over every corner of the shapes (validate).
    """
    axes = {dim for spec in specs for dim in spec.dims if isinstance(dim, str)}
    for value, spec in zip(model.graph.output, specs, strict=False):
        dims = value.type.tensor_type.shape.dim
        for dim, wanted in zip(dims, spec.dims, strict=False):
            if not dim.HasField("dim_value") and dim.dim_param not in axes:
                dim.Clear()
                setattr(dim, "dim_value" if isinstance(wanted, int) else "dim_param", wanted)


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _dims(value: onnx.ValueInfoProto) -> tuple[Any, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)

"""What clients send to a version and get back: names, types, dimensions.

Problem: a candidate that renames an output or widens a type breaks every client at 100 %, and no error rate
at 1 % need show it. Invariant: two signatures are compared name by name, in both directions; a tensor that
one side lacks is a difference, and nothing is left out but what the caller names.

The name of a dynamic axis is not part of the comparison (the wire shows any dynamic axis as -1); that an axis
is dynamic, is.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.types import Strict

from sluice.errors import FatalError

DTYPES: Final = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
TENSOR_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
AXIS_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FROZEN: Final = ConfigDict(extra="forbid")


def _dtype(value: str) -> str:
    if value not in DTYPES:
        raise ValueError(f"unknown type; one of {', '.join(DTYPES)}")
    return value


def _tensor_name(value: str) -> str:
    if not TENSOR_NAME.fullmatch(value):
        raise ValueError("a name is a letter or _, then letters, digits, _ or ., 64 at most")
    return value


def _dim(value: Any) -> int | str:
    if isinstance(value, str) and AXIS_NAME.fullmatch(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError("a dimension is a whole number from 1 on or the name of an axis (lowercase)")


Dim = Annotated[int | str, PlainValidator(_dim)]


@dataclass(frozen=True, slots=True, config=_FROZEN)
class TensorSpec:
    """One input or output. dims: a fixed size (from 1 on) or the name of a dynamic axis, batch first."""

    name: Annotated[str, Strict(), AfterValidator(_tensor_name)]
    dtype: Annotated[str, Strict(), AfterValidator(_dtype)]
    dims: Annotated[tuple[Dim, ...], Field(min_length=1)]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(dim) for dim in self.dims)}]"


@dataclass(frozen=True, slots=True, config=_FROZEN)
class Signature:
    """Everything that goes in and comes out; never empty on either side."""

    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]

    def to_dict(self) -> dict[str, Any]:
        """`{"inputs": [{name, dtype, dims}], "outputs": [..]}`, as it travels in JSON."""
        dumped: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return dumped

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises SignatureError naming the first wrong field."""
        try:
            return _ADAPTER.validate_json(json.dumps(dict(data)))  # type: ignore[return-value]
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in first["loc"])
            raise SignatureError(path, str(first.get("input"))[:80], first["msg"]) from error


_ADAPTER: Final = TypeAdapter(Signature)


class SignatureError(FatalError):
    """A document that is no signature."""

    def __init__(self, path: str, got: str, wanted: str) -> None:
        super().__init__(path, got, wanted)
        self.path, self.got, self.wanted = path, got, wanted

    @property
    def message(self) -> str:
        return f"signature.{self.path} = {self.got}: {self.wanted}"

    @property
    def next_step(self) -> str:
        return "send inputs and outputs, each a list of {name, dtype, dims}"


def differences(stable: Signature, candidate: Signature, allowed: Collection[str] = ()) -> tuple[str, ...]:
    """Say how the candidate differs for a client of stable, one line each; empty when it does not.

    allowed: names of inputs or outputs that may differ, appear or disappear (`signature_changes`).
    """
    return (
        *_side("input", stable.inputs, candidate.inputs, allowed),
        *_side("output", stable.outputs, candidate.outputs, allowed),
    )


def _side(
    what: str, stable: tuple[TensorSpec, ...], candidate: tuple[TensorSpec, ...], allowed: Collection[str]
) -> Iterator[str]:
    old, new = {tensor.name: tensor for tensor in stable}, {tensor.name: tensor for tensor in candidate}
    for name in (*old, *(name for name in new if name not in old)):
        if name in allowed:
            continue
        if name not in new:
            yield f"{what} {name}: stable has it ({old[name]}), the candidate does not"
        elif name not in old:
            yield f"{what} {name}: the candidate has it ({new[name]}), stable does not"
        elif not _same(old[name], new[name]):
            yield f"{what} {name}: {old[name]} in stable, {new[name]} in the candidate"


def _same(old: TensorSpec, new: TensorSpec) -> bool:
    return old.dtype == new.dtype and _shape(old) == _shape(new)


def _shape(tensor: TensorSpec) -> tuple[int, ...]:
    return tuple(-1 if isinstance(dim, str) else dim for dim in tensor.dims)

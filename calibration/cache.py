"""What one calibration saw and found, in one JSON document: `cache.json`.

Problem: ranges without the histograms behind them cannot be judged again, and nobody can say whether they still fit
another week's traffic or a model that was trained again. Invariants: the document names its graph, weights, samples
and the versions that made it; every calibrated tensor has its whole histogram and every method's range; the same inputs
give the same bytes; a document that is read is whole, or every problem in it is named.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import onnx
import onnxruntime
from pydantic import BeforeValidator, Field, PlainSerializer, Strict

from calibration.graph import Graph, graph_of, weights_sha256
from calibration.ranges import BINS, Histogram
from sluice.errors import Problem, ProblemsError
from sluice.spec_problems import validated
from sluice.spec_types import Count, Method, Part, Sha256, Text

CACHE_FILE: Final = "cache.json"
COUNT_TYPE: Final = np.dtype("<i8")
COUNTS_BYTES: Final = BINS * COUNT_TYPE.itemsize


class CacheError(ProblemsError):
    """A document that is no calibration cache; `problems` names each field."""

    what = "calibration cache"
    fix = "calibrate again"


def encoded(counts: tuple[int, ...]) -> str:
    """Base64 of the zlib stream of little-endian int64: 2 to 4 KB a tensor, and JSON all the same."""
    return base64.b64encode(zlib.compress(np.array(counts, COUNT_TYPE).tobytes(), 9)).decode("ascii")


def decoded(text: object) -> object:
    """The other way; ValueError for what `encoded` did not make. Counts themselves pass."""
    if isinstance(text, tuple):
        return text
    if not isinstance(text, str):
        raise ValueError("base64 of zlib of little-endian int64 is wanted")  # noqa: TRY004 pydantic's way
    try:
        raw = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj()
        values = stream.decompress(
            raw, COUNTS_BYTES + 1
        )  # never more than is wanted, whatever the text holds
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"no base64 of zlib ({error})") from error
    if len(values) != COUNTS_BYTES or not stream.eof or stream.unused_data:
        raise ValueError(f"wanted {BINS} counts of {COUNT_TYPE.itemsize} bytes and nothing behind them")
    return tuple(np.frombuffer(values, COUNT_TYPE).tolist())


Counts = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(decoded),
    PlainSerializer(encoded, return_type=str),
]
Least = Annotated[float, Strict(), Field(le=0)]  # a range contains zero
Most = Annotated[float, Strict(), Field(ge=0)]


class Range(Part):
    """low <= 0 <= high."""

    low: Least
    high: Most


class CachedTensor(Part):
    """One activation: 2048 counts of equal width from low to high, and the range that each method found in them."""

    low: Least
    high: Most
    counts: Counts
    ranges: Annotated[dict[Method, Range], Field(min_length=1)]

    @property
    def histogram(self) -> Histogram:
        """As `calibration.ranges.collect` gave it."""
        return Histogram(low=self.low, high=self.high, counts=np.array(self.counts, dtype=np.int64))


class Versions(Part):
    """Of what made it."""

    onnx: Text
    onnxruntime: Text
    numpy: Text


class CalibrationCache(Part):
    """One calibration. dataset_sha256: of its samples. weights_sha256: apart from the graph, which outlives them."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    graph: Graph
    weights_sha256: Sha256
    dataset_sha256: Sha256
    samples: Count
    versions: Versions
    tensors: Annotated[dict[Text, CachedTensor], Field(min_length=1)]

    @property
    def histograms(self) -> dict[str, Histogram]:
        """{tensor: its histogram}."""
        return {name: tensor.histogram for name, tensor in self.tensors.items()}

    @property
    def methods(self) -> tuple[str, ...]:
        """Those whose ranges it has."""
        return tuple(next(iter(self.tensors.values())).ranges)

    def to_json(self) -> str:
        """`cache.json`; `from_json` reads it back to an equal cache."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True, allow_nan=False
        )

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read `cache.json`. Raises CacheError with every problem in it."""
        try:
            raw = json.loads(data) if isinstance(data, str | bytes) else data
        except (ValueError, RecursionError) as error:
            raise CacheError.of(f"no JSON: {error}") from error
        if not isinstance(raw, Mapping):
            raise CacheError.of("a mapping is wanted")
        return validated(cls, raw, _across, CacheError)


def cache_of(
    model: onnx.ModelProto,
    histograms: Mapping[str, Histogram],
    ranges: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    samples: int,
    dataset_sha256: str,
) -> CalibrationCache:
    """The cache of one calibration. ranges: {method: {tensor: (low, high)}}. Raises CacheError as `from_json`."""
    document = {
        "schema": 1,
        "graph": graph_of(model).model_dump(mode="json"),
        "weights_sha256": weights_sha256(model),
        "dataset_sha256": dataset_sha256,
        "samples": samples,
        "versions": {
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
        "tensors": {
            name: {
                "low": one.low,
                "high": one.high,
                "counts": tuple(one.counts.tolist()),
                "ranges": {
                    method: dict(zip(("low", "high"), of_tensor[name], strict=True))
                    for method, of_tensor in ranges.items()
                },
            }
            for name, one in histograms.items()
        },
    }
    return CalibrationCache.from_json(document)


def _across(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What no field shows alone: counts without a value, a width without room, methods that one tensor lacks."""
    tensors = raw.get("tensors")
    if not isinstance(tensors, Mapping):
        return
    wanted: set[str] | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Mapping):
            continue
        yield from _histogram_problems(f"tensors.{name}", tensor)
        ranges = tensor.get("ranges")
        if isinstance(ranges, Mapping):
            wanted = set(ranges) if wanted is None else wanted
            if set(ranges) != wanted:
                message = f"every tensor needs the same methods, here {', '.join(sorted(wanted))}"
                yield Problem(f"tensors.{name}.ranges", sorted(ranges), message)


def _histogram_problems(path: str, tensor: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        counts = decoded(tensor.get("counts"))
    except ValueError:
        return  # said by the field itself
    if not isinstance(counts, tuple):
        return
    if len(counts) != BINS:
        yield Problem(f"{path}.counts", len(counts), f"wanted {BINS} counts")
    if not sum(counts):
        yield Problem(f"{path}.counts", 0, "no value was counted: nothing was calibrated")
    elif tensor.get("low") == tensor.get("high") and counts[0] != sum(counts):
        yield Problem(
            f"{path}.high",
            tensor.get("high"),
            "more than low is wanted, since bins behind the first hold values",
        )

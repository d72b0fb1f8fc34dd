"""The text file in which TensorRT's own calibrators keep their scales, for users of versions 8 and 10.

Problem: an application that still quantizes implicitly reads scales from this file and from nowhere else. The format is
not in NVIDIA's documentation; readers and writers in the field agree on it: a first line `TRT-<version>-<algorithm>`,
then `tensor: scale`, the scale being amax / 127 as the big-endian bytes of its float32 in hexadecimal. TensorRT 11
knows no such cache; there, as everywhere else, use the candidates in the signed form. Invariant: the scales are those
of that form, to the bit. A tensor that is not in the file has no scale, and TensorRT leaves it in floating point; one
that was zero on every sample is not.
"""

import re
import struct
from typing import Final

from calibration.cache import CalibrationCache
from calibration.emit import signed_scale
from sluice.errors import FatalError

VERSION: Final = "8601"
FIRST: Final = re.compile(r"TRT-(\d{4,6})-EntropyCalibration2")
LINE: Final = re.compile(r"(.+): ([0-9a-f]{1,8})")


class TensorrtCacheError(FatalError):
    """A calibration that cannot be written in TensorRT's format, or a text that is not in it."""


def to_tensorrt(cache: CalibrationCache, method: str, *, version: str = VERSION) -> str:
    """The text of `calib.cache`. version: of the TensorRT that will read it, such as 8601 or 101401.

    Raises TensorrtCacheError for a method that the cache lacks, and for what the first line or a name cannot hold.
    """
    if method not in cache.methods:
        raise TensorrtCacheError(f"method {method!r}", f"choose from {', '.join(cache.methods)}")
    first = f"TRT-{version}-EntropyCalibration2"
    if not FIRST.fullmatch(first):
        raise TensorrtCacheError(f"TensorRT version {version!r}", "write it as 8601 or 101401")
    lines = [first]
    for name, tensor in cache.tensors.items():
        if ": " in name or "\n" in name or name != name.strip():
            raise TensorrtCacheError(f"tensor name {name!r} cannot stand in this format", "rename the tensor")
        if tensor.histogram.flat:
            continue
        found = tensor.ranges[method]
        lines.append(f"{name}: {struct.pack('>f', signed_scale(found.low, found.high)[0]).hex()}")
    return "\n".join(lines) + "\n"


def from_tensorrt(text: str) -> dict[str, float]:
    """{tensor: scale} of such a text. TensorrtCacheError names the line, from 1."""
    first, *lines = text.splitlines() or [""]
    if not FIRST.fullmatch(first):
        raise TensorrtCacheError(f"line 1 is {first!r}", "it should read TRT-<version>-EntropyCalibration2")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        matched = LINE.fullmatch(line)
        if matched is None or matched[1] in scales:
            raise TensorrtCacheError(
                f"line {number} is {line!r}", "each line is `tensor: eight hexadecimal digits`, once a tensor"
            )
        scales[matched[1]] = struct.unpack(">f", bytes.fromhex(matched[2].rjust(8, "0")))[0]
    return scales

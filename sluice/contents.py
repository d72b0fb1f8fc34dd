"""What makes two inputs the same, and how long one is: the facts by which samples are told apart. Pure.

Problem: the recorder, and calibration from a team's own log, must agree on what is one content and how long it is.
Invariant: equal arrays under the same salt have equal contents; a different value, shape or type has another one.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from sluice.model_inputs import Sample
from sluice.signature import TensorSpec


def content_of(sample: Sample, inputs: Sequence[TensorSpec], salt: str) -> str:
    """16 hex digits: the keyed BLAKE2b of names, shapes and values in the spec's order.

    Whoever does not have the salt cannot compute it for an input of which they only guess that it was sent.
    """
    made = hashlib.blake2b(digest_size=8, key=hashlib.sha256(salt.encode()).digest())
    for spec in inputs:
        array = np.ascontiguousarray(sample[spec.name], dtype=np.dtype(spec.dtype).newbyteorder("<"))
        made.update(f"{spec.name} {spec.dtype} {array.shape} ".encode())
        made.update(array.tobytes())
    return made.hexdigest()


def length_of(sample: Sample, inputs: Sequence[TensorSpec]) -> int:
    """The largest size among the dynamic axes but the batch; 0 where there is none."""
    sizes = (
        size
        for spec in inputs
        for dim, size in zip(spec.dims[1:], sample[spec.name].shape, strict=True)
        if isinstance(dim, str)
    )
    return max(sizes, default=0)

"""Which samples calibrate, and how they become one dataset with a digest.

Problem: ranges that were found on the samples they are judged by look better than they are. Invariant: the first
`calibration.samples` lines calibrate, and no line after them does; accuracy is measured on later lines. Fewer
lines than the spec asks for is an error, never a smaller dataset.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sluice.model_inputs import Sample, wanted_samples
from sluice.spec import ReleaseSpec


def calibration_samples(file: Path, spec: ReleaseSpec) -> tuple[Sample, ...]:
    """The first `spec.calibration.samples` samples of the file. TooFewSamplesError when there are fewer."""
    text = file.read_text(encoding="utf-8")
    wanted, field_name = spec.calibration.samples, "calibration.samples"
    return wanted_samples(text, spec.model.inputs, spec.model.axes, field_name=field_name, wanted=wanted)


def dataset_sha256(samples: Sequence[Sample]) -> str:
    """Digest of the values in order, with names, types and shapes; 64 lowercase hex digits."""
    digest = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            array = sample[name]
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()

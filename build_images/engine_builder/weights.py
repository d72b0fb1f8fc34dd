"""Weights that several plans share: an engine without weights is filled from the ONNX that it was built from.

Invariant: the file is kept under its own digest, so that two architectures built from the same bytes name the same
one.
"""

import shutil

from build_images.engine_builder.backend import Candidate
from build_images.engine_builder.request import BuildRequest, digest_of

KIND = "weights"
FILE = "weights.onnx"


def keep_weights(request: BuildRequest, candidate: Candidate) -> str | None:
    """Publish the candidate's ONNX for plans without weights; its digest. None where plans carry their own."""
    if not request.target.build.strip_weights or request.store is None:
        return None
    digest = digest_of(candidate.source)
    if not request.store.has(KIND, digest):
        with request.store.staged(KIND, digest) as draft:
            shutil.copyfile(candidate.source, draft.path / FILE)
            beside = candidate.source.with_name(f"{candidate.source.name}.data")
            if beside.is_file():  # the name that the ONNX itself refers to
                shutil.copyfile(beside, draft.path / beside.name)
            draft.publish({"name": candidate.name})
    return digest

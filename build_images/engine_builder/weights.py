"""Weights that several plans share: an engine without weights is filled from the ONNX that it was built from.

Invariant: the file is kept under the digest of every byte that fills a plan, so that two architectures built from the
same bytes name the same one, and two models of one graph never do: large weights lie beside their ONNX, which is the
same file for both.
"""

import shutil
from pathlib import Path

from build_images.engine_builder.backend import Candidate
from build_images.engine_builder.request import BuildRequest, digest_of
from sluice.digest import sha256_json

KIND = "weights"
FILE = "weights.onnx"


def keep_weights(request: BuildRequest, candidate: Candidate) -> str | None:
    """Publish the candidate's ONNX for plans without weights; its digest. None where plans carry their own."""
    if not request.strips_weights or request.store is None:
        return None
    source, beside = candidate.source, _beside(candidate.source)
    digest = digest_of(source)
    if beside:
        parts = {name: digest_of(source.parent / name) for name in beside}
        digest = sha256_json({"onnx": digest, "beside": parts})
    if not request.store.has(KIND, digest):
        with request.store.staged(KIND, digest) as draft:
            shutil.copyfile(source, draft.path / FILE)
            for name in beside:  # the names that the ONNX itself refers to
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.parent / name, draft.path / name)
            draft.publish({"name": candidate.name})
    return digest


def _beside(source: Path) -> list[str]:
    """The files of weights that the ONNX refers to."""
    import onnx  # needed for plans without weights only

    graph = onnx.load(str(source), load_external_data=False).graph
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})

"""PyTorch to ONNX for one release: load, trace whole or by segments, write, assert, publish."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifacts.store import Store
from artifacts.tree import tree_files
from build_images.exporter import onnx_file
from build_images.exporter.model import load_model, register_symbolics, run_model
from build_images.exporter.segments import export_segments
from build_images.exporter.tracing import Wanted, export, trace
from sluice.model_inputs import Sample, fill, parse_samples
from sluice.release import Release
from sluice.signature import TensorSpec
from sluice.spec import Axis, Model, ReleaseSpec

EXAMPLES = 16  # samples that the traced batch is made of, at most


def export_release(store: Store, release: Release) -> None:
    """Publish the `onnx` artifact of a release. Errors: see `build_images.exporter.errors`."""
    checkpoint = store.get("checkpoint", release.keys.checkpoint).path
    spec = release.spec
    with store.staged("onnx", release.keys.onnx) as draft:
        path = draft.path / onnx_file.FILE_NAME
        segments = write_onnx(checkpoint, spec, path)
        draft.publish(
            {
                "opset": spec.model.opset,
                "inputs": spec.signature.to_dict()["inputs"],
                "outputs": spec.signature.to_dict()["outputs"],
                "onnx_sha256": tree_files(draft.path)[path.name].sha256,
                "segments": segments,
            }
        )


def write_onnx(checkpoint: Path, spec: ReleaseSpec, path: Path) -> list[dict[str, Any]]:
    """Write and assert the ONNX file; return what was done per segment (empty without segments)."""
    model = load_model(checkpoint, spec.model.entrypoint)
    register_symbolics(checkpoint, spec.model.symbolics, spec.model.opset)
    samples = read_samples(checkpoint, spec.model, limit=EXAMPLES)
    feed = fill(trace_sizes(spec.model.axes), samples, spec.model.inputs)
    run_model(model, feed, spec.model.outputs)  # the model's own errors come before the tracer's
    if spec.model.segments:
        segments = export_segments(model, spec, samples, path)
    else:
        segments = []
        example = to_tensors(feed)
        export(trace(model, example), example, wanted(path, spec.model))
    onnx_file.finish(path, spec.model)
    return segments


def wanted(path: Path, model: Model) -> Wanted:
    """The whole model's file, as the spec asks for it."""
    return Wanted(
        path=path,
        opset=model.opset,
        inputs=[spec.name for spec in model.inputs],
        outputs=[spec.name for spec in model.outputs],
        axes=dynamic_axes((*model.inputs, *model.outputs)),
    )


def dynamic_axes(specs: Sequence[TensorSpec]) -> dict[str, dict[int, str]]:
    """{tensor: {dimension: axis name}} of the dimensions that the spec leaves open."""
    return {
        spec.name: {index: dim for index, dim in enumerate(spec.dims) if isinstance(dim, str)}
        for spec in specs
    }


def trace_sizes(axes: Mapping[str, Axis]) -> dict[str, int]:
    """The shape that is traced: opt, but at least 2 where the range allows, since 1 broadcasts silently."""
    return {name: max(axis.opt, min(2, axis.max)) for name, axis in axes.items()}


def read_samples(checkpoint: Path, model: Model, *, limit: int | None) -> tuple[Sample, ...]:
    """The first `limit` lines of the checkpoint's samples file. Raises SampleError."""
    text = (checkpoint / model.samples).read_text(encoding="utf-8")
    return parse_samples(text, model.inputs, model.axes, limit=limit)


def to_tensors(feed: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    """The inputs of a forward pass, in order."""
    return [torch.from_numpy(array) for array in feed.values()]

"""Does the ONNX compute what PyTorch computed? Over every corner of the shapes and over real samples.

Problem: an export that is right at the traced shape can be wrong at another, or on padded rows. Invariants:
both sides get the same bytes; each corner of the shape profile and each real sample is run; the verdict is Great
Expectations' on the whole table, and a verdict of "passed" that our own arithmetic contradicts is an error.
A table that fails is published as well, so that its Data Docs can be read; its step fails each time.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.store import Artifact, Store
from build_images.exporter import table as numbers
from build_images.exporter.errors import NumericsError
from sluice.model_inputs import Sample, batches, corners, fill, label, shapes_of, wanted_samples
from sluice.release import Release
from sluice.spec import ReleaseSpec

Feed = dict[str, np.ndarray]


def validate_release(store: Store, release: Release) -> None:
    """Publish the `numerics` artifact. NumericsError, after publishing, when the table fails."""
    spec = release.spec
    checkpoint = store.get("checkpoint", release.keys.checkpoint).path
    onnx_file = store.get("onnx", release.keys.onnx).path / "model.onnx"
    table, shapes = build_table(checkpoint, onnx_file, spec)
    worst = numbers.worst_row(table, spec.numerics)
    with store.staged("numerics", release.keys.numerics) as draft:
        passed, why = _judged(table, shapes, spec, draft.path / "docs")
        rows, worst_json = numbers.json_rows(table), numbers.json_rows([worst])[0]
        document = {"rows": rows, "limits": spec.numerics.model_dump(mode="json"), "passed": passed}
        (draft.path / "table.json").write_text(
            json.dumps(document, indent=1, allow_nan=False), encoding="utf-8"
        )
        facts = {"passed": passed, "worst": worst_json, "rows": len(rows), "why": why}
        artifact = draft.publish(facts)
    raise_if_failed(artifact)


def raise_if_failed(artifact: Artifact) -> None:
    """NumericsError with the worst row when a published numerics artifact did not pass."""
    if artifact.facts.get("passed") is not True:
        raise NumericsError(dict(artifact.facts["worst"]), str(artifact.facts.get("why", "not passed")))


def build_table(
    checkpoint: Path, onnx_file: Path, spec: ReleaseSpec
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, one per output and shape, and the shapes that were asked for."""
    from build_images.exporter.model import load_model, run_model

    samples = _samples(checkpoint, spec)
    model = load_model(checkpoint, spec.model.entrypoint)
    session = _session(onnx_file)
    got_names = [value.name for value in session.get_outputs()]

    def rows(feed: Feed, shape: str) -> list[dict[str, Any]]:
        reference = run_model(model, feed, spec.model.outputs)
        got = dict(zip(got_names, session.run(None, feed), strict=True))
        wanted = shapes_of(feed, spec.model.inputs, spec.model.outputs)
        return numbers.rows(reference, got, wanted, shape, spec.numerics)

    table = [
        row for sizes in corners(spec.model.axes) for row in rows(_corner(sizes, samples, spec), label(sizes))
    ]
    real = f"{len(samples)} real samples"
    # Batches of opt, padded to the longest of each, so that padding is on trial as well.
    feeds = batches(samples, spec.model.inputs, lambda axis: spec.model.axes[axis].opt)
    by_batch = [rows(feed, real) for feed in feeds]
    table += [numbers.merged(parts) for parts in zip(*by_batch, strict=True)]
    return table, [*(label(sizes) for sizes in corners(spec.model.axes)), real]


def _samples(checkpoint: Path, spec: ReleaseSpec) -> tuple[Sample, ...]:
    """The first `numerics.samples` samples, all of them. Raises TooFewSamplesError."""
    text = (checkpoint / spec.model.samples).read_text(encoding="utf-8")
    wanted, field_name = spec.numerics.samples, "numerics.samples"
    return wanted_samples(text, spec.model.inputs, spec.model.axes, field_name=field_name, wanted=wanted)


def _corner(sizes: dict[str, int], samples: Sequence[Sample], spec: ReleaseSpec) -> Feed:
    return fill(sizes, samples, spec.model.inputs)


def _judged(
    table: list[dict[str, Any]], shapes: list[str], spec: ReleaseSpec, docs: Path
) -> tuple[bool, str]:
    """Great Expectations' verdict, failing also when our own arithmetic finds a row outside the limits."""
    from build_images.exporter.judge import judge

    names = [output.name for output in spec.model.outputs]
    passed, why = judge(table, spec.numerics, outputs=names, shapes=shapes, docs=docs)
    outside = [row for row in table if not numbers.ratio(row, spec.numerics) <= 1.0]
    if passed and outside:
        return False, f"{len(outside)} rows are outside the limits though Great Expectations passed them"
    return passed, why


def _session(onnx_file: Path) -> Any:
    """ONNX Runtime on one core without graph optimisations beyond the basic ones: the ONNX is on trial here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])

"""What one engine is, and where it may run.

Problem: an engine built for another machine, another version of its backend or another model loads without a
word, or crashes under traffic. Invariant: a server reads the manifest and refuses before it reads a byte of the
engine; a manifest is written once, beside its engine, and never edited.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, ValidationError

from sluice.errors import FatalError, ProblemsError
from sluice.plan import check_plan
from sluice.signature import Signature, TensorSpec
from sluice.spec_problems import problems_of
from sluice.spec_types import (
    Arch,
    Axis,
    Backend,
    Count,
    InsidePath,
    Part,
    Precision,
    Seconds,
    ServiceName,
    Sha256,
    Text,
)

MANIFEST_FILE: Final = "manifest.json"
OF_ENGINE: Final = "engine"
OF_ONNX: Final = "explicit onnx on onnxruntime-cpu"  # the very ONNX that the engine is built from


class ManifestError(ProblemsError):
    """A document that is no manifest; `problems` names each field."""

    what = "engine manifest"
    fix = "remove the engine's folder from the store and build it again"


class ManifestMismatchError(FatalError):
    """An engine that does not belong here."""

    def __init__(self, field_name: str, wanted: str, got: str) -> None:
        super().__init__(field_name, wanted, got)
        self.field_name, self.wanted, self.got = field_name, wanted, got

    @property
    def message(self) -> str:
        return f"engine manifest: {self.field_name} is {self.got}, this machine needs {self.wanted}"

    @property
    def next_step(self) -> str:
        if self.field_name == "engine_sha256":
            return (
                "the engine's file was changed or cut short: remove its folder from the store, build it again"
            )
        if self.field_name == "backend_version":
            return "build the engine again with the version that serves, or serve from an image that has the other"
        return "build an engine for this target, or start this one where its target is"


class EngineManifest(Part):
    """One engine. Digests are 64 lowercase hex digits; the file is inside the folder of the manifest.

    onnx_sha256: of the model that it was built from. calibration_sha256: key of the calibration, null unless the
    precision is int8. axes: the ranges it was built for, and the sizes to warm. accuracy: by output, against the
    FP32 ONNX. accuracy_of: what was run for it; the engine itself unless it cannot run where it is built.
    performance: by measure with its unit in the name, or `{"measured": false, "why": ...}`. device: what it was
    built on. builder_image: as the spec names it. timing_cache_sha256: the cache that would rebuild it, in the store.
    weights_sha256: key, in the store, of the ONNX that a plan without weights is filled from.
    profiles: `[{input: {least, best, most}}]`.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    service: ServiceName
    arch: Arch
    backend: Backend
    backend_version: Text
    precision: Precision
    onnx_sha256: Sha256
    engine_file: InsidePath
    engine_sha256: Sha256
    calibration_sha256: Sha256 | None = None
    timing_cache_sha256: Sha256 | None = None
    weights_sha256: Sha256 | None = None
    builder_image: Text | None = None  # older documents lack these
    build_seconds: Seconds | None = None
    profiles: tuple[dict[str, dict[str, tuple[Count, ...]]], ...] = ()
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    axes: dict[str, Axis]
    accuracy: dict[str, JsonValue]
    accuracy_of: Literal["engine", "explicit onnx on onnxruntime-cpu"] = OF_ENGINE  # older documents lack it
    performance: dict[str, JsonValue]
    device: dict[str, JsonValue]

    @property
    def signature(self) -> Signature:
        """What clients send and get back."""
        return Signature(inputs=self.inputs, outputs=self.outputs)

    def check(self, *, arch: str, backend: str, engine_sha256: str) -> None:
        """Compare with this machine and the file that is there. Raises ManifestMismatchError at the first
        difference: the machine before the file, since a file for elsewhere need not be read at all."""
        self.check_machine(arch=arch)
        self._same("backend", backend)
        self._same("engine_sha256", engine_sha256)

    def check_machine(self, *, arch: str) -> None:
        """Whether this machine is what the engine was built for. Raises ManifestMismatchError."""
        self._same("arch", arch)

    def check_gpu(self, *, name: str, sm_count: int) -> None:
        """Whether this is the card that the engine was tuned on. Raises ManifestMismatchError.

        One compute capability has several cards: an engine may ask for more multiprocessors than another one has, and
        its tactics were timed on its own. A manifest that names no card (built without one) passes.
        """
        built_on = self.device.get("name"), self.device.get("sm_count")
        if built_on[1] is not None and built_on != (name, sm_count):
            raise ManifestMismatchError(
                "device", f"{name}, {sm_count} SMs", f"{built_on[0]}, {built_on[1]} SMs"
            )

    def _same(self, name: str, wanted: str) -> None:
        if getattr(self, name) != wanted:
            raise ManifestMismatchError(name, wanted, getattr(self, name))

    def check_head(self, head: bytes) -> None:
        """Compare with the first `sluice.plan.HEAD_BYTES` of the engine file, before anything else reads it.

        Raises PlanMismatchError, or PlanHeaderError for a file that is no plan and should be one.
        """
        check_plan(head, backend=self.backend, arch=self.arch, backend_version=self.backend_version)

    def to_json(self) -> str:
        """`manifest.json`; `from_json` reads it back to an equal manifest. ValueError on NaN and infinity."""
        document = self.model_dump(mode="json", by_alias=True)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read `manifest.json`. Raises ManifestError with every problem in it."""
        try:
            raw = json.loads(data) if isinstance(data, str | bytes) else dict(data)
        except (ValueError, TypeError, RecursionError) as error:
            raise ManifestError.of(f"no JSON: {error}") from error
        try:
            return cls.model_validate(raw)
        except ValidationError as invalid:
            raise ManifestError(tuple(problems_of(cls, invalid))) from None

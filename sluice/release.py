"""One release: a spec, a checkpoint and the params of a run, with the digests that name its parts.

Problem: "has this been tried before?" and "is this built already?" must have one answer on every machine.
Invariants:
- `digest` covers what is served and how it is built and checked, and nothing of the rollout policy: stages,
  gates, reviews, replicas and addresses may change without making it another release.
- each key is the SHA-256 of exactly the inputs of its step, and every input of every key is part of `digest`:
  the `release.json` that is stored under a digest gives the same keys to every reader.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationError

from sluice.digest import is_sha256, sha256_bytes, sha256_json
from sluice.errors import FatalError, ParamsError, Problem, SpecError
from sluice.plan import TENSORRT, TENSORRT_RTX
from sluice.spec import ReleaseSpec, Target
from sluice.spec_problems import problems_of
from sluice.spec_types import (
    UNSIGNED,
    Environment,
    FolderName,
    Once,
    Part,
    Precision,
    ReviewPoint,
    Seconds,
    Text,
)

SCHEMA: Final = 1

# Where the spec may complain after a param was applied, and the param to blame.
_BLAME: Final = {
    "precisions": "precisions",
    "stages": "dwell_s",
    "server.command": "server_command",
    "server.env": "server_env",
    "review": "review",
}


class Params(Part):
    """What a person may set for one run. None: as the spec says.

    dwell_s: of every stage. server_env: laid over the spec's. review: replaces `review.before`; an empty list
    asks nobody. checkpoint: name of a folder at the model's source. retry_reason: why a digest that was turned
    back is tried again. Raises ParamsError with every wrong field.
    """

    precisions: Annotated[tuple[Precision, ...], Field(min_length=1), Once] | None = None
    dwell_s: Seconds | None = None
    server_command: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    server_env: Environment | None = None
    retry_reason: Text | None = None
    checkpoint: FolderName | None = None
    review: Annotated[tuple[ReviewPoint, ...], Once] | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as invalid:
            raise ParamsError(tuple(problems_of(type(self), invalid))) from None

    def apply(self, spec: ReleaseSpec) -> ReleaseSpec:
        """The spec with these params in it; applying them twice changes nothing more."""
        raw = spec.to_dict()
        if self.precisions is not None:
            raw["precisions"] = list(self.precisions)
        if self.dwell_s is not None:
            raw["stages"] = [{**stage, "dwell_s": self.dwell_s} for stage in raw["stages"]]
        if self.server_command is not None:
            raw["server"]["command"] = list(self.server_command)
        raw["server"]["env"].update(self.server_env or {})
        if self.review is not None:
            raw["review"]["before"] = list(self.review)
        try:
            return ReleaseSpec.from_dict(raw)
        except SpecError as error:
            raise ParamsError(tuple(_blamed(problem) for problem in error.problems)) from None


def _blamed(problem: Problem) -> Problem:
    for path, param in _BLAME.items():
        if problem.path == path or problem.path.startswith(f"{path}."):
            return Problem(param, problem.value, problem.message)
    return problem


class ReleaseError(FatalError):
    """A release document that cannot be used."""

    def __init__(self, field_name: str, got: str, wanted: str) -> None:
        super().__init__(field_name, got, wanted)
        self.field_name, self.got, self.wanted = field_name, got, wanted

    @property
    def message(self) -> str:
        return f"release: {self.field_name} = {self.got}, wanted {self.wanted}"

    @property
    def next_step(self) -> str:
        return "trigger the run again; resolve writes a new release.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseKeys:
    """The key of each artifact of one release in the store; 64 hex digits each."""

    checkpoint: str
    onnx: str
    numerics: str
    calibration: str
    engines: Mapping[str, str]

    def engine(self, arch: str) -> str:
        """The key of this architecture's engine. Raises ReleaseError naming those there are."""
        try:
            return self.engines[arch]
        except KeyError:
            raise ReleaseError("target", arch, f"one of {', '.join(self.engines)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedOn:
    """Recorded traffic in the place of the checkpoint's samples. Raises ReleaseError for what is no key.

    dataset: its key in the store. reuse: key of the calibration whose ranges may be used again; None: found anew.
    """

    dataset: str
    reuse: str | None = None

    def __post_init__(self) -> None:
        for name, key in asdict(self).items():
            if not is_sha256(key) and (name, key) != ("reuse", None):
                raise ReleaseError(f"calibrated_on.{name}", repr(key), "64 lowercase hex digits")


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable release. `spec` has the params applied, whatever spec it was made from.

    checkpoint_sha256: digest of the checkpoint folder's tree, 64 lowercase hex digits.
    """

    spec: ReleaseSpec
    checkpoint_sha256: str
    params: Params = field(default_factory=Params)
    calibrated_on: CalibratedOn | None = None

    def __post_init__(self) -> None:
        if not is_sha256(self.checkpoint_sha256):
            raise ReleaseError("checkpoint_sha256", repr(self.checkpoint_sha256), "64 lowercase hex digits")
        object.__setattr__(self, "spec", self.params.apply(self.spec))

    @property
    def digest(self) -> str:
        """Names what is served, and nothing of how it is rolled out: 64 hex digits."""
        spec, keys = self.spec, self.keys
        served = {"image": spec.server.image, "command": spec.server.command, "env": spec.server.env}
        inputs = {name: getattr(keys, name) for name in ("onnx", "numerics", "calibration")}
        inputs["engines"] = dict(keys.engines)
        return _key("release", service=spec.service, server=served, **inputs)

    @property
    def document_sha256(self) -> str:
        """Digest of `to_json()`, and the store key of `release.json`: policy and params count here as well.

        Two runs may serve the same thing (`digest`) under other stages or reviews; each must read its own.
        """
        return sha256_bytes(self.to_json().encode())

    @property
    def keys(self) -> ReleaseKeys:
        """The store keys of this release's artifacts."""
        onnx = _key("onnx", **self._onnx_inputs())
        numerics = _key("numerics", onnx=onnx, **self._sample_inputs(), bars=self.spec.numerics.model_dump())
        calibration = self._calibration(onnx)
        return ReleaseKeys(
            checkpoint=self.checkpoint_sha256,
            onnx=onnx,
            numerics=numerics,
            calibration=calibration,
            engines={t.arch: self._engine(t, onnx, calibration) for t in self.spec.targets},
        )

    def _onnx_inputs(self) -> dict[str, Any]:
        model = self.spec.to_dict()["model"]
        names = ("entrypoint", "opset", "inputs", "outputs", "segments", "symbolics", "samples")
        axes = {name: (axis.min, axis.opt, axis.max) for name, axis in self.spec.model.axes.items()}
        return {
            "checkpoint": self.checkpoint_sha256,
            "model": {name: model[name] for name in names},
            "axes": axes,
            "seams": self.spec.numerics.model_dump() if model["segments"] else None,  # judged while exporting
            "image": self.spec.images.exporter,
        }

    def _sample_inputs(self) -> dict[str, Any]:
        axes = {name: axis.model_dump() for name, axis in self.spec.model.axes.items()}
        return {"samples": self.spec.model.samples, "axes": axes}

    def _calibration(self, onnx: str) -> str:
        """Where it would be the very calibration whose ranges may be reused, it is that one."""
        inputs, on = self._calibration_inputs(), self.calibrated_on
        key = _key("calibration", onnx=onnx, **inputs)
        if on is None or on.reuse in (None, key):
            return key
        limit = self.spec.calibration.drift_limit  # it decides whether they are
        return _key("calibration", onnx=onnx, reuse=on.reuse, drift_limit=limit, **inputs)

    @property
    def _samples_of(self) -> str:
        """The file within the checkpoint, or the dataset instead of it."""
        return (
            self.spec.model.samples if self.calibrated_on is None else f"dataset:{self.calibrated_on.dataset}"
        )

    def _calibration_inputs(self) -> dict[str, Any]:
        calibration, forms = self.spec.calibration, self.spec.int8_forms
        return {
            "samples": (self._samples_of, calibration.samples),
            "methods": sorted(calibration.methods),
            "bar": self.spec.accuracy["int8"].cosine,  # below it, noisy operators stay in FP32
            "image": self.spec.images.calibration,
            **(
                {} if forms == (UNSIGNED,) else {"forms": forms}
            ),  # CPU targets alone: the key they always had
        }

    def _engine(self, target: Target, onnx: str, calibration: str) -> str:
        precisions = sorted({"fp32", *self.spec.precisions})  # fp32 is always allowed
        int8 = "int8" in precisions
        held_out_from = self.spec.calibration.samples if int8 else 0
        return _key(
            "engine",
            service=self.spec.service,
            onnx=onnx,
            calibration=calibration if int8 else None,
            target=(
                target.arch,
                target.backend,
                target.image,
                target.resources.cpu,
            ),  # cores decide the fastest
            precisions=sorted(self.spec.precisions),
            accuracy={name: self.spec.accuracy[name].cosine for name in precisions},
            accuracy_samples=(held_out_from, self.spec.numerics.samples),  # from which on, how many
            **self._task_inputs(),
            **_build_inputs(target),
            **{**self._sample_inputs(), "samples": self._samples_of},
        )

    def _task_inputs(self) -> dict[str, Any]:
        """Nothing without a task: the keys of such specs stay what they always were."""
        return {} if self.spec.task is None else {"task": self.spec.task.model_dump()}

    def to_json(self) -> str:
        """`release.json`; `from_json` reads it back to an equal release."""
        document = {
            "schema": SCHEMA,
            "digest": self.digest,
            "checkpoint_sha256": self.checkpoint_sha256,
            "spec": self.spec.to_dict(),
            "params": self.params.model_dump(mode="json", exclude_none=True),
            **({} if self.calibrated_on is None else {"calibrated_on": asdict(self.calibrated_on)}),
        }
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read `release.json`. Raises ReleaseError, SpecError or ParamsError; a digest that differs counts."""
        try:
            raw = json.loads(data) if isinstance(data, str | bytes) else dict(data)
            version, spec, checkpoint, params = (raw[name] for name in _PARTS)
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseError("document", f"{type(error).__name__}: {error}", ", ".join(_PARTS)) from error
        if version != SCHEMA:
            raise ReleaseError("schema", repr(version), str(SCHEMA))
        release = cls(ReleaseSpec.from_dict(spec), checkpoint, Params(**params), _calibrated_on(raw))
        if raw.get("digest") != release.digest:
            raise ReleaseError("digest", repr(raw.get("digest")), release.digest)
        return release


def _calibrated_on(raw: Mapping[str, Any]) -> CalibratedOn | None:
    """Raises ReleaseError for a document that says it in another form."""
    said = raw.get("calibrated_on")
    if said is None:
        return None
    try:
        return CalibratedOn(**said)
    except TypeError:
        raise ReleaseError("calibrated_on", repr(said), "dataset, and reuse or nothing") from None


_PARTS: Final = ("schema", "spec", "checkpoint_sha256", "params")


def dataset_rules(spec: ReleaseSpec) -> str:
    """Digest of what a dataset must be to serve this spec: its inputs and their axes, sizes, limits, 64 hex digits."""
    calibration, recording = spec.calibration, spec.recording
    return _key(
        "dataset rules",
        inputs=spec.to_dict()["model"]["inputs"],
        axes={name: (axis.min, axis.max) for name, axis in spec.model.axes.items()},
        parts=(calibration.samples, spec.numerics.samples),
        values=list(calibration.values),
        lengths=list(recording.lengths) if recording else None,
    )


def dataset_key(spec: ReleaseSpec, run: str) -> str:
    """The store key of what is gathered for one run: recordings change, so that a run has its own."""
    source = spec.recording.source if spec.recording else None
    return _key("dataset", service=spec.service, source=source, rules=dataset_rules(spec), run=run)


def drift_key(release: Release, against: str) -> str:
    """The store key of how far a release's dataset is from the calibration `against`."""
    on = release.calibrated_on
    limit = release.spec.calibration.drift_limit
    return _key(
        "drift",
        onnx=release.keys.onnx,
        dataset=None if on is None else on.dataset,
        against=against,
        limit=limit,
    )


def _build_inputs(target: Target) -> dict[str, Any]:
    """What shapes an engine that is built ahead of time, or its report.

    The time limit does not: it makes an engine or none. Nor does a timing cache, unless it is replayed.
    """
    if target.backend not in (TENSORRT, TENSORRT_RTX):
        return {}
    left_out = {"time_limit_s"} if target.build.replays else {"time_limit_s", "timing_cache"}
    return {"build": target.build.model_dump(exclude=left_out)}


def _key(kind: str, **inputs: Any) -> str:
    return sha256_json({"schema": SCHEMA, "kind": kind, **inputs})

"""The release spec: what a team writes once per model, `dags/models/<service>.yaml`.

Problem: one wrong word in this file decides what production serves. Invariants: everything that is wrong is
reported at once, by path and value; an unknown field is an error and never ignored; a `ReleaseSpec` that exists
is whole (its stages end at 100, its shares sum to 1, every name it uses is defined) and never changes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from sluice.digest import is_sha256
from sluice.errors import Problem, SpecError
from sluice.interpolate import read_yaml
from sluice.reservoir import LENGTHS, PER_STRATUM
from sluice.signature import Signature, TensorSpec
from sluice.spec_checks import spec_problems
from sluice.spec_policy import (
    DEFAULT_STAGES,
    FirstDeployment,
    Gates,
    GatewayLost,
    Lease,
    Mirror,
    Policy,
    Review,
    Stage,
    Traffic,
)
from sluice.spec_problems import CROSS, validated
from sluice.spec_types import (
    INT8_FORMS,
    Arch,
    Axis,
    Backend,
    CacheUse,
    Cosine,
    Count,
    Cpu,
    Cron,
    Drop,
    Entrypoint,
    Environment,
    Flag,
    HardwareCompatibility,
    Hook,
    InsidePath,
    Labels,
    Lengths,
    Memory,
    Method,
    MirrorPercent,
    Once,
    Part,
    Port,
    Positive,
    Precision,
    Rate,
    RecorderUrl,
    Seconds,
    ServiceName,
    Share,
    Submodule,
    TaskMetric,
    Text,
    Timeout,
)

DRIFT_LIMIT: Final = 5e-4  # measured: docs/decisions/0011-when-cached-ranges-have-drifted.md
DEFAULT_ACCURACY: Final = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98}


class Model(Part):
    """Where the PyTorch model is, how it is loaded, and what goes in and comes out."""

    source: Text
    entrypoint: Entrypoint = "model.py:load"
    opset: Annotated[Count, Field(ge=13, le=20)] = 17
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    axes: dict[str, Axis] = Field(default_factory=dict)
    samples: InsidePath = "samples.jsonl"
    segments: Annotated[tuple[Submodule, ...], Once] = ()
    symbolics: InsidePath | None = None


class Numerics(Part):
    """How far ONNX Runtime may be from PyTorch. samples: real ones, beside the corners of the shapes."""

    samples: Count = 256
    max_abs: Positive = 1e-4
    max_rel: Positive = 1e-2
    cosine: Cosine = 0.9999


class AccuracyBar(Part):
    """The least cosine against the FP32 ONNX on real samples."""

    cosine: Cosine


class Task(Part):
    """What the model is for, as one number from 0 to 1 that an engine must keep.

    top1: share of answers whose greatest value stands where the FP32 ONNX's does. recall_at_1: share of queries whose
    nearest answer by cosine is their own. pairs: JSONL file of {"query": sample, "answer": sample}, of recall_at_1.
    max_drop: how far below the FP32 ONNX's an engine's may be; a step of it is 1 / number of answers or queries.
    """

    metric: TaskMetric
    output: Text
    pairs: InsidePath | None = None
    max_drop: Drop = 0.01


class Calibration(Part):
    """How INT8 ranges are found: on so many samples, by each method; the best on held-out samples wins.

    schedule: of the DAG that calibrates on recorded traffic. values: least and most that a recorded input may hold.
    drift_limit: Jensen-Shannon divergence of a tensor, base 2, above which cached ranges are not used again.
    """

    samples: Count = 200
    methods: Annotated[tuple[Method, ...], Field(min_length=1), Once] = ("percentile", "minmax")
    schedule: Cron | None = "0 4 * * 0"
    values: tuple[float | None, float | None] = (None, None)
    drift_limit: Rate = DRIFT_LIMIT


class Resources(Part):
    """What a pod asks for and may use, in Kubernetes' units."""

    cpu: Cpu
    memory: Memory


class Build(Part):
    """What the builder of an engine may take and make. Backends that optimise while they load read none of it.

    profiles: the buckets with an optimisation profile of their own, by axis; each combination is one. null: every
    bucket of the batch axis; {}: one profile over all shapes.
    timing_cache: `reuse` the newest for this device and library, `off`, or the SHA-256 of one to replay.
    version_compatible: later major versions load the plan too. strip_weights: the plan holds none; they are kept once
    for all architectures. compare_one_profile: build once more with one profile, to report what it would have cost.
    """

    workspace_mib: Count = 1024
    optimization_level: Annotated[int, Strict(), Field(ge=0, le=5)] = 3
    time_limit_s: Timeout = 14_400
    profiles: dict[str, Annotated[tuple[Count, ...], Field(min_length=1)]] | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: Flag = False
    strip_weights: Flag = False
    compare_one_profile: Flag = False
    timing_cache: CacheUse = "reuse"

    @property
    def replays(self) -> bool:
        """Whether `timing_cache` names a cache to replay."""
        return is_sha256(self.timing_cache)


class Target(Part):
    """One architecture: where its engine is built and served, and its part of the hash line."""

    arch: Arch
    backend: Backend
    selector: Labels
    image: Text
    share: Share = 1.0
    replicas: Count = 1
    price_per_hour: Positive | None = None  # of one GPU; on a CPU of one replica. No input of a build
    optional: Flag = False
    resources: Resources = Resources(cpu="1", memory="2Gi")
    build: Build = Build()


class Cost(Part):
    """How dear a version may be, in the currency of the targets' prices. None: no limit.

    max_per_million: of a million rows, for each target. max_ratio: against the champion's cost of the same
    architecture, both at today's price.
    """

    max_per_million: Positive | None = None
    max_ratio: Positive | None = None


class Recording(Part):
    """Live traffic that is kept to calibrate on. None of it is an input of what is built.

    percent, recorder: what the gateways copy, and where to; both None for a team that has a log of its own. source:
    folder or URI of recorded traffic, or of a team's own log; None: nothing is read. lengths: short up to,
    medium up to, in tokens or whatever the longest dynamic axis counts. per_stratum: distinct inputs kept of each of
    length class x frequent or rare. redact: what the recorder calls first with each sample; None drops the sample.
    """

    percent: MirrorPercent | None = None
    recorder: RecorderUrl | None = None
    source: Text | None = None
    lengths: Lengths = LENGTHS
    per_stratum: Count = PER_STRATUM
    retention_days: Count = 30
    redact: Hook | None = None


class Images(Part):
    """The images of the pods that export and calibrate. None has a default: a release's keys hold their names."""

    exporter: Text
    calibration: Text


class Server(Part):
    """The model server of each version. `image`, `env` and `command` are part of what is served."""

    image: Text
    command: Annotated[tuple[Text, ...], Field(min_length=1)] = ("python", "-m", "serving.runtime")
    env: Environment = Field(default_factory=dict)
    port: Port = 8000
    resources: Resources = Resources(cpu="100m", memory="1Gi")


class ReleaseSpec(Part):
    """One service's way into production. Made by `parse_spec`; frozen."""

    service: ServiceName
    schedule: Cron | None = None
    on_active: Literal["refuse", "wait", "supersede"] = "refuse"
    model: Model
    numerics: Numerics = Numerics()
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1), Once] = ("fp32", "int8")
    accuracy: dict[str, AccuracyBar] = Field(default_factory=dict, validate_default=True)
    task: Task | None = None
    calibration: Calibration = Calibration()
    recording: Recording | None = None
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    cost: Cost = Cost()
    images: Images
    server: Server
    traffic: Traffic
    signature_changes: Annotated[tuple[Text, ...], Once] = ()
    stages: tuple[Stage, ...] = Field(default=DEFAULT_STAGES, min_length=1)
    gates: Gates = Gates()
    review: Review = Review()
    lease: Lease = Lease()
    gateway_lost: GatewayLost = GatewayLost()
    first_deployment: FirstDeployment = FirstDeployment()
    keep_turned_back_s: Seconds = 3600

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Fill what follows from other fields: the prefix from the name, the bars that the spec leaves out."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        traffic, accuracy = filled.setdefault("traffic", {}), filled.get("accuracy", {})
        if isinstance(traffic, Mapping) and "prefix" not in traffic:
            filled["traffic"] = {**traffic, "prefix": f"/v2/models/{data.get('service')}"}
        if isinstance(accuracy, Mapping):
            bars = {name: {"cosine": cosine} for name, cosine in DEFAULT_ACCURACY.items()}
            filled["accuracy"] = {**bars, **accuracy}
        return filled

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems = tuple(spec_problems(self.model_dump(mode="json")))
        if problems:
            raise PydanticCustomError(CROSS, "{text}", {"text": " | ".join(map(str, problems))})
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from plain values. Raises SpecError with every problem in them."""
        return validated(cls, data, spec_problems, SpecError)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back to an equal spec."""
        return self.model_dump(mode="json")

    @property
    def signature(self) -> Signature:
        """What clients of this release send and get back."""
        return Signature(inputs=self.model.inputs, outputs=self.model.outputs)

    @property
    def int8_forms(self) -> tuple[str, ...]:
        """The forms of INT8 that the targets' backends need, sorted; calibration writes these and no other."""
        return tuple(sorted({INT8_FORMS[target.backend] for target in self.targets}))

    def target(self, arch: str) -> Target:
        """The target of this architecture. Raises SpecError naming those there are."""
        for target in self.targets:
            if target.arch == arch:
                return target
        known = ", ".join(target.arch for target in self.targets)
        raise SpecError.of(f"no target has this architecture; there are {known}", path="targets", value=arch)

    def policy(self) -> dict[str, Any]:
        """What the controller needs, as plain JSON; `Policy.from_json` reads it."""
        whole = self.to_dict()
        policy = {name: whole[name] for name in Policy.model_fields if name not in ("targets", "recording")}
        keep = ("arch", "share", "replicas")
        policy["targets"] = [{name: target[name] for name in keep} for target in whole["targets"]]
        if self.recording is None or self.recording.percent is None:
            return policy
        return {**policy, "recording": {name: whole["recording"][name] for name in Mirror.model_fields}}


def parse_spec(text: str, env: Mapping[str, str]) -> ReleaseSpec:
    """Read a spec's YAML, `${SLUICE_…}` filled in from `env`.

    Raises SpecError with every problem at once: by path, value and line.
    """
    document = read_yaml(text, env)
    if not isinstance(document.value, Mapping):
        message = "the document must be a mapping that begins with service:"
        raise SpecError((*document.problems, Problem("", document.value, message)))
    try:
        return validated(ReleaseSpec, document.value, spec_problems, SpecError, document.problems)
    except SpecError as error:
        lined = (replace(p, line=p.line or document.line_of(p.path)) for p in error.problems)
        raise SpecError(tuple(lined)) from None

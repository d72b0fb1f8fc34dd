"""The small types of a release spec: names, numbers and lists that check themselves.

Problem: `yes`, `"3"` and `true` are not numbers, and a spec that was read loosely promotes something nobody
wrote. Invariant: no value changes its kind on the way in; each refusal says what is wanted in the user's words.
"""

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, Strict

from sluice.promql import PLACEHOLDERS, placeholders

PRECISIONS: Final = ("fp32", "fp16", "int8")
METRICS: Final = ("failure", "slow")
TOP1, RECALL_AT_1 = TASK_METRICS = ("top1", "recall_at_1")
METHODS: Final = ("percentile", "percentile_99_99", "percentile_99_9", "minmax", "entropy", "mse")
COMPATIBILITIES: Final = ("none", "same_compute_capability", "ampere_plus")
BACKENDS: Final = ("onnxruntime", "tensorrt", "tensorrt_rtx")

# How INT8 activations are written: uint8 with a zero point for CPUs, int8 around zero for TensorRT.
UNSIGNED, SIGNED = "unsigned", "signed"
INT8_FORMS: Final = {"onnxruntime": UNSIGNED, "tensorrt": SIGNED, "tensorrt_rtx": SIGNED}

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?" + _LABEL.pattern)
_CRON_PRESETS: Final = ("@once", "@hourly", "@daily", "@weekly", "@monthly", "@yearly")

_WHY_NEEDED: Final = {
    "version": 'without it every version gets the same answer; write version="{version}" into each selector',
    "window": "without it an old sample would count as one of now; write a range such as [{window}]",
}


class Part(BaseModel):
    """Base of every section: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def int8_file(form: str, method: str) -> str:
    """Name of one INT8 candidate within the `calibration` artifact."""
    return f"{'int8s' if form == SIGNED else 'int8'}_{method}.onnx"


def mixed_name(method: str) -> str:
    """Of the candidate that leaves the noisiest operators in FP32, as it stands in files and reports."""
    return f"{method}-mixed"


def _matching(pattern: str, wanted: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(wanted)
        return value

    return AfterValidator(check)


def _one_of(known: tuple[str, ...]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"unknown; one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return values


def _inside(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or "\\" in value:
        raise ValueError("a path inside the checkpoint folder: not absolute, without ..")
    return value


def _cron(value: str) -> str:
    fields = value.split()
    if value in _CRON_PRESETS or (len(fields) == 5 and all(re.fullmatch(r"[\w*/,#-]+", f) for f in fields)):
        return value
    raise ValueError(f"five cron fields (such as 0 3 * * *), one of {', '.join(_CRON_PRESETS)}, or null")


def _address_of(what: str) -> AfterValidator:
    wanted = f"the address of {what}, http://host:port and nothing after it"

    def check(value: str) -> str:
        try:
            url = urlsplit(value)
            port = url.port
        except ValueError:
            raise ValueError(wanted) from None
        if url.scheme != "http" or not url.hostname or not port or url.netloc.count("@"):
            raise ValueError(wanted)
        if url.path not in ("", "/") or url.query or url.fragment:
            raise ValueError(wanted)
        return value.rstrip("/")

    return AfterValidator(check)


def _ascending(values: tuple[int, int]) -> tuple[int, int]:
    if values[0] >= values[1]:
        raise ValueError("two lengths that ascend: short up to, medium up to")
    return values


def _query_with(*wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        found = placeholders(value)
        if unknown := [name for name in found if name not in PLACEHOLDERS]:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}; there are {known}")
        for name in wanted:
            if name not in found:
                raise ValueError(f"{{{name}}} is missing: {_WHY_NEEDED[name]}")
        return value

    return AfterValidator(check)


def _quantity_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _labels(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no label name of Kubernetes (such as sluice.dev/arch)")
        if text and not _LABEL.fullmatch(text):
            raise ValueError(f"{key}: {text!r} is no label value of Kubernetes")
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise ValueError(f"{key!r} is no name of an environment variable")
    return value


def _review_point(value: Any) -> int | str:
    if value == "deploy" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100):
        return int(value) if isinstance(value, int) else "deploy"
    raise ValueError("deploy, or the percent of a stage")


Text = Annotated[str, Strict(), Field(min_length=1, max_length=4096)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Port = Annotated[int, Strict(), Field(ge=1, le=65_535)]
Percent = Annotated[int, Strict(), Field(ge=1, le=100)]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]
Window = Annotated[float, Strict(), Field(ge=1)]  # seconds
MirrorPercent = Annotated[float, Strict(), Field(ge=0.0001, le=100)]  # one request of a million at least
Seconds = Annotated[float, Strict(), Field(ge=0)]
Timeout = Annotated[float, Strict(), Field(gt=0)]
Rate = Annotated[float, Strict(), Field(gt=0, lt=1)]  # strictly between 0 and 1
Drop = Annotated[float, Strict(), Field(ge=0, lt=1)]  # 0 is allowed: no loss at all
Cosine = Annotated[float, Strict(), Field(gt=0, le=1)]
Share = Annotated[float, Strict(), Field(ge=0.0001, le=1)]  # one of 10 000 buckets at least

ServiceName = Annotated[
    Text,
    _matching("[a-z][a-z0-9-]{0,39}", "a lowercase letter, then lowercase letters, digits or -, 40 at most"),
]
Arch = Annotated[
    Text, _matching("[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?", "lowercase letters, digits, _ or -, such as sm_80")
]
Submodule = Annotated[Text, _matching(r"[A-Za-z_]\w*(\.\w+)*", "the dotted name of a submodule")]
Entrypoint = Annotated[
    Text,
    _matching(r"[\w./-]+\.py:[A-Za-z_]\w*", "file.py:function, the file inside the checkpoint folder"),
    AfterValidator(_inside),
]
FolderName = Annotated[
    Text,
    _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "the name of one folder at the model's source, without /"),
]
Sha256 = Annotated[Text, _matching("[0-9a-f]{64}", "a SHA-256, 64 lowercase hex digits")]
CacheUse = Annotated[
    Text, _matching("reuse|off|[0-9a-f]{64}", "reuse, off, or the SHA-256 of a timing cache to replay")
]
HardwareCompatibility = Annotated[Text, _one_of(COMPATIBILITIES)]
Hook = Annotated[
    Text,
    _matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", "module:function, importable by the recorder"),
]
InsidePath = Annotated[Text, AfterValidator(_inside)]
HeaderName = Annotated[
    Text, _matching(r"[a-z0-9][a-z0-9-]*", "a header name in lowercase, such as x-user-id")
]
UrlPrefix = Annotated[Text, _matching(r"/[A-Za-z0-9._~/-]*", "a path that begins with /")]
Cron = Annotated[Text, AfterValidator(_cron)]
AdoptUrl = Annotated[Text, _address_of("an existing upstream")]
RecorderUrl = Annotated[Text, _address_of("the recorder")]
GateName = Annotated[
    Text,
    _matching("[a-z][a-z0-9_]{0,39}", "a lowercase letter, then lowercase letters, digits or _, 40 at most"),
]
PromQl = Annotated[Text, _query_with("version", "window")]
LabelName = Annotated[Text, _matching(r"[A-Za-z_]\w*", "the name of a label of Prometheus, such as version")]
Precision = Annotated[Text, _one_of(PRECISIONS)]
Metric = Annotated[Text, _one_of(METRICS)]
TaskMetric = Annotated[Text, _one_of(TASK_METRICS)]
Method = Annotated[Text, _one_of(METHODS)]
Backend = Annotated[Text, _one_of(BACKENDS)]
Cpu = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Strict(),
    _matching(r"[1-9][0-9]*m|[0-9]*[1-9][0-9]*|[0-9]+\.[0-9]+", "cores, such as 2, 0.5 or 100m"),
]
Memory = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Strict(),
    _matching("[1-9][0-9]*(k|Ki|M|Mi|G|Gi|T|Ti)?", "bytes of memory, such as 512Mi or 2Gi"),
]
Labels = Annotated[dict[str, Annotated[str, Strict()]], Field(min_length=1), AfterValidator(_labels)]
Environment = Annotated[dict[str, Annotated[str, Strict()]], AfterValidator(_environment)]
ReviewPoint = Annotated[int | str, PlainValidator(_review_point)]
Once = AfterValidator(_each_once)
Lengths = Annotated[tuple[Count, Count], AfterValidator(_ascending)]


class Axis(Part):
    """The range of a dynamic axis, and the sizes that are warmed before a server is ready."""

    min: Count
    opt: Count
    max: Count
    buckets: Annotated[tuple[Count, ...], Field(min_length=1)]

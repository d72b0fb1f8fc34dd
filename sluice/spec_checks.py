"""Checks across the fields of a release spec or of a rollout policy.

Problem: each field may be right and the whole still nonsense: shares that sum to 0.9, a review before a stage
that does not exist. Invariant: these checks read the plain values, skip what is not of the right kind (another
check says so), and therefore report all they can see even when other fields are wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit

from sluice.errors import Problem
from sluice.plan import RTX_ARCHS, TENSORRT, TENSORRT_RTX
from sluice.spec_types import METRICS, PRECISIONS, RECALL_AT_1, TOP1

Raw = Mapping[str, Any]

DEFAULT_PERCENTS: Final = (1, 5, 50, 100)
DEFAULT_NO_HARM_BEFORE: Final = (100,)
DEFAULT_LEASE_S: Final = 1800
DEFAULT_REVIEW_S: Final = 86_400
DEFAULT_MAX_HOLD_S: Final = 86_400
REVIEW_MARGIN_S: Final = 300  # from the gate's last renewal to the question, from the answer to the opening
SHARE_SLACK: Final = 1e-6  # of the sum of shares; a bucket is 1e-4
GPU_ARCH: Final = re.compile(r"sm_[0-9]{2,3}")
PINNED: Final = re.compile(r"([^\s@/]+/)*[^\s@/:]+:\w[\w.-]{0,127}@sha256:[0-9a-f]{64}")  # name:tag@digest
NAMES_LIMIT: Final = 55  # service + architecture: with "-v", the version and "-" a name of Kubernetes has 63


def policy_problems(raw: Raw) -> Iterator[Problem]:
    """What is wrong across the fields that a policy and a spec share."""
    yield from _stages(raw)
    yield from _stage_references(raw)
    yield from _first_stage(raw)
    yield from _lease(raw)
    yield from _objectives(raw)
    yield from _absolute(raw)
    yield from _targets(raw)


def spec_problems(raw: Raw) -> Iterator[Problem]:
    """What is wrong across the fields of a release spec."""
    yield from policy_problems(raw)
    yield from _names(raw)
    yield from _target_rules(raw)
    yield from _cost(raw)
    yield from _tensors(raw)
    yield from _axes(raw)
    yield from _accuracy(raw)
    yield from _task(raw)
    yield from _recording(raw)


def _stages(raw: Raw) -> Iterator[Problem]:
    if "stages" not in raw:
        return
    percents = [stage.get("percent") for stage in _mappings(raw["stages"])]
    for index, (before, percent) in enumerate(pairwise(percents), start=1):
        if _is_int(before) and _is_int(percent) and percent <= before:
            message = f"stages must increase strictly, but the one before has {before}"
            yield Problem(f"stages.{index}.percent", percent, message)
    if percents and _is_int(percents[-1]) and percents[-1] != 100:
        yield Problem(f"stages.{len(percents) - 1}.percent", percents[-1], "the last stage must be 100")


def _percents(raw: Raw) -> tuple[int, ...]:
    if "stages" not in raw:
        return DEFAULT_PERCENTS
    return tuple(p for stage in _mappings(raw["stages"]) if _is_int(p := stage.get("percent")))


def _stage_references(raw: Raw) -> Iterator[Problem]:
    percents = _percents(raw)
    for section, name in (("gates", "no_harm_before"), ("review", "before")):
        for index, percent in enumerate(_list(_mapping(raw.get(section)).get(name))):
            if _is_int(percent) and 1 <= percent <= 100 and percent not in percents:
                message = f"no stage has this percent; the stages are {_join(percents)}"
                yield Problem(f"{section}.{name}.{index}", percent, message)


def _first_stage(raw: Raw) -> Iterator[Problem]:
    """No harm is shown in the stage before the named one, and before the first there is none."""
    percents = _percents(raw)
    named = _mapping(raw.get("gates")).get("no_harm_before", DEFAULT_NO_HARM_BEFORE)
    for index, percent in enumerate(_list(named)):
        if percents and percent == percents[0]:
            message = (
                "this is the first stage, so nothing is compared before it opens: put a smaller stage before it, "
                "or write no_harm_before: [] if it may open without"
            )
            yield Problem(f"gates.no_harm_before.{index}", percent, message)


def _lease(raw: Raw) -> Iterator[Problem]:
    """Nobody renews while a person is asked. Before the first stage there is no traffic that could go back."""
    lease, review = _mapping(raw.get("lease")), _mapping(raw.get("review"))
    asked = [point for point in _list(review.get("before")) if point in _percents(raw)[1:]]
    ttl_s, timeout_s = lease.get("ttl_s", DEFAULT_LEASE_S), review.get("timeout_s", DEFAULT_REVIEW_S)
    if lease.get("then") != "retreat" or not asked or not (_is_number(ttl_s) and _is_number(timeout_s)):
        return
    if ttl_s < timeout_s + REVIEW_MARGIN_S:
        message = (
            f"nobody renews the lease while a person is asked before {_join(asked)} %, so the traffic would go back: "
            f"lease.ttl_s is {ttl_s:.9g}, review.timeout_s is {timeout_s:.9g}; make lease.ttl_s at least "
            f"{timeout_s + REVIEW_MARGIN_S:.9g}, lower review.timeout_s, or write hold"
        )
        yield Problem("lease.then", "retreat", message)


def _objectives(raw: Raw) -> Iterator[Problem]:
    for name, value in _mapping(_mapping(raw.get("gates")).get("objectives")).items():
        if name not in METRICS:
            yield Problem(f"gates.objectives.{name}", value, f"unknown metric; one of {_join(METRICS)}")


def _absolute(raw: Raw) -> Iterator[Problem]:
    """A name that stands twice would hide one gate behind the other; a window that never fills never passes."""
    gates = _mapping(raw.get("gates"))
    longest_s, seen = gates.get("max_hold_s", DEFAULT_MAX_HOLD_S), dict[str, int]()
    for index, gate in enumerate(_mappings(gates.get("absolute"))):
        name, window_s = gate.get("name"), gate.get("window_s")
        if isinstance(name, str) and (same := seen.setdefault(name, index)) != index:
            yield Problem(f"gates.absolute.{index}.name", name, f"the same name as gates.absolute.{same}")
        if _is_number(window_s) and _is_number(longest_s) and window_s >= longest_s:
            message = f"must be less than gates.max_hold_s, which is {longest_s:.9g}"
            yield Problem(f"gates.absolute.{index}.window_s", window_s, message)


def _targets(raw: Raw) -> Iterator[Problem]:
    targets = _mappings(raw.get("targets"))
    seen: dict[str, int] = {}
    for index, target in enumerate(targets):
        arch = target.get("arch")
        if not isinstance(arch, str):
            continue
        same = seen.setdefault(arch.replace("_", "-"), index)  # as it stands in names of Kubernetes
        if same != index:
            yield Problem(f"targets.{index}.arch", arch, f"the same architecture as targets.{same}")
    shares = [target.get("share", 1.0) for target in targets]
    if shares and all(_is_number(share) for share in shares) and abs(sum(shares) - 1) > SHARE_SLACK:
        message = f"the shares of all targets must sum to 1, not {sum(shares):g}"
        yield Problem("targets", None, message)


def _target_rules(raw: Raw) -> Iterator[Problem]:
    targets = _mappings(raw.get("targets"))
    if targets and all(target.get("optional") is True for target in targets):
        yield Problem("targets", None, "every target is optional; at least one must not be")
    for index, target in enumerate(targets):
        arch, backend = target.get("arch"), target.get("backend")
        if isinstance(arch, str) and (wanted := _arch_problem(arch, backend)):
            yield Problem(f"targets.{index}.arch", arch, wanted)
        if problem := _image_problem(target.get("image"), backend):
            yield Problem(f"targets.{index}.image", target["image"], problem)
        yield from _profiles(
            f"targets.{index}.build.profiles", raw, _mapping(target.get("build")).get("profiles")
        )


def _profiles(path: str, raw: Raw, profiles: Any) -> Iterator[Problem]:
    """Profiles end at buckets: elsewhere nobody would know which one serves a warmed shape."""
    axes = _mapping(_mapping(raw.get("model")).get("axes"))
    for name, sizes in _mapping(profiles).items():
        if name not in axes:
            yield Problem(
                f"{path}.{name}", None, f"no such axis in model.axes; there: {_join(axes) or 'none'}"
            )
            continue
        buckets = _list(_mapping(axes[name]).get("buckets"))
        for place, size in enumerate(_list(sizes)):
            if size not in buckets:
                yield Problem(
                    f"{path}.{name}.{place}", size, f"no bucket of the axis; there: {_join(buckets)}"
                )
            elif place and _is_int(sizes[place - 1]) and size <= sizes[place - 1]:
                yield Problem(f"{path}.{name}.{place}", size, "profiles must increase strictly")


def _cost(raw: Raw) -> Iterator[Problem]:
    """A limit on the cost without a price could never be judged, and would stop each run after its builds."""
    limits = [f"cost.{name}" for name, limit in _mapping(raw.get("cost")).items() if limit is not None]
    for index, target in enumerate(_mappings(raw.get("targets"))):
        if limits and target.get("price_per_hour") is None:
            message = (
                f"{_join(limits)} is set, but target {target.get('arch')} has no price: write what one GPU (on a CPU "
                "one replica) costs for an hour, or set the limit to null"
            )
            yield Problem(f"targets.{index}.price_per_hour", None, message)


def _recording(raw: Raw) -> Iterator[Problem]:
    """A share that goes nowhere, an address that gets nothing, and a section that says neither nor a source."""
    said = _mapping(raw.get("recording"))
    if not said:
        return
    given = {name for name in ("percent", "recorder") if said.get(name) is not None}
    for name in {"percent", "recorder"} - given if given else ():
        message = f"is needed beside recording.{given.copy().pop()}: so many percent go to this recorder"
        yield Problem(f"recording.{name}", None, message)
    source = said.get("source")
    if isinstance(source, str) and "@" in urlsplit(source).netloc:
        message = (
            "holds a password, which would stand in every release: give pods their credentials by environment"
        )
        yield Problem("recording.source", "(hidden)", message)
    if not given and source is None:
        message = "write percent and recorder to record, a source to read what was recorded, or null for the section"
        yield Problem("recording", None, message)


def _arch_problem(arch: str, backend: object) -> str | None:
    """Why this backend has no such architecture: an engine would be asked for that nothing can build."""
    if backend not in (TENSORRT, TENSORRT_RTX):
        return None
    if not GPU_ARCH.fullmatch(arch):
        return f"backend {backend} builds for a compute capability, such as sm_80 (8.0)"
    if backend == TENSORRT_RTX and arch == "sm_90":
        return "TensorRT-RTX cannot build for Hopper; use backend tensorrt"
    if backend == TENSORRT_RTX and arch not in RTX_ARCHS:
        return f"TensorRT-RTX builds for {_join(RTX_ARCHS)}"
    return None


def _image_problem(image: object, backend: object) -> str | None:
    """Why this image may not build for this backend: under a tag alone, another TensorRT may come tomorrow."""
    if backend != TENSORRT or not isinstance(image, str) or not image or PINNED.fullmatch(image):
        return None
    return (
        "an engine runs only under the exact TensorRT of the image that built it, so backend tensorrt needs tag and "
        "digest, name:tag@sha256:<64 hex digits>; `docker buildx imagetools inspect <name:tag>` prints the digest"
    )


def _names(raw: Raw) -> Iterator[Problem]:
    service = raw.get("service")
    for index, target in enumerate(_mappings(raw.get("targets"))):
        arch = target.get("arch")
        if isinstance(service, str) and isinstance(arch, str) and len(service) + len(arch) > NAMES_LIMIT:
            message = f"together with the service's name at most {NAMES_LIMIT} characters"
            yield Problem(f"targets.{index}.arch", arch, message)


def _tensors(raw: Raw) -> Iterator[Problem]:
    model = _mapping(raw.get("model"))
    axes = _mapping(model.get("axes"))
    seen: dict[str, str] = {}
    used: set[str] = set()
    for side in ("inputs", "outputs"):
        for index, tensor in enumerate(_mappings(model.get(side))):
            path, name = f"model.{side}.{index}", tensor.get("name")
            if isinstance(name, str) and seen.setdefault(name, path) != path:
                yield Problem(f"{path}.name", name, f"the same name as {seen[name]}")
            for place, dim in enumerate(_list(tensor.get("dims"))):
                if isinstance(dim, str) and dim not in axes:
                    message = f"no such axis in model.axes; there: {_join(axes) or 'none'}"
                    yield Problem(f"{path}.dims.{place}", dim, message)
                elif isinstance(dim, str) and side == "inputs":
                    used.add(dim)
    for name in axes:
        if name not in used and _mappings(model.get("inputs")):
            yield Problem(f"model.axes.{name}", None, "no input has this axis")


def _axes(raw: Raw) -> Iterator[Problem]:
    for name, axis in _mapping(_mapping(raw.get("model")).get("axes")).items():
        if isinstance(axis, Mapping):
            yield from _axis(f"model.axes.{name}", axis)


def _axis(path: str, axis: Raw) -> Iterator[Problem]:
    low, best, high = (axis.get(name) for name in ("min", "opt", "max"))
    if _is_int(low) and _is_int(high) and low > high:
        yield Problem(f"{path}.min", low, f"more than max, which is {high}")
        return
    if _is_int(low) and _is_int(best) and _is_int(high) and not low <= best <= high:
        yield Problem(f"{path}.opt", best, f"outside min..max, which is {low}..{high}")
    buckets = _list(axis.get("buckets"))
    for index, bucket in enumerate(buckets):
        if not _is_int(bucket):
            continue
        if _is_int(low) and _is_int(high) and not low <= bucket <= high:
            yield Problem(f"{path}.buckets.{index}", bucket, f"outside min..max, which is {low}..{high}")
        elif index and _is_int(buckets[index - 1]) and bucket <= buckets[index - 1]:
            yield Problem(f"{path}.buckets.{index}", bucket, "buckets must increase strictly")


def _accuracy(raw: Raw) -> Iterator[Problem]:
    for name in _mapping(raw.get("accuracy")):
        if name not in PRECISIONS:
            yield Problem(f"accuracy.{name}", None, f"unknown precision; one of {_join(PRECISIONS)}")


def _task(raw: Raw) -> Iterator[Problem]:
    task, model = _mapping(raw.get("task")), _mapping(raw.get("model"))
    metric, pairs, wanted = task.get("metric"), task.get("pairs"), task.get("output")
    if metric == RECALL_AT_1 and pairs is None:
        message = f'required by {RECALL_AT_1}: a JSONL file of {{"query": .., "answer": ..}} in the checkpoint folder'
        yield Problem("task.pairs", None, message)
    if metric == TOP1 and pairs is not None:
        yield Problem("task.pairs", pairs, f"{TOP1} reads no pairs; take the line out")
    if not isinstance(wanted, str):
        return
    outputs = {
        name: _list(tensor.get("dims"))
        for tensor in _mappings(model.get("outputs"))
        if isinstance(name := tensor.get("name"), str)
    }
    if wanted not in outputs:
        yield Problem("task.output", wanted, f"no such output in model.outputs; there: {_join(outputs)}")
    elif problem := _task_shape(metric, outputs[wanted], _batch(model)):
        yield Problem("task.output", wanted, problem)


def _task_shape(metric: Any, dims: Sequence[Any], batch: Any) -> str | None:
    """Why this output says nothing about the task: with one class every engine is right."""
    shown = f"its dims are {_join(dims)}"
    if batch is not None and dims and dims[0] != batch:
        return f"one row for each sample is wanted, so {batch} first; {shown}"
    if metric == RECALL_AT_1 and not (len(dims) == 2 and _is_int(dims[1]) and dims[1] > 1):
        return f"{RECALL_AT_1} needs one vector of a fixed length, 2 or more, for each sample; {shown}"
    if metric == TOP1 and (len(dims) < 2 or (_is_int(dims[-1]) and dims[-1] < 2)):
        return f"{TOP1} needs a last dimension of 2 or more classes behind the batch; {shown}"
    return None


def _batch(model: Raw) -> Any:
    """The first dimension of the first input; None when it cannot be read."""
    inputs = _mappings(model.get("inputs"))
    dims = _list(inputs[0].get("dims")) if inputs else ()
    return dims[0] if dims else None


def _join(names: Any) -> str:
    return ", ".join(str(name) for name in names)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(value: Any) -> Raw:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _mappings(value: Any) -> list[Raw]:
    """The list with every item that is no mapping replaced by an empty one, so that indices stay right."""
    return [_mapping(item) for item in _list(value)]

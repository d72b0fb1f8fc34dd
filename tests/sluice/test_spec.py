"""A release spec is whole or it is refused, with everything that is wrong named at once."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sluice.errors import PolicyError, SpecError
from sluice.spec import ReleaseSpec, parse_spec
from sluice.spec_checks import (
    DEFAULT_LEASE_S,
    DEFAULT_NO_HARM_BEFORE,
    DEFAULT_PERCENTS,
    DEFAULT_REVIEW_S,
)
from sluice.spec_policy import Policy
from tests.sluice.specs import parse, whole

SHIPPED = Path(__file__).parents[2] / "dags" / "models" / "minilm.yaml"
ENV = {
    "SLUICE_CHECKPOINTS": "/checkpoints",
    "SLUICE_CPU_ARCH": "cpu-avx512vnni",
    "SLUICE_IMAGE_TAG": "dev-0123abcd",
    "SLUICE_RECORDER": "http://127.0.0.1:8300",
}
TARGET = whole()["targets"][0]


def problems(changes=None, **drop):
    with pytest.raises(SpecError) as caught:
        parse(changes, **drop)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        pytest.param({"stagess": []}, "stagess", "did you mean stages?", id="unknown-field"),
        pytest.param({"targets.0.archs": "a"}, "targets.0.archs", "did you mean arch?", id="unknown-below"),
        pytest.param(
            {"model.axes.batch.mx": 1}, "model.axes.batch.mx", "did you mean max?", id="in-a-mapping"
        ),
        pytest.param({"model.inputs.0.type": "x"}, "model.inputs.0.type", "unknown field", id="in-a-tensor"),
        pytest.param(
            {
                "stages": [
                    {"percent": 5, "dwell_s": 1},
                    {"percent": 5, "dwell_s": 1},
                    {"percent": 100, "dwell_s": 1},
                ]
            },
            "stages.1.percent",
            "increase strictly",
            id="stages-not-increasing",
        ),
        pytest.param(
            {"stages": [{"percent": 50, "dwell_s": 1}]}, "stages.0.percent", "must be 100", id="not-to-100"
        ),
        pytest.param({"stages": []}, "stages", "must not be empty", id="no-stages"),
        pytest.param({"stages": [{"percent": 0, "dwell_s": 1}]}, "stages.0.percent", "at least 1", id="zero"),
        pytest.param(
            {"stages": [{"percent": True, "dwell_s": 1}]}, "stages.0.percent", "whole", id="true-is-no-1"
        ),
        pytest.param({"gates.metrics": ["slow", "errors"]}, "gates.metrics.1", "failure, slow", id="metric"),
        pytest.param({"gates.metrics": []}, "gates.metrics", "must not be empty", id="no-metrics"),
        pytest.param(
            {"gates.objectives": {"fast": 0.1}}, "gates.objectives.fast", "unknown metric", id="objective"
        ),
        pytest.param({"gates.alpha": 0}, "gates.alpha", "more than 0", id="alpha-zero"),
        pytest.param({"gates.beta": 1}, "gates.beta", "less than 1", id="beta-one"),
        pytest.param({"gates.alpha": "0.01"}, "gates.alpha", "a number", id="text-is-no-number"),
        pytest.param({"gates.rho0": 1.0}, "gates.rho0", "more than 1", id="rho0-of-no-harm"),
        pytest.param({"gates.no_harm_before": [50, 99]}, "gates.no_harm_before.1", "no stage", id="no-harm"),
        pytest.param(
            {"gates.no_harm_before": [1]}, "gates.no_harm_before.0", "first stage", id="no-harm-of-nothing"
        ),
        pytest.param({"review.before": ["deploy", 7]}, "review.before.1", "no stage has this", id="review"),
        pytest.param(
            {"review.before": ["build"]}, "review.before.0", "deploy, or the percent", id="review-word"
        ),
        pytest.param({"targets": []}, "targets", "must not be empty", id="no-targets"),
        pytest.param({"targets.0.selector": {}}, "targets.0.selector", "must not be empty", id="no-selector"),
        pytest.param({"targets.0.selector": {"a b": "c"}}, "targets.0.selector", "label name", id="label"),
        pytest.param({"targets.0.share": 0.9}, "targets", "sum to 1, not 0.9", id="shares"),
        pytest.param({"targets.0.optional": True}, "targets", "at least one must not be", id="all-optional"),
        pytest.param({"targets.0.optional": "no"}, "targets.0.optional", "true or false", id="no-is-a-text"),
        pytest.param({"targets.0.arch": "SM 80"}, "targets.0.arch", "lowercase", id="arch-name"),
        pytest.param({"targets.0.backend": "tf"}, "targets.0.backend", "onnxruntime", id="backend"),
        pytest.param(
            {"targets.0.resources": {"cpu": "1", "memory": "2 GB"}},
            "targets.0.resources.memory",
            "2Gi",
            id="unit",
        ),
        pytest.param({"service": "Tiny"}, "service", "lowercase letter", id="service-name"),
        pytest.param({"service": "t" * 41}, "service", "40 at most", id="service-too-long"),
        pytest.param({"schedule": "every day"}, "schedule", "five cron fields", id="schedule"),
        pytest.param({"on_active": "kill"}, "on_active", "'refuse', 'wait' or 'supersede'", id="on-active"),
        pytest.param({"precisions": ["fp32", "int4"]}, "precisions.1", "fp32, fp16, int8", id="precision"),
        pytest.param({"precisions": []}, "precisions", "must not be empty", id="no-precisions"),
        pytest.param(
            {"precisions": ["fp32", "fp32"]}, "precisions", "named twice: fp32", id="precision-twice"
        ),
        pytest.param({"accuracy": {"int4": {"cosine": 0.9}}}, "accuracy.int4", "unknown precision", id="bar"),
        pytest.param(
            {"accuracy": {"int8": {"cosine": 1.1}}}, "accuracy.int8.cosine", "at most 1", id="cosine"
        ),
        pytest.param({"calibration.methods": ["max"]}, "calibration.methods.0", "percentile", id="method"),
        pytest.param({"numerics.max_abs": 0}, "numerics.max_abs", "more than 0", id="tolerance"),
        pytest.param(
            {"model.inputs.0.dims": ["batch", "n"]},
            "model.inputs.0.dims.1",
            "there: batch",
            id="dim-without-axis",
        ),
        pytest.param(
            {"model.inputs.0.dims": ["batch", 0]}, "model.inputs.0.dims.1", "from 1 on", id="dim-zero"
        ),
        pytest.param(
            {"model.outputs.0.name": "x"}, "model.outputs.0.name", "the same name as", id="tensor-twice"
        ),
        pytest.param({"model.outputs.0.dtype": "fp32"}, "model.outputs.0.dtype", "float32", id="dtype"),
        pytest.param({"model.outputs": []}, "model.outputs", "must not be empty", id="no-outputs"),
        pytest.param({"model.axes.batch.min": 9}, "model.axes.batch.min", "more than max", id="min-over-max"),
        pytest.param({"model.axes.batch.opt": 9}, "model.axes.batch.opt", "1..8", id="opt-outside"),
        pytest.param({"model.axes.batch.buckets": [1, 9]}, "model.axes.batch.buckets.1", "1..8", id="bucket"),
        pytest.param(
            {"model.axes.batch.buckets": [8, 1]}, "model.axes.batch.buckets.1", "increase", id="order"
        ),
        pytest.param({"model.axes.batch.buckets": []}, "model.axes.batch.buckets", "empty", id="no-buckets"),
        pytest.param(
            {"model.axes.n": {"min": 1, "opt": 1, "max": 1, "buckets": [1]}},
            "model.axes.n",
            "no input",
            id="idle-axis",
        ),
        pytest.param(
            {"model.entrypoint": "model:load"}, "model.entrypoint", "file.py:function", id="entrypoint"
        ),
        pytest.param({"model.entrypoint": "../m.py:load"}, "model.entrypoint", "without ..", id="escape"),
        pytest.param(
            {"model.samples": "/etc/passwd"}, "model.samples", "inside the checkpoint", id="absolute"
        ),
        pytest.param({"model.segments": ["a", "a"]}, "model.segments", "named twice: a", id="segment-twice"),
        pytest.param({"model.source": ""}, "model.source", "must not be empty", id="no-source"),
        pytest.param(
            {"server.resources": {"cpu": "1Gi", "memory": "1Gi"}}, "server.resources.cpu", "cores", id="cpu"
        ),
        pytest.param({"traffic.prefix": "v2"}, "traffic.prefix", "begins with /", id="prefix"),
        pytest.param({"traffic.uid_header": "X-User"}, "traffic.uid_header", "lowercase", id="header"),
        pytest.param({"traffic.timeout_s": 0}, "traffic.timeout_s", "more than 0", id="timeout"),
        pytest.param({"server.port": 70000}, "server.port", "at most 65535", id="port"),
        pytest.param({"server.command": []}, "server.command", "must not be empty", id="no-command"),
        pytest.param({"server.env": {"A-B": "c"}}, "server.env", "environment variable", id="env-name"),
        pytest.param({"lease.then": "panic"}, "lease.then", "'hold' or 'retreat'", id="lease"),
        pytest.param(
            {"lease.then": "retreat", "review.before": [50]},
            "lease.then",
            "lease.ttl_s is 1800, review.timeout_s is 86400; make lease.ttl_s at least 86700",
            id="a-review-outlasts-the-lease",
        ),
        pytest.param({"keep_turned_back_s": -1}, "keep_turned_back_s", "at least 0", id="negative-time"),
        *(
            pytest.param(
                {"first_deployment.adopt": url}, "first_deployment.adopt", "http://host:port", id=url
            )
            for url in (
                "https://h:1",
                "http://h",
                "http://h:0",
                "http://h:x",
                "http://h:1/p",
                "http://u@h:1",
                "h:1",
            )
        ),
        pytest.param({"model": None}, "model", "a mapping is wanted", id="null-section"),
        pytest.param({"targets": "all"}, "targets", "a list is wanted", id="text-for-a-list"),
    ],
)
def test_each_wrong_value_is_named_by_path_and_says_what_is_wanted(changes, path, says):
    found = problems(changes)
    assert list(found) == [path]
    assert says in found[path].message
    if path not in ("targets", "model.axes.n", "accuracy.int4"):
        assert found[path].value == _at(whole(changes), path)


def _at(raw, path):
    for part in path.split("."):
        raw = raw[int(part)] if part.isdigit() else raw[part]
    return raw


@pytest.mark.parametrize(
    "path", ["service", "model", "targets", "model.source", "targets.0.selector", "targets.0.image"]
)
def test_a_required_field_that_is_missing_is_named(path):
    found = problems(drop=(path,))
    assert "required" in found[path].message
    assert found[path].value is None


def test_everything_is_reported_at_once_across_all_kinds_of_problem():
    """Unknown names, wrong values, rules across fields and missing variables do not hide one another."""
    found = problems(
        {
            "stages": [{"percent": 5, "dwell_s": -1}, {"percent": 3, "dwell_s": 1}],
            "gates.metrics": ["errors"],
            "targets.0.selector": {},
            "targets.0.share": 0.5,
            "sevrice": "x",
            "model.source": "${SLUICE_NOT_SET}",
            "model.inputs.0.dims": ["n"],
        }
    )
    assert set(found) >= {
        "stages.0.dwell_s",
        "stages.1.percent",
        "gates.metrics.0",
        "targets.0.selector",
        "targets",
        "sevrice",
        "model.source",
        "model.inputs.0.dims.0",
    }


def test_two_targets_of_one_architecture_are_refused_also_when_only_kubernetes_sees_it():
    """sm_80 and sm-80 would be one Deployment."""
    two = [{**TARGET, "share": 0.5, "arch": arch} for arch in ("sm_80", "sm-80")]
    assert list(problems({"targets": two})) == ["targets.1.arch"]


def test_shares_of_several_targets_sum_to_one():
    three = [{**TARGET, "arch": f"sm_{n}", "share": share} for n, share in ((80, 0.1), (86, 0.2), (89, 0.7))]
    assert [target.share for target in parse({"targets": three}).targets] == [0.1, 0.2, 0.7]


REVIEWED = {
    "lease.ttl_s": 900,
    "lease.then": "retreat",
    "review.before": ["deploy", 1, 50],
    "review.timeout_s": 600,
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the-lease-outlasts-the-review"),
        pytest.param({"lease.ttl_s": 60, "lease.then": "hold"}, id="silence-only-holds"),
        pytest.param({"lease.ttl_s": 60, "review.before": ["deploy", 1]}, id="no-traffic-is-there-yet"),
    ],
)
def test_a_retreat_by_lease_and_a_review_may_go_together_where_no_traffic_would_go_back(changes):
    spec = parse({**REVIEWED, **changes})
    assert (spec.lease.then == "retreat", bool(spec.review.before)) == (
        changes.get("lease.then") != "hold",
        True,
    )


def test_a_lease_as_long_as_a_review_is_too_short_also_for_the_controller():
    """The last renewal comes before the question and the next one after the answer."""
    lease = {"ttl_s": 600, "then": "retreat"}
    assert list(problems({**REVIEWED, "lease.ttl_s": lease["ttl_s"]})) == ["lease.then"]
    with pytest.raises(PolicyError, match=r"lease\.then.*before 50 %"):
        Policy.from_json({**parse(REVIEWED).policy(), "lease": lease})


def test_the_defaults_that_the_checks_assume_are_the_defaults():
    bare = parse()
    assert (bare.lease.ttl_s, bare.review.timeout_s) == (DEFAULT_LEASE_S, DEFAULT_REVIEW_S)
    assert tuple(stage.percent for stage in bare.stages) == DEFAULT_PERCENTS
    assert bare.gates.no_harm_before == DEFAULT_NO_HARM_BEFORE


def test_names_that_kubernetes_could_not_hold_are_refused():
    found = problems({"service": "s" * 40, "targets.0.arch": "a" * 16})
    assert list(found) == ["targets.0.arch"]


# --- the whole ----------------------------------------------------------------------------------


def test_the_shipped_spec_is_the_page_s_and_every_default_in_it_is_the_default():
    """minilm.yaml shows the defaults to whoever copies it: those in force, but for its review and its recording."""
    spec = parse_spec(SHIPPED.read_text(), ENV)
    required = {name: spec.to_dict()[name] for name in ("service", "model", "targets", "images")}
    bare = ReleaseSpec.from_dict({**required, "server": {"image": spec.server.image}})
    assert (bare.review.before, spec.review.before) == ((), ("deploy",))
    review = {**spec.to_dict()["review"], "before": []}
    assert ReleaseSpec.from_dict({**spec.to_dict(), "review": review, "recording": None}) == bare
    addresses = {"percent": 1, "recorder": ENV["SLUICE_RECORDER"], "source": "recordings/minilm"}
    assert bare.recording is None
    assert parse({"recording": addresses}).recording == spec.recording
    assert [stage.percent for stage in spec.stages] == [1, 5, 50, 100]
    assert spec.model.source == "/checkpoints/minilm"


def test_every_image_of_the_shipped_spec_has_the_tag_that_the_environment_gives():
    """A tag that stays while the code changes would let the store answer for code that is gone."""
    spec = parse_spec(SHIPPED.read_text(), ENV)
    assert {spec.images.exporter, spec.images.calibration} == {"sluice/exporter:dev-0123abcd"}
    assert {target.image for target in spec.targets} == {"sluice/engine-builder:dev-0123abcd"}
    assert spec.server.image == "sluice/runtime:dev-0123abcd"


@pytest.mark.parametrize("path", ["images.exporter", "images.calibration", "server.image", "targets.0.image"])
def test_an_image_is_never_a_default(path):
    """Whatever the default's tag were, it would not be of the code that runs."""
    assert problems(drop=(path,))[path].message == "required, but missing"


def test_bars_and_objectives_that_are_left_out_keep_their_defaults():
    spec = parse({"accuracy": {"int8": {"cosine": 0.97}}, "gates.objectives": {"slow": 0.1}})
    assert {name: bar.cosine for name, bar in spec.accuracy.items()} == {
        "fp32": 0.9999,
        "fp16": 0.999,
        "int8": 0.97,
    }
    assert spec.gates.objectives == {"failure": 0.005, "slow": 0.1}


def test_the_prefix_follows_the_name():
    assert parse({"service": "other"}).traffic.prefix == "/v2/models/other"


def test_a_spec_never_changes_and_round_trips():
    spec = parse()
    with pytest.raises(ValidationError, match="frozen"):
        spec.service = "other"
    assert ReleaseSpec.from_dict(spec.to_dict()) == spec


def test_a_spec_cannot_be_made_around_the_checks():
    """Whatever way it is built: a ReleaseSpec that exists is whole."""
    raw = whole({"targets.0.share": 0.5})
    with pytest.raises(ValidationError, match="sum to 1"):
        ReleaseSpec.model_validate(raw)


def test_an_unknown_target_is_refused_naming_those_there_are():
    assert parse().target("cpu-avx2").image == "builder:1"
    with pytest.raises(SpecError, match="there are cpu-avx2"):
        parse().target("sm_80")


# --- policy -------------------------------------------------------------------------------------


def test_the_policy_is_the_contract_s_and_nothing_of_what_is_served():
    policy = parse().policy()
    names = "stages gates traffic lease gateway_lost targets first_deployment review"
    assert set(policy) == set(names.split())
    assert policy["targets"] == [{"arch": "cpu-avx2", "share": 1.0, "replicas": 1}]
    assert Policy.from_json(policy).to_dict() == policy


TWICE_50 = [{"percent": percent, "dwell_s": 0} for percent in (50, 50, 100)]


@pytest.mark.parametrize(
    ("section", "value", "path"),
    [
        pytest.param("stages", TWICE_50, "stages.1.percent", id="stages"),
        pytest.param("targets", [{"arch": "a", "share": 0.2, "replicas": 1}], "targets", id="shares"),
        pytest.param("model", {}, "model", id="more-than-a-policy"),
        pytest.param("review", {"before": [7]}, "review.before.0", id="no-such-stage"),
    ],
)
def test_the_controller_checks_the_policy_by_the_same_rules(section, value, path):
    with pytest.raises(PolicyError) as caught:
        Policy.from_json({**parse().policy(), section: value})
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_policy_that_is_no_json_is_refused():
    with pytest.raises(PolicyError, match="no JSON"):
        Policy.from_json("{")

"""What makes another release, and what does not."""

import json

import pytest

from sluice.errors import ParamsError
from sluice.release import Params, Release, ReleaseError
from tests.sluice.specs import PINNED, SHA, parse

OTHER_SHA = "cd" * 32
TARGET = parse().to_dict()["targets"][0]
ALL = frozenset({"checkpoint", "onnx", "numerics", "calibration", "engine", "release"})


def release(changes=None, *, sha=SHA, **params):
    return Release(parse(changes), sha, Params(**params))


def names(one):
    """Everything that names a part of the release."""
    keys = one.keys
    engine = keys.engine("cpu-avx2")
    return {
        "checkpoint": keys.checkpoint,
        "onnx": keys.onnx,
        "numerics": keys.numerics,
        "calibration": keys.calibration,
        "engine": engine,
        "release": one.digest,
    }


def changed(one, other):
    before, after = names(one), names(other)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"stages": [{"percent": 9, "dwell_s": 1}, {"percent": 100, "dwell_s": 1}]}, id="stages"),
        pytest.param({"gates.alpha": 0.05}, id="gates"),
        pytest.param({"review.before": ["deploy"]}, id="review"),
        pytest.param({"lease.then": "retreat"}, id="lease"),
        pytest.param({"gateway_lost.ttl_s": 1}, id="gateway-lost"),
        pytest.param({"first_deployment.adopt": "http://h:1"}, id="adopt"),
        pytest.param({"traffic.uid_header": "x-uid"}, id="traffic"),
        pytest.param({"schedule": "@daily"}, id="schedule"),
        pytest.param({"on_active": "wait"}, id="on-active"),
        pytest.param({"signature_changes": ["y"]}, id="signature-changes"),
        pytest.param({"keep_turned_back_s": 1}, id="keep"),
        pytest.param({"model.source": "/elsewhere"}, id="address-of-the-checkpoint"),
        pytest.param({"targets.0.replicas": 5}, id="replicas"),
        pytest.param({"targets.0.selector": {"pool": "a"}}, id="selector"),
        pytest.param({"targets.0.resources": {"cpu": 1, "memory": "9Gi"}}, id="build-memory"),
        pytest.param({"server.resources": {"cpu": 2, "memory": "1Gi"}}, id="server-resources"),
        pytest.param({"server.port": 9000}, id="port"),
    ],
)
def test_the_policy_and_the_addresses_do_not_make_another_release(changes):
    """Or a digest that was turned back would come in again with a longer dwell."""
    assert changed(release(), release(changes)) == set()


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({"server.command": ["serve"]}, {"release"}, id="server-command"),
        pytest.param({"server.env": {"A": "b"}}, {"release"}, id="server-env"),
        pytest.param({"server.image": "runtime:2"}, {"release"}, id="server-image"),
        pytest.param({"service": "other"}, {"engine", "release"}, id="service"),
        pytest.param({"targets.0.image": "builder:2"}, {"engine", "release"}, id="builder-image"),
        pytest.param(
            {"targets.0.resources": {"cpu": 2, "memory": "2Gi"}}, {"engine", "release"}, id="build-cores"
        ),
        pytest.param({"precisions": ["fp32"]}, {"engine", "release"}, id="precisions"),
        pytest.param(
            {"accuracy": {"int8": {"cosine": 0.9}}}, {"calibration", "engine", "release"}, id="int8-bar"
        ),
        pytest.param({"accuracy": {"fp32": {"cosine": 0.9}}}, {"engine", "release"}, id="fp32-bar"),
        pytest.param({"model.axes.batch.buckets": [8]}, {"numerics", "engine", "release"}, id="buckets"),
        pytest.param({"numerics.max_abs": 1.0}, {"numerics", "release"}, id="tolerance"),
        pytest.param({"calibration.samples": 9}, {"calibration", "engine", "release"}, id="calibration"),
        pytest.param({"images.calibration": "c:2"}, {"calibration", "engine", "release"}, id="its-image"),
        pytest.param({"model.opset": 18}, ALL - {"checkpoint"}, id="opset"),
        pytest.param({"model.entrypoint": "m.py:f"}, ALL - {"checkpoint"}, id="entrypoint"),
        pytest.param({"model.axes.batch.max": 9}, ALL - {"checkpoint"}, id="range-of-an-axis"),
        pytest.param({"model.segments": ["a"]}, ALL - {"checkpoint"}, id="segments"),
        pytest.param({"model.symbolics": "s.py"}, ALL - {"checkpoint"}, id="symbolics"),
        pytest.param({"model.outputs.0.name": "z"}, ALL - {"checkpoint"}, id="output"),
        pytest.param({"images.exporter": "e:2"}, ALL - {"checkpoint"}, id="exporter-image"),
    ],
)
def test_what_is_served_makes_another_release_and_only_the_steps_that_read_it_run_again(changes, want):
    assert changed(release(), release(changes)) == want


def test_another_checkpoint_makes_everything_anew():
    assert changed(release(), release(sha=OTHER_SHA)) == ALL


def test_an_accuracy_bar_of_no_candidate_makes_no_new_engine():
    assert changed(release(), release({"accuracy": {"fp16": {"cosine": 0.5}}})) == set()


def test_the_order_of_candidates_does_not_count():
    assert changed(release(), release({"precisions": ["int8", "fp32"]})) == set()


def test_without_int8_the_engine_does_not_wait_for_a_calibration():
    floats = {"precisions": ["fp32"]}
    assert "engine" not in changed(release(floats), release({**floats, "calibration.methods": ["mse"]}))
    assert "engine" in changed(release(), release({"calibration.methods": ["mse"]}))


def test_the_tolerance_belongs_to_the_export_only_where_seams_are_judged_by_it():
    split = {"model.segments": ["a"]}
    assert "onnx" in changed(release(split), release({**split, "numerics.max_abs": 1.0}))


def test_engines_of_two_backends_for_one_architecture_have_two_keys():
    here = {"targets.0.arch": "sm_80", "targets.0.image": PINNED}
    one, other = (
        release({**here, "targets.0.backend": backend}).keys for backend in ("tensorrt", "tensorrt_rtx")
    )
    assert one.engine("sm_80") != other.engine("sm_80")
    assert (one.onnx, one.numerics) == (other.onnx, other.numerics)


def test_a_gpu_target_needs_another_calibration_and_a_cpu_target_keeps_the_one_it_had():
    gpu = {"targets.0.arch": "sm_80", "targets.0.backend": "tensorrt_rtx"}
    assert release(gpu).keys.calibration != release().keys.calibration
    assert release(gpu).keys.onnx == release().keys.onnx


def test_engines_of_two_architectures_have_two_keys():
    two = [{**TARGET, "arch": arch, "share": 0.5} for arch in ("sm_80", "sm_86")]
    keys = release({"targets": two}).keys
    assert keys.engine("sm_80") != keys.engine("sm_86")
    with pytest.raises(ReleaseError, match="one of sm_80, sm_86"):
        keys.engine("sm_90")


def test_keys_are_the_same_in_every_version_of_this_program():
    """They name folders of a store that outlives us: whoever changes them rebuilds every engine there is."""
    assert names(release()) == {
        "checkpoint": SHA,
        "onnx": "05738224951b6bd6d56961e0f1232285d20a549d7101d57441408f71f143dc3a",
        "numerics": "63f37f562fe57bace4540c36361987dec3458fbace3d8f00ebafeb416896bb96",
        "calibration": "85f2ddb4b3236e542be1ccebd9e1cbc21006c045a27dbc4b7b1440f9e64519ed",
        "engine": "202bf51d0104d0116e1c9cb6d2939f0a703b5d53127152a9ec6fe3f6167f2a04",
        "release": "55796cc86f564cb368ddf1ce7c957f81f18ceb302b1b98aacaf0c859211c170a",
    }


# --- params -------------------------------------------------------------------------------------


def test_params_are_in_the_spec_of_the_release():
    spec = release(
        {"server.env": {"A": "1", "B": "1"}},
        precisions=["fp32"],
        dwell_s=20,
        server_command=["serve", "--fault"],
        server_env={"B": "2"},
        review=["deploy", 50],
    ).spec
    assert spec.precisions == ("fp32",)
    assert {stage.dwell_s for stage in spec.stages} == {20}
    assert [stage.percent for stage in spec.stages] == [1, 5, 50, 100]
    assert spec.server.command == ("serve", "--fault")
    assert spec.server.env == {"A": "1", "B": "2"}
    assert spec.review.before == ("deploy", 50)


def test_no_params_change_nothing():
    assert release().spec == parse()


def test_an_empty_list_of_reviews_asks_nobody():
    assert release({"review.before": ["deploy"]}, review=[]).spec.review.before == ()


def test_notes_of_a_run_are_no_part_of_what_is_served():
    assert changed(release(), release(retry_reason="data was repaired", checkpoint="c2", dwell_s=1)) == set()


@pytest.mark.parametrize(
    ("params", "field"),
    [
        pytest.param({"precisions": ["int4"]}, "precisions.0", id="precision"),
        pytest.param({"precisions": []}, "precisions", id="no-precision"),
        pytest.param({"dwell_s": -1}, "dwell_s", id="dwell"),
        pytest.param({"dwell_s": "20"}, "dwell_s", id="dwell-as-text"),
        pytest.param({"server_command": []}, "server_command", id="no-command"),
        pytest.param({"server_env": {"A": 1}}, "server_env.A", id="env-value"),
        pytest.param({"retry_reason": ""}, "retry_reason", id="empty-reason"),
        pytest.param({"checkpoint": "../secrets"}, "checkpoint", id="checkpoint-elsewhere"),
        pytest.param({"review": ["7"]}, "review.0", id="review"),
        pytest.param({"preccisions": None}, "preccisions", id="unknown"),
    ],
)
def test_a_wrong_param_is_refused_by_name(params, field):
    with pytest.raises(ParamsError) as caught:
        Params(**params)
    assert [problem.path for problem in caught.value.problems] == [field]
    assert "trigger the run again" in str(caught.value)


def test_all_wrong_params_are_named_at_once():
    with pytest.raises(ParamsError) as caught:
        Params(dwell_s=-1, review=["x"], checkpoint="a/b")
    assert {problem.path.split(".")[0] for problem in caught.value.problems} == {
        "dwell_s",
        "review",
        "checkpoint",
    }


def test_a_param_that_does_not_fit_the_spec_is_blamed_by_its_own_name():
    with pytest.raises(ParamsError) as caught:
        release(review=[7])
    assert [problem.path for problem in caught.value.problems] == ["review"]


# --- the document -------------------------------------------------------------------------------


def test_two_runs_of_one_release_under_other_reviews_have_documents_of_their_own():
    """A shared document would give the second run the first one's reviews."""
    first, second = release(review=[]), release(review=["deploy"])
    assert first.digest == second.digest
    assert first.document_sha256 != second.document_sha256
    assert first.document_sha256 == release(review=[]).document_sha256


def test_it_round_trips_with_its_digest():
    one = release({"server.env": {"A": "1"}}, dwell_s=20, retry_reason="again", server_env={"B": "2"})
    again = Release.from_json(one.to_json())
    assert again == one
    assert (again.digest, again.keys) == (one.digest, one.keys)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        pytest.param({"checkpoint_sha256": OTHER_SHA}, "digest", id="edited-checkpoint"),
        pytest.param({"params": {"precisions": ["fp32"]}}, "digest", id="edited-params"),
        pytest.param({"digest": None}, "digest", id="no-digest"),
        pytest.param({"schema": 2}, "schema", id="from-the-future"),
        pytest.param({"checkpoint_sha256": "short"}, "checkpoint_sha256", id="no-sha"),
    ],
)
def test_a_document_that_does_not_fit_its_digest_is_refused(edit, field):
    document = {**json.loads(release().to_json()), **edit}
    with pytest.raises(ReleaseError) as caught:
        Release.from_json(json.dumps(document))
    assert caught.value.field_name == field


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_what_is_no_release_is_refused(text):
    with pytest.raises(ReleaseError, match="resolve writes a new"):
        Release.from_json(text)

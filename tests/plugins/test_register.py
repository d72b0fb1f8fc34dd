"""Nothing is registered that is not what it says: engines of four architectures, one of which is missing or wrong.

On a real MLflow store (SQLite, no server); the engines are the first bytes of plans, which is all that is read.
"""

import hashlib
import json
import struct

import pytest
from airflow.sdk.exceptions import AirflowFailException

from artifacts.pods import load_release
from artifacts.store import Store
from plugins.hooks.registry import Registry, RegistryHook
from plugins.operators.register import RegisterOperator
from plugins.runs import RunFacts
from sluice.plan import ARCH_BITS
from tests.plugins.pictures import EPOCH, ROLLOUT
from tests.plugins.runtime import Ti, context
from tests.sluice.test_manifest import WHOLE

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_120")
VERSION = "1.7.1.116"


def changes(*, optional=()):
    targets = [
        {
            "arch": arch,
            "backend": "tensorrt_rtx",
            "selector": {"sluice.dev/arch": arch},
            "image": "builder:1",
            "share": 0.25,
            "optional": arch in optional,
        }
        for arch in ARCHS
    ]
    return {"targets": targets, "precisions": ["fp32"]}


def plan(arch, *, version=VERSION):
    bit = next(bit for bit, name in ARCH_BITS.items() if name == arch)
    numbers = bytes(int(part) for part in version.split("."))
    return b"vtrt" + bytes(20) + numbers + b"vtrt" + struct.pack("<Q", bit) + bytes(24) + b"weights"


class World:
    """A store with everything of a release but its engines, and a registry of its own."""

    def __init__(self, document, root, registry):
        self.store, self.registry = Store(root), registry
        self.document, self.release = document, load_release(self.store, document)
        self.before = len(self._versions())
        keys = self.release.keys
        rows = {
            "rows": [{"output": "y", "shape": "batch=1", "max_abs": 1e-6, "max_rel": 1e-4, "cosine": 1.0}]
        }
        self.put("numerics", keys.numerics, {"table.json": json.dumps(rows)}, {"passed": True})
        self.put("onnx", keys.onnx, {"model.onnx": onnx_bytes()}, {"onnx_sha256": "0" * 64})

    def put(self, kind, key, files, facts):
        with self.store.staged(kind, key) as draft:
            for name, data in files.items():
                (draft.path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            draft.publish(facts)

    def engine(self, arch, file=None, said=None):
        """What a build pod leaves for this target: `file` is the engine's bytes, `said` replaces in its manifest."""
        file = plan(arch) if file is None else file
        manifest = {
            **WHOLE,
            "arch": arch,
            "backend": "tensorrt_rtx",
            "backend_version": VERSION,
            "precision": "fp32",
            "calibration_sha256": None,
            "engine_sha256": hashlib.sha256(file).hexdigest(),
            "performance": {"measured": False, "why": "no such GPU here"},
            **(said or {}),
        }
        files = {"engine.plan": file, "manifest.json": json.dumps(manifest), "report.json": "{}"}
        reason = "smallest that is accurate enough; not timed"
        self.put("engine", self.release.keys.engine(arch), files, {"precision": "fp32", "reason": reason})

    def register(self):
        facts = RunFacts(
            service="tiny",
            digest=self.release.digest,
            document=self.document,
            rollout=ROLLOUT,
            epoch=EPOCH,
            straight=False,
            run_label=f"run-{self.before}",
        )
        ti = Ti(task_id="register", xcoms={("resolve", "return_value"): facts.to_xcom()})
        return RegisterOperator(task_id="register").execute(context(ti))

    def made(self):
        """How many versions there are more than before."""
        return len(self._versions()) - self.before

    def _versions(self):
        return self.registry.client.search_model_versions("name='tiny'")


def onnx_bytes():
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.chdir(folder)
        yield Registry(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def world(store, registry, tmp_path, monkeypatch):
    """`world(changes)`: the release of this spec in a fresh store."""

    def make(spec_changes):
        # A connection's address cannot be spelled as SQLite's; the registry behind it is MLflow's own code.
        monkeypatch.setattr(RegistryHook, "get_conn", lambda self: registry)
        return World(store(spec_changes), tmp_path / "store", registry)

    return make


def test_four_engines_of_four_architectures_make_one_version_that_says_what_was_not_timed(world):
    here = world(changes())
    for arch in ARCHS:
        here.engine(arch)
    answer = here.register()
    assert answer["engines"] == dict.fromkeys(ARCHS, "fp32")
    assert answer["missing"] == []
    assert here.made() == 1
    assert "not timed" in answer["card"]
    assert "no such GPU here" in answer["card"]


def test_a_target_that_was_not_built_stops_the_run_before_a_version_exists_and_is_named(world):
    here = world(changes())
    for arch in ARCHS[:3]:
        here.engine(arch)
    with pytest.raises(AirflowFailException, match=r"target sm_120 has no engine.*clear the build of sm_120"):
        here.register()
    assert here.made() == 0


def test_an_optional_target_that_was_not_built_is_left_out_and_said(world):
    here = world(changes(optional=("sm_120",)))
    for arch in ARCHS[:3]:
        here.engine(arch)
    answer = here.register()
    assert answer["missing"] == ["sm_120"]
    assert set(answer["engines"]) == set(ARCHS[:3])
    assert "**Not built** (optional): `sm_120`" in answer["card"]


@pytest.mark.parametrize(
    ("file", "said", "reason"),
    [
        pytest.param(plan("sm_89"), {}, "arch is sm_89, its manifest says sm_80", id="another-architecture"),
        pytest.param(
            plan("sm_80", version="1.7.1.117"), {}, "backend_version is 1.7.1.117", id="another-version"
        ),
        pytest.param(b"\x08\x08no plan", {}, "plan header: magic", id="no-plan"),
        pytest.param(plan("sm_80")[:30], {}, "plan header: length", id="cut-short"),
        pytest.param(
            plan("sm_86"),
            {"arch": "sm_86"},
            "arch is sm_86, this machine needs sm_80",
            id="an-honest-stranger",
        ),
    ],
)
def test_an_engine_that_is_not_what_it_says_is_not_registered(world, file, said, reason):
    """Its digest and its receipt fit: only the bytes themselves tell."""
    here = world(changes())
    for arch in ARCHS[1:]:
        here.engine(arch)
    here.engine("sm_80", file, said)
    with pytest.raises(AirflowFailException, match=reason):
        here.register()
    assert here.made() == 0

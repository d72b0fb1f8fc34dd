"""Nothing is registered that is not what it says: engines of four architectures, one of which is missing or wrong.

On a real MLflow store (SQLite, no server); the engines are the first bytes of plans, which is all that is read.
"""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException

from artifacts.pods import load_release
from artifacts.store import Store
from plugins.hooks.registry import CHAMPION, Entry, Registry, RegistryHook
from plugins.operators.register import RegisterOperator
from plugins.runs import RunFacts
from sluice.plan import ARCH_BITS
from tests.plugins.engine_reports import single
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

    def engine(self, arch, file=None, said=None, report=None):
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
        told = json.dumps(report or single(timed=False))
        files = {"engine.plan": file, "manifest.json": json.dumps(manifest), "report.json": told}
        reason = "smallest that is accurate enough; not timed"
        self.put("engine", self.release.keys.engine(arch), files, {"precision": "fp32", "reason": reason})

    def register(self, run=None):
        facts = RunFacts(
            service="tiny",
            digest=self.release.digest,
            document=self.document,
            rollout=ROLLOUT,
            epoch=EPOCH,
            straight=False,
            run_label=run or f"run-{self.before}",
        )
        ti = Ti(task_id="register", xcoms={("resolve", "return_value"): facts.to_xcom()})
        return RegisterOperator(task_id="register").execute(context(ti))

    def made(self):
        """How many versions there are more than before."""
        return len(self._versions()) - self.before

    def artifacts(self, version, folder):
        """Names of the files that the registry keeps with a version in this folder."""
        client = self.registry.client
        model_id = client.get_model_version("tiny", version).source.removeprefix("models:/")
        return {Path(item.path).name for item in client.list_logged_model_artifacts(model_id, folder)}

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


@pytest.fixture
def champion(registry):
    """`champion(version)` makes it the one that serves, for as long as one test."""
    yield lambda version: registry.promote("tiny", version)
    if registry.alias("tiny", CHAMPION):
        registry.client.delete_registered_model_alias("tiny", CHAMPION)


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


# --- what it costs, how it compares ---------------------------------------------------------------

FULL_A_SECOND = 8000 / 1.04  # rows of the report's engine: 8 in 1.04 ms
COST = 3.6 / 3600 / FULL_A_SECOND * 1e6


def priced(price=3.6, image="builder:1", **cost):
    """One target with a price, and these limits."""
    target = {**changes()["targets"][0], "share": 1.0, "price_per_hour": price, "image": image}
    return {"targets": [target], "precisions": ["fp32"], "cost": cost}


def test_a_version_has_its_cost_its_figures_and_its_pages_and_the_same_run_gives_it_again(world):
    here = world(priced(max_per_million=1.0, max_ratio=1.1))
    here.engine("sm_80", report=single())
    answer = here.register("once")
    assert here.register("once")["version"] == answer["version"]
    assert here.made() == 1
    found = here.registry.client.get_model_version("tiny", answer["version"])
    assert float(found.tags["cost_per_million.sm_80"]) == pytest.approx(COST, rel=1e-4)
    metrics = here.registry.client.get_run(found.run_id).data.metrics
    assert metrics == pytest.approx(
        {
            "p50_ms.sm_80": 1.0,
            "p99_ms.sm_80": 1.45,
            "rows_per_s.sm_80": FULL_A_SECOND,
            "cost_per_million.sm_80": COST,
            "cost_per_million.fleet": COST,
            "peak_memory_mib.sm_80": 360e6 / 2**20,
        }
    )
    assert here.artifacts(answer["version"], "performance") == {"engines.json", "report.html"}
    assert "index.html" in here.artifacts(answer["version"], "accuracy")
    assert here.artifacts(answer["version"], "release") == {"release.json"}
    assert "| cost per million |" in answer["card"]
    assert f"| {COST:.4g} |" in answer["card"]


def test_an_engine_that_was_not_timed_has_an_unknown_cost_and_no_figure(world):
    here = world(priced())
    here.engine("sm_80", report=single(timed=False))
    found = here.registry.client.get_model_version("tiny", here.register()["version"])
    assert found.tags["cost_per_million.sm_80"] == "unknown"
    assert "cost_per_million.sm_80" not in here.registry.client.get_run(found.run_id).data.metrics


@pytest.mark.parametrize(
    ("limit", "report", "words"),
    [
        pytest.param(
            0.12, {}, r"sm_80: a million rows cost 0\.13, cost\.max_per_million is 0\.12; make", id="too-dear"
        ),
        pytest.param(
            9.0, {"timed": False}, r"sm_80: its cost is unknown.*no such GPU here; build", id="unknown"
        ),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_a_version_that_is_too_dear_or_of_unknown_cost_is_not_registered(
    world, limit, report, words, optional
):
    """An optional target may be absent; one that is there serves users, and costs."""
    spec = priced(max_per_million=limit)
    other = {**spec["targets"][0], "arch": "sm_86", "share": 0.5, "price_per_hour": 0.1}
    spec["targets"] = [{**spec["targets"][0], "share": 0.5, "optional": optional}, other]
    here = world(spec)
    here.engine("sm_80", report=single(**report))
    here.engine("sm_86", report=single())
    with pytest.raises(AirflowFailException, match=words):
        here.register()
    assert here.made() == 0


def test_a_version_much_dearer_than_the_champion_is_not_registered(world, champion):
    """At today's prices: the champion's own were a tenth, and a dearer cloud is not the model's fault."""
    first = world(priced(price=0.36, max_ratio=1.1))
    first.engine("sm_80", report=single())
    champion(first.register()["version"])
    dearer = world(priced(image="builder:2", max_ratio=1.1))
    dearer.engine("sm_80", report=single(slower=1.2))
    with pytest.raises(AirflowFailException, match=r"sm_80.*1\.2 times, cost\.max_ratio is 1\.1"):
        dearer.register()
    assert dearer.made() == 0


def test_beside_a_champion_of_before_there_were_figures_the_page_says_so_and_a_ratio_stops_the_run(
    world, champion, registry, tmp_path
):
    here = world(priced())
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "report.json").write_text("{}")
    onnx = here.store.get("onnx", here.release.keys.onnx).path / "model.onnx"
    old = Entry(
        service="tiny",
        digest="old",
        run=str(tmp_path),
        onnx=onnx,
        signature=here.release.spec.signature,
        files={"engines/sm_80": papers},
        tags={},
        description="",
    )
    version = registry.register(old)
    champion(version)
    here.engine("sm_80", report=single())
    page = registry.text("tiny", here.register()["version"], "performance/report.html")
    assert f"version {version}, the champion, was registered without figures" in page
    strict = world(priced(image="builder:2", max_ratio=1.1))
    strict.engine("sm_80", report=single())
    with pytest.raises(AirflowFailException, match=r"registered without figures; set cost.max_ratio to null"):
        strict.register()
    assert strict.made() == 0


def test_an_engine_below_its_bar_is_not_registered_whatever_its_builder_said(world):
    here = world(changes())
    for arch in ARCHS[1:]:
        here.engine(arch)
    report = single(timed=False)
    report["candidates"]["fp32"]["accuracy"]["y"]["cosine_min"] = 0.9998
    here.engine("sm_80", report=report)
    with pytest.raises(
        AirflowFailException, match=r"a_to_be_greater_than_b.*sm_80 fp32 y: cosine 0.9998, bar 0.9999"
    ):
        here.register()
    assert here.made() == 0

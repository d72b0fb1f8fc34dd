"""The contract with TensorRT 8.6, 10.16 and 11.4: every name that the worker touches is in their real bindings.

What a name does, only the libraries can tell; that it is there, the bindings tell without them and without a GPU.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.build_images.tensorrt_bindings import elf, offered
from tests.build_images.tensorrt_bindings.scan import Bindings, offers_of, scan

WORKER = offered.ROOT / "build_images" / "engine_builder" / "tensorrt_worker"

# Which of VERSIONS has it. A path of the worker's OFFERS that is not here fails: say here what you expect of it.
EXPECTED = {
    "BuilderFlag.BF16": (False, True, False),
    "BuilderFlag.EDITABLE_TIMING_CACHE": (False, True, True),
    "BuilderFlag.ERROR_ON_TIMING_CACHE_MISS": (False, True, True),
    "BuilderFlag.FP16": (True, True, False),
    "BuilderFlag.INT8": (True, True, False),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": (True, True, False),
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS": (True, True, False),
    "BuilderFlag.REFIT_IDENTICAL": (False, True, True),
    "BuilderFlag.STRIP_PLAN": (False, True, True),
    "BuilderFlag.VERSION_COMPATIBLE": (True, True, True),
    "ExecutionContextAllocationStrategy": (False, True, True),
    "HardwareCompatibilityLevel.AMPERE_PLUS": (True, True, True),
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": (False, True, True),
    "IBuilderConfig.int8_calibrator": (True, True, False),
    "IBuilderConfig.max_workspace_size": (True, False, False),
    "IBuilderConfig.progress_monitor": (False, True, True),
    "ICudaEngine.create_execution_context_without_device_memory": (True, True, False),
    "ICudaEngine.device_memory_size": (True, True, False),
    "ICudaEngine.device_memory_size_v2": (False, True, True),
    "IExecutionContext.device_memory": (True, True, True),
    "IExecutionContext.execute_async_v2": (True, False, False),
    "IExecutionContext.execute_async_v3": (True, True, True),
    "IExecutionContext.set_device_memory": (False, True, True),
    "ILayer.precision": (True, True, False),
    "INormalizationLayer.compute_precision": (True, True, False),
    "IProgressMonitor": (False, True, True),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (True, True, False),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (False, True, True),
    "OnnxParserRefitter": (False, True, True),
    "PreviewFeature.PROFILE_SHARING_0806": (True, True, False),
    "TacticSource.CUDNN": (True, True, False),
    "TacticSource.JIT_CONVOLUTIONS": (True, True, True),
}


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """Every version, each imported in a process of its own."""
    if reason := offered.missing():
        skip_or_fail(reason, os.environ)
    folder = tmp_path_factory.mktemp("bindings")
    return Bindings(
        trt=[offered.tensorrt(version, folder / version) for version in offered.VERSIONS],
        cudart=offered.module(
            "cuda.bindings.runtime", ("cuda-bindings", "cuda-pathfinder"), folder / "cudart"
        ),
        pynvml=offered.module("pynvml", ("nvidia-ml-py",), folder / "pynvml"),
    )


def skip_or_fail(reason, environ):
    """Without the wheels: skipped on a person's machine, a failure where every promise has to be shown."""
    if environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_without_the_wheels_a_person_may_go_on_and_ci_may_not(monkeypatch, tmp_path):
    monkeypatch.setattr(offered, "WHEELS", tmp_path)
    reason = offered.missing()
    with pytest.raises(pytest.skip.Exception, match="make tensorrt-bindings"):
        skip_or_fail(reason, {})
    with pytest.raises(pytest.fail.Exception, match=r"tensorrt-bindings==8\.6\.1"):
        skip_or_fail(reason, {"CI": "true"})


# --- the worker ---------------------------------------------------------------------------------


def test_the_worker_touches_only_what_every_version_has_or_what_it_asks_for(bindings):
    problems, asked = scan(WORKER, bindings)
    assert problems == []
    assert asked > 100, "the scan has lost sight of the worker's names"


@pytest.mark.parametrize("path", EXPECTED)
def test_the_versions_differ_as_expected(bindings, path):
    assert tuple(one.has(path) for one in bindings.trt) == EXPECTED[path]


def test_the_worker_offers_only_what_some_version_has():
    """A path without an expectation, or one that no version has, is a slip of the pen that would read as "no"."""
    paths = set(offers_of(WORKER).values())
    assert paths - {path for path, where in EXPECTED.items() if any(where)} == set()


IMPORT_WORKER = """
import importlib, json, sys
sys.path[:0] = sys.argv[1:]
sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
from build_images.engine_builder.tensorrt_worker import commands, library
print(json.dumps([library.version(), library.describe()]))
"""


@pytest.mark.parametrize("index", range(len(offered.VERSIONS)), ids=offered.VERSIONS)
def test_the_worker_starts_on_each_version_and_finds_what_it_offers(bindings, index):
    """Its modules are run, with their subclasses of the bindings' classes; nothing of the stubs is called."""
    here = bindings.trt[index]
    paths = [str(one.folder) for one in (here, bindings.cudart, bindings.pynvml)]
    said = offered.run(["-c", IMPORT_WORKER, *paths, str(offered.ROOT)], f"the worker on {here.version}")
    version, offers = json.loads(said)
    assert version == here.version
    assert offers == {name: EXPECTED[path][index] for name, path in offers_of(WORKER).items()}


# --- the bindings -------------------------------------------------------------------------------


def test_what_is_there_and_what_can_be_set_is_told_by_path(bindings):
    for one in bindings.trt:
        assert one.has("__version__")
        assert one.has("BuilderFlag.TF32.name")  # a member of an enumeration has what its class has
        assert not one.has("BuilderFlag.GONE")
        assert not one.has("Gone.TF32")
    assert [one.takes("IExecutionContext.active_optimization_profile") for one in bindings.trt] == [
        True,
        False,
        False,
    ]


def test_the_stubs_have_what_the_bindings_lack_and_nothing_of_the_system(bindings, tmp_path):
    """A stub of the C++ runtime would stand before the real one, and the import would crash."""
    for version in offered.VERSIONS:
        offered.tensorrt(version, tmp_path / version)
        symbols = elf.lacking(tmp_path / version / "tensorrt_bindings" / "tensorrt.so")
        assert "createInferBuilder_INTERNAL" in symbols
        assert not [name for name in symbols if name.startswith(("__cxa", "_Unwind", "Py", "_ZSt", "_ZNSt"))]


def test_a_real_library_of_another_version_is_not_taken(bindings, tmp_path, monkeypatch):
    """10.16 looks into LD_LIBRARY_PATH before it looks beside itself."""
    (tmp_path / "libnvinfer.so.10").write_text("of another version")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert offered.tensorrt("10.16.1.11", tmp_path / "here").has("Builder")


def test_a_stub_is_a_library_whose_functions_return_0(tmp_path):
    path = tmp_path / "libstub.so.1"
    path.write_bytes(elf.stub("libstub.so.1", ["first", "second"]))
    ask = f"import ctypes; it = ctypes.CDLL({str(path)!r}); print(it.first(), it.second(), hasattr(it, 'third'))"
    ran = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0 0 False\n", "")


def test_bindings_that_cannot_be_imported_say_why(tmp_path):
    (tmp_path / "broken.py").write_text("import gone\n")
    with pytest.raises(RuntimeError, match=r"(?s)broken 1\.0 cannot be imported.*No module named 'gone'"):
        offered.describe(tmp_path, "broken", "1.0")


# --- the scan -----------------------------------------------------------------------------------

LIBRARY = """
import tensorrt as trt
OFFERS = {"fp16": "BuilderFlag.FP16", "monitor": "IProgressMonitor", "size": "ICudaEngine.device_memory_size",
          "set_monitor": "IBuilderConfig.progress_monitor"}
def find(path):
    found = trt
    for part in path.split("."):
        found = getattr(found, part)
    return found
"""
GOOD = """
import argparse
import pynvml
import tensorrt as trt
from cuda.bindings import runtime as cudart
from worker import library

class Loaded:
    def __init__(self, path: Path, log):
        self._runtime = trt.Runtime(log)
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self.context = self.engine.create_execution_context()
        self.kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice

    def size(self):
        which = "device_memory_size" if library.offers("size") else "num_io_tensors"
        return getattr(self.engine, which)

class User:
    def __init__(self, engine: Loaded):
        self._engine = engine

    def run(self):
        self._engine.answer(pynvml.nvmlInit())

class Profiler(trt.IProfiler):
    def __init__(self):
        trt.IProfiler.__init__(self)

    def report_layer_time(self, name, ms, *more, unit="ms"):
        pass

def monitor():
    class Monitor(library.get("monitor")):
        def phase_start(self, name, parent, steps):
            pass
        def step_complete(self, *given):
            return True
        def phase_finish(self, name, last=True):
            pass
    return Monitor()

def main(log, engine: Path, engines: dict[str, Loaded]):
    parser = argparse.ArgumentParser()
    parser.add_argument("--onnx")
    engine.write_bytes(b"")
    for engine in engines.values():
        engine.answer()

def build(log, request):
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    config.builder_optimization_level = 3
    attribute = cudart.cudaDeviceAttr
    if library.offers("fp16"):
        config.set_flag(library.get("fp16"))
    if library.offers("monitor"):
        setattr(config, "progress_monitor", library.get("monitor").__init__)
    return trt.Logger.Severity.WARNING, attribute.cudaDevAttrMultiProcessorCount
"""
# What is put into the good file, where, and what has to be said of it.
BROKEN = {
    "a-flag-that-went": (
        "config.set_flag(trt.BuilderFlag.FP16)",
        "trt.BuilderFlag.FP16 is not in 11.4.0.106",
    ),
    "an-attribute-that-went": (
        "config.max_workspace_size = 1",
        "IBuilderConfig.max_workspace_size is not in 10.16.1.11, 11.4.0.106",
    ),
    "an-attribute-that-came": (
        "config.progress_monitor = None",
        "IBuilderConfig.progress_monitor is not in 8.6.1",
    ),
    "by-string-and-not-offered": (
        'getattr(config, "int8_calibrator")',
        "IBuilderConfig.int8_calibrator is not in 11.4.0.106",
    ),
    "a-string-that-cannot-be-read": ("getattr(config, request)", "getattr: the name cannot be read here"),
    "a-member-by-string": ('hasattr(trt.BuilderFlag, "FP16")', "hasattr of a member: name it in OFFERS"),
    "read-only": ("config.num_optimization_profiles = 1", "cannot be set in 8.6.1, 10.16.1.11, 11.4.0.106"),
    "under-another-name": (
        "flags = trt.BuilderFlag; flags.INT8",
        "trt.BuilderFlag.INT8 is not in 11.4.0.106",
    ),
    "a-variable-of-another-name": (
        "it = builder.create_builder_config(); it.max_workspace_size",
        "IBuilderConfig.max_workspace_size is not in",
    ),
    "of-self": (
        "self._engine.num_bindings",
        "ICudaEngine.num_bindings is not in 10.16.1.11, 11.4.0.106",
    ),
    "along-a-chain": ("context.engine.num_bindings", "ICudaEngine.num_bindings is not in"),
    "on-a-result": (
        "builder.create_network(0).add_fully_connected",
        "INetworkDefinition.add_fully_connected is not in 10.16.1.11",
    ),
    "imported-by-itself": (
        "from tensorrt import UffParser",
        "trt.UffParser is not in 10.16.1.11, 11.4.0.106",
    ),
    "under-its-own-name": ("import tensorrt; tensorrt.CaffeParser", "trt.CaffeParser is not in"),
    "an-annotation": ("one: trt.IInt8Calibrator", "trt.IInt8Calibrator is not in 11.4.0.106"),
    "not-in-the-table": ('library.get("gone")', "'gone' is not in OFFERS of library.py"),
    "not-on-what-was-offered": (
        'library.get("monitor").gone',
        "trt.IProgressMonitor.gone is not in 10.16.1.11, 11.4.0.106, though IProgressMonitor is",
    ),
    "a-method-that-the-library-calls": (
        "class Log(trt.ILogger): logs = print",
        "Log has no log, which ILogger has in 8.6.1, 10.16.1.11, 11.4.0.106",
    ),
    "a-method-with-too-few-arguments": (
        "class Log(trt.ILogger):\n        def log(self, message): ...",
        "ILogger.log is called with 2 arguments in 8.6.1, 10.16.1.11, 11.4.0.106",
    ),
    "a-method-with-too-many-arguments": (
        "class One(trt.IProfiler):\n        def report_layer_time(self, name, ms, unit): ...",
        "IProfiler.report_layer_time is called with 2 arguments in 8.6.1, 10.16.1.11, 11.4.0.106",
    ),
    "an-argument-that-the-library-does-not-give": (
        "class One(trt.IProfiler):\n        def report_layer_time(self, name, ms, *, unit): ...",
        "IProfiler.report_layer_time is called with 2 arguments in 8.6.1",
    ),
    "a-method-of-what-was-offered": (
        """class One(library.get("monitor")):
        def phase_start(self, a, b, c): ...
        def phase_finish(self, a): ...""",
        "One has no step_complete, which IProgressMonitor has in 10.16.1.11, 11.4.0.106",
    ),
    "of-cuda": ("cudart.cudaGone()", "cudart.cudaGone is not in 12.9.10"),
    "a-member-of-cuda": ("cudart.cudaError_t.cudaGone", "cudart.cudaError_t.cudaGone is not in 12.9.10"),
    "of-the-driver": ("pynvml.nvmlGone()", "pynvml.nvmlGone is not in 13.580.126"),
}


@pytest.fixture
def package(tmp_path):
    """A small worker that asks for nothing that is not there."""
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "library.py").write_text(LIBRARY)
    (folder / "good.py").write_text(GOOD)
    return folder


def test_what_is_asked_for_properly_is_no_problem(package, bindings):
    problems, asked = scan(package, bindings)
    assert problems == []
    assert asked == 26


@pytest.mark.parametrize("case", BROKEN)
def test_each_name_that_a_version_lacks_is_reported_with_its_line(package, bindings, case):
    code, said = BROKEN[case]
    broken = GOOD + "    " + code + "\n"
    (package / "good.py").write_text(broken)
    problems, _ = scan(package, bindings)
    assert len(problems) == 1, problems
    lines = {len(GOOD.splitlines()) + 1, len(broken.splitlines())}  # of the class, or of its method
    assert int(problems[0].split(":")[1]) in lines
    assert said in problems[0]


def test_a_worker_without_its_table_is_refused(package, bindings):
    (package / "library.py").write_text("import tensorrt as trt\n")
    with pytest.raises(ValueError, match="no OFFERS"):
        scan(package, bindings)


# --- fetching -----------------------------------------------------------------------------------


def test_every_wheel_is_pinned_by_its_hash():
    lines = offered.requirements()
    assert [name.split("==")[1] for name in lines if name.startswith("tensorrt")] == list(offered.VERSIONS)
    assert all(" --hash=sha256:" in line for line in lines.values())


def test_the_tests_fetch_the_wheels_and_go_on_without_them_unless_it_is_ci():
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def make(target):
        command = ["make", "--dry-run", "--always-make", target]
        ran = subprocess.run(command, cwd=offered.ROOT, env=env, capture_output=True, text=True, check=True)
        return [line for line in ran.stdout.splitlines() if "tests.build_images.tensorrt_bindings" in line]

    assert make("demo") == []
    (recipe,) = make("test")
    failing = recipe.replace(".venv/bin/python -m tests.build_images.tensorrt_bindings", "false")
    assert failing != recipe
    codes = [
        subprocess.run(["bash", "-c", failing], env={"CI": ci}, check=False).returncode for ci in ("", "1")
    ]
    assert codes == [0, 1]

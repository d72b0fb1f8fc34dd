"""What the offline pack promises on the GPU host: all pieces or nothing, and a Python that finds its TensorRT."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tarfile

import pytest

from tests.build_images.tensorrt_bindings import offered

OFFLINE = offered.ROOT / "build_images" / "engine_builder" / "offline"
# Instead of Python 3.10: says what it was given.
PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then echo "tensorrt imported"; exit {code}; fi
for name in PYTHONHOME PYTHONPATH LD_LIBRARY_PATH SLUICE_TENSORRT_EXTERNAL_TACTICS; do echo "$name=${{!name}}"; done
printf '<%s>' "$@"
exit 7
"""
TOOLS = (
    "awk",
    "bash",
    "cat",
    "chmod",
    "dirname",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sh",
    "sha256sum",
    "tar",
    "xargs",
)


@pytest.fixture
def host(tmp_path):
    """A GPU host with the pieces, in a folder with a space. zstd, which need not be there, hands its input on."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))
    folder = tmp_path / "the pieces"
    folder.mkdir()
    shutil.copy(OFFLINE / "unpack_tensorrt.sh", folder)
    (folder / "zstd").write_text("#!/bin/sh\nexec cat\n")

    def put(code=0):
        python = tmp_path / "tree" / "python" / "bin" / "python3.10"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON.format(code=code))
        python.chmod(0o755)
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            archive.add(tmp_path / "tree", ".")
        data = (tmp_path / "all.tar").read_bytes()
        half = len(data) // 2
        sums = ""
        for name, part in {"piece00": data[:half], "piece01": data[half:]}.items():
            (folder / name).write_bytes(part)
            sums += f"{hashlib.sha256(part).hexdigest()}  {name}\n"
        (folder / "SHA256SUMS").write_text(sums)
        return folder

    put.programs = programs
    return put


def run(command, programs, **env):
    env = {"PATH": str(programs), **env}
    return subprocess.run([str(one) for one in command], env=env, capture_output=True, text=True, check=False)


def unpack(host, folder):
    return run(["bash", folder / "unpack_tensorrt.sh"], host.programs)


def test_the_python_finds_its_own_things_first_and_then_the_caller_s(host, tmp_path):
    folder = host()
    ran = unpack(host, folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    python = folder / "trt" / "bin" / "trtpython"
    assert ran.stdout.splitlines() == ["tensorrt imported", f"export SLUICE_TENSORRT_PYTHON={python}"]
    link = tmp_path / "link"
    link.symlink_to(python)
    ran = run([link, "-m", "a b", ""], host.programs, PYTHONPATH="/sluice", LD_LIBRARY_PATH="/driver")
    home = folder / "trt"
    assert ran.stdout.splitlines() == [
        f"PYTHONHOME={home}/python",
        f"PYTHONPATH={home}/site:/sluice",
        f"LD_LIBRARY_PATH={home}/python/lib:{home}/stubs:{home}/site/tensorrt:/driver",
        "SLUICE_TENSORRT_EXTERNAL_TACTICS=0",
        "<-m><a b><>",
    ]
    assert ran.returncode == 7


def test_without_the_caller_s_paths_none_is_empty(host):
    """An empty part of these paths is the working folder."""
    folder = host()
    unpack(host, folder)
    said = run([folder / "trt" / "bin" / "trtpython", "x"], host.programs).stdout
    assert "::" not in said
    assert not re.search(r":$", said, re.MULTILINE)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_with_a_piece_short_nothing_is_unpacked(host, harm):
    folder = host()
    piece = folder / "piece01"
    piece.unlink() if harm == "gone" else piece.write_bytes(b"x" + piece.read_bytes()[1:])
    ran = unpack(host, folder)
    assert ran.returncode == 1
    assert "piece01" in ran.stderr
    assert "copy those again" in ran.stderr
    assert not (folder / "trt").exists()


def test_without_the_checksums_nothing_is_unpacked(host):
    folder = host()
    (folder / "SHA256SUMS").unlink()
    ran = unpack(host, folder)
    assert (ran.returncode, (folder / "trt").exists()) == (1, False)
    assert "no SHA256SUMS" in ran.stderr


def test_a_python_that_does_not_import_tensorrt_is_an_error(host):
    ran = unpack(host, host(code=1))
    assert ran.returncode == 1
    assert "does not import what it needs" in ran.stderr
    assert "export" not in ran.stdout


def test_what_was_unpacked_before_is_tried_again_and_kept(host):
    folder = host()
    unpack(host, folder)
    (folder / "trt" / "mine").touch()
    (folder / "piece00").unlink()
    assert unpack(host, folder).returncode == 0
    assert (folder / "trt" / "mine").exists()


@pytest.mark.parametrize("script", ["pack_tensorrt.sh", "unpack_tensorrt.sh"])
def test_each_script_says_how_it_is_used(script):
    ran = run(["bash", OFFLINE / script, "--help"], os.environ["PATH"])
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: ")
    ran = run(["bash", OFFLINE / script, "--gone"], os.environ["PATH"])
    assert (ran.returncode, ran.stdout) == (2, "")


# What the plugin library asks for, as nm prints it. The second prefix begins with the first.
NM = """#!/bin/sh
echo "                 U cublasGetProperty@libcublas.so.12"
echo "                 U cublasLtGetProperty@libcublasLt.so.12"
echo "                 U cublasLtMatmul@libcublasLt.so.12"
echo "                 U cublasSgemm_v2@libcublas.so.12"
echo "                 U cudnnCreate@libcudnn.so.8"
echo "                 U malloc@GLIBC_2.2.5"
"""
# Instead of the compiler, which need not be here: keeps the source under the library's name.
GCC = """#!/bin/bash
for name in "$@"; do [[ $name == *.c ]] && source=$name; done
cp "$source" "${!#}"
"""
STAND_INS = {
    "cudnn": ("libcudnn.so.8", 8, "cudnnCreate"),
    "cublas": ("libcublas.so.12", 12, "cublasSgemm_v2"),
    "cublasLt": ("libcublasLt.so.12", 12, "cublasLtMatmul"),
}


def stand_ins(tmp_path, **programs):
    """Run the pack's own function, with these programs first on the path; the folder of what it made."""
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "tree").mkdir()
    whole = (OFFLINE / "pack_tensorrt.sh").read_text()
    functions = whole.removesuffix('main "$@"\n')
    assert functions != whole
    (tmp_path / "functions.sh").write_text(f"{functions}stand_ins {tmp_path}/tree\n")
    ran = run(["bash", tmp_path / "functions.sh"], f"{tmp_path}/bin:{os.environ['PATH']}")
    assert (ran.returncode, ran.stderr) == (0, "")
    return tmp_path / "tree" / "stubs"


def test_a_stand_in_has_what_is_asked_of_it_and_its_version_once(tmp_path):
    """A version that is left unwritten goes into every timing cache, and none is taken again."""
    folder = stand_ins(tmp_path, nm=NM, gcc=GCC)
    for prefix, (soname, major, function) in STAND_INS.items():
        source = (folder / soname).read_text()
        assert f"int {function}(void) {{ return 1; }}" in source
        assert source.count(f" {prefix}GetProperty(") == 1
        assert f"{prefix}GetProperty(int which, int *value) {{ *value = which == 0 ? {major} : 0;" in source
        assert "malloc" not in source
    assert {path.name for path in folder.iterdir()} == {soname for soname, _, _ in STAND_INS.values()}


@pytest.mark.skipif(
    not shutil.which("gcc"), reason="no gcc here: the test above reads what would be compiled"
)
def test_a_compiled_stand_in_tells_its_version_and_does_nothing_else(tmp_path):
    folder = stand_ins(tmp_path, nm=NM)
    for prefix, (soname, major, function) in STAND_INS.items():
        library = ctypes.CDLL(str(folder / soname))
        value = ctypes.c_int(-1)
        told = []
        for which in range(3):
            assert getattr(library, f"{prefix}GetProperty")(which, ctypes.byref(value)) == 0
            told.append(value.value)
        assert told == [major, 0, 0]
        assert getattr(library, function)() == 1


def test_the_image_and_the_pack_carry_the_cuda_and_driver_bindings_whose_names_are_checked():
    """Names held against another version than the one that is installed were held against nothing."""
    worker = pins(OFFLINE.parent / "tensorrt_worker" / "requirements.txt")
    packed = pins(OFFLINE / "wheels.txt")
    assert all(" --hash=sha256:" in line for line in packed.values())
    held = {name for name in offered.requirements() if name.startswith(("cuda-bindings", "nvidia-ml-py"))}
    assert len(held) == 2
    assert held < set(packed)
    assert held < set(worker)


def pins(path):
    """The lines of a list of requirements by `name==version`."""
    lines = [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {re.split("[ ;]", line)[0]: line for line in lines if line}

"""What the real bindings of each version offer: wheels unpacked with stubs, each described in a process of its own."""

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.build_images.tensorrt_bindings import elf

ROOT: Final = Path(__file__).resolve().parents[3]
LIST: Final = Path(__file__).with_name("wheels.txt")
WHEELS: Final = ROOT / ".venv" / "tensorrt-bindings"
VERSIONS: Final = ("8.6.1", "10.16.1.11", "11.4.0.106")
DESCRIBE: Final = Path(__file__).with_name("describe.py")
LIMIT_S: Final = 60
ARGUMENT: Final = re.compile(r"[(,] ?\w+: ")  # in a signature of pybind11
READ: Final = (
    ".py",
    ".so",
)  # of a wheel; the sources that cuda-bindings carries along are three times as much


@dataclass(frozen=True, slots=True)
class Offered:
    """The names of one module, by dotted path."""

    version: str
    folder: Path  # where it was unpacked; on a process's path it can be imported
    names: Mapping[str, Mapping[str, list[str]]]

    def has(self, path: str) -> bool:
        """Whether `A.B.C` is there."""
        owner, _, name = path.rpartition(".")
        return name in self.attributes(owner)

    def takes(self, path: str) -> bool:
        """Whether the property `A.B` can be assigned to on an instance of A."""
        owner, _, name = path.rpartition(".")
        return owner in self.names and name in self.names[owner]["settable"]

    def methods(self, path: str) -> dict[str, int]:
        """Those of class A, with how many arguments each is called with, `self` among them."""
        lines = self.names[path]["methods"] if path in self.names else []
        return {line.partition("(")[0]: len(ARGUMENT.findall(line)) for line in lines}

    def attributes(self, path: str) -> list[str]:
        """Of a class, a value or a member of an enumeration; [] for what is not there or not described."""
        if path in self.names:
            return self.names[path]["attributes"]
        owner, _, name = path.rpartition(".")
        if owner in self.names and name in self.names[owner]["members"]:
            return self.names[owner]["attributes"]
        return []


def requirements() -> dict[str, str]:
    """The lines of wheels.txt by `name==version`."""
    lines = [line.strip() for line in LIST.read_text().splitlines() if not line.startswith("#")]
    return {line.split(" ")[0]: line for line in lines if line}


def folder_of(requirement: str) -> Path:
    """Where `make tensorrt-bindings` puts the wheel of `name==version`."""
    return WHEELS / requirement.replace("==", "-")


def missing() -> str | None:
    """Why the bindings cannot be read here; None when they can."""
    machine = (sys.platform, platform.machine(), sys.version_info[:2])
    if machine != ("linux", "x86_64", (3, 11)):
        return f"the bindings' wheels are for Python 3.11 on x86-64 Linux, this is {machine}"
    gone = [one for one in requirements() if not list(folder_of(one).glob("*.whl"))]
    return f"no wheel of {', '.join(gone)}: run `make tensorrt-bindings`" if gone else None


def tensorrt(version: str, into: Path) -> Offered:
    """The names of `tensorrt` in one of VERSIONS."""
    (name,) = [one for one in requirements() if one.startswith("tensorrt") and one.endswith(f"=={version}")]
    unpack(name, into)
    bindings = into / "tensorrt_bindings" / "tensorrt.so"
    symbols = elf.lacking(bindings)
    for soname in elf.needed(bindings):
        if soname.startswith("libnv"):
            # Next to the bindings, where their own run path looks first.
            bindings.with_name(soname).write_bytes(elf.stub(soname, symbols))
    return describe(into, "tensorrt_bindings", version)


def module(name: str, wheels: tuple[str, ...], into: Path) -> Offered:
    """The names of a module of these wheels, by their names in wheels.txt."""
    pinned = [one for one in requirements() if one.split("==")[0] in wheels]
    for one in pinned:
        unpack(one, into)
    return describe(into, name, pinned[0].split("==")[1])


def unpack(requirement: str, into: Path) -> None:
    """What Python reads of the wheel, into a folder."""
    (wheel,) = folder_of(requirement).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into, [name for name in archive.namelist() if name.endswith(READ)])


def describe(folder: Path, name: str, version: str) -> Offered:
    """Import the module in a process that has nothing else on its path, and list its names."""
    names: dict[str, Any] = json.loads(run([str(DESCRIBE), str(folder), name], f"{name} {version}"))
    return Offered(version, folder, names)


def run(arguments: list[str], what: str) -> str:
    """What Python prints, in a process that sees no library and no module of the caller's environment."""
    # LD_LIBRARY_PATH might put a real TensorRT of another version before the stubs.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "PYTHON"))}
    command = [sys.executable, "-I", *arguments]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{what} cannot be imported (exit {ran.returncode}): {ran.stderr[-2000:]}")
    return ran.stdout

"""What this machine is, read from the machine itself."""

import os
from pathlib import Path
from typing import Any

from build_images.engine_builder.errors import WrongDeviceError
from sluice.cpu import cpu_arch, parse_cpuinfo

CPUINFO = Path("/proc/cpuinfo")


def device_facts(cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """{arch, name, cores, flags that matter}: goes into the manifest."""
    text = cpuinfo.read_text(encoding="utf-8")
    flags = parse_cpuinfo(text)
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "arch": cpu_arch(flags),
        "name": names[0] if names else "unknown CPU",
        "cores": len(os.sched_getaffinity(0)),
        "isa": sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma"))),
    }


def require_arch(arch: str, facts: dict[str, Any]) -> None:
    """Raises WrongDeviceError unless the machine is exactly of the target's architecture.

    A better machine is refused too: an engine that it optimises for itself does not run on the wanted one.
    """
    if facts["arch"] != arch:
        raise WrongDeviceError(arch, facts["arch"], facts["name"])

"""What this machine is: the architecture an engine must have been built for, and the CPUs that are ours.

Invariant: the answer comes from the kernel (/proc/cpuinfo, affinity, cgroup), never from a flag, so that an
engine with instructions this machine lacks is refused before it is loaded, not killed by SIGILL after.
"""

import os
from pathlib import Path
from typing import Final

from sluice.cpu import cpu_arch, parse_cpuinfo

CPUINFO: Final = Path("/proc/cpuinfo")
CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota_us|max> <period_us>"


def machine_arch(cpuinfo: Path = CPUINFO) -> str:
    """`cpu-<isa>` of this machine, such as `cpu-avx512vnni`; `cpu-generic` when the flags cannot be read."""
    try:
        return cpu_arch(parse_cpuinfo(cpuinfo.read_text()))
    except OSError:
        return cpu_arch(())


def usable_cpus(cpu_max: Path = CPU_MAX) -> int:
    """CPUs this process may keep busy, at least 1: its affinity, capped by its cgroup's quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            count = min(count, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or a file of another form: no quota is known
    return max(1, count)

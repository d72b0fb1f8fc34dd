"""What the driver tells of the device: its name, and memory as the driver counts it. Creates no CUDA context.

Raises `Error` where there is no driver, or it refuses. Needs nvidia-ml-py alone: the benchmarks read it as well.
"""

from __future__ import annotations

import os
from typing import Any

import pynvml

Error = pynvml.NVMLError


def device() -> Any:
    """The first device that CUDA may see. With CUDA_VISIBLE_DEVICES it need not be the driver's first."""
    pynvml.nvmlInit()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(visible)
    return pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)


def used_bytes() -> int:
    """In use on the device by everybody."""
    return int(pynvml.nvmlDeviceGetMemoryInfo(device()).used)


def free_bytes() -> int:
    """Free on the device."""
    return int(pynvml.nvmlDeviceGetMemoryInfo(device()).free)


def total_bytes() -> int:
    """Of the device."""
    return int(pynvml.nvmlDeviceGetMemoryInfo(device()).total)


def process_bytes(pid: int) -> int | None:
    """In use by one process; None where the driver does not tell (another namespace of processes)."""
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(device())
    used = [one.usedGpuMemory for one in running if one.pid == pid]
    return int(used[0]) if used and used[0] is not None else None


def device_name() -> str:
    """Of the card, such as `NVIDIA H100 80GB HBM3`."""
    return _text(pynvml.nvmlDeviceGetName(device()))


def driver_version() -> str:
    """Such as `580.159.04`."""
    pynvml.nvmlInit()
    return _text(pynvml.nvmlSystemGetDriverVersion())


def cuda_version() -> str:
    """The newest CUDA that the driver speaks, such as `13.0`."""
    pynvml.nvmlInit()
    version = int(pynvml.nvmlSystemGetCudaDriverVersion())
    return f"{version // 1000}.{version % 1000 // 10}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

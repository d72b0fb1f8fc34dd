"""Device memory as the driver counts it, and the names of card and driver: NVML by ctypes, without a CUDA context."""

import ctypes
import os
from typing import Any, Final

LIBRARY: Final = "libnvidia-ml.so.1"
TEXT_BYTES: Final = 96
PROCESSES: Final = 64


class NvmlError(RuntimeError):
    """NVML is not there, or refused: the call and its code."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """Device 0 of those that CUDA_VISIBLE_DEVICES lets this process see. Raises NvmlError."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NvmlError(f"{LIBRARY}: {error}") from error
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
        if first.isdigit() or not first:
            self._call(
                "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(first or 0)), ctypes.byref(self._device)
            )
        else:
            self._call("nvmlDeviceGetHandleByUUID", first.encode(), ctypes.byref(self._device))

    def used_bytes(self) -> int:
        """In use on the device by everybody."""
        return int(self._memory().used)

    def process_bytes(self, pid: int) -> int | None:
        """In use by one process; None where the driver does not tell (another namespace of processes)."""
        count, found = ctypes.c_uint(PROCESSES), (_Process * PROCESSES)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", self._device, ctypes.byref(count), found)
        mine = [one.used for one in found[: count.value] if one.pid == pid]
        unknown = ctypes.c_ulonglong(-1).value
        return int(mine[0]) if mine and mine[0] != unknown else None

    def facts(self) -> dict[str, Any]:
        """{gpu, gpu_memory_gib, driver, cuda}: the card, its memory, the driver and the CUDA that it speaks."""
        version = ctypes.c_int()
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
        return {
            "gpu": self._text("nvmlDeviceGetName", self._device),
            "gpu_memory_gib": round(self._memory().total / 2**30, 1),
            "driver": self._text("nvmlSystemGetDriverVersion"),
            "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def _memory(self) -> _Memory:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(memory))
        return memory

    def _text(self, name: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(TEXT_BYTES)
        self._call(name, *arguments, buffer, ctypes.c_uint(TEXT_BYTES))
        return buffer.value.decode()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise NvmlError(f"{name} gave {code}")

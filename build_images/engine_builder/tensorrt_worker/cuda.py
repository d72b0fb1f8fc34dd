"""The few calls of the CUDA runtime that running an engine needs, and what the device is.

`cuda-bindings` carries a runtime of its own, so that no CUDA toolkit has to be found. Its calls
answer (error, values…).
"""

from __future__ import annotations

import os
from typing import Any

import pynvml
from cuda.bindings import runtime as cudart

from build_images.engine_builder.tensorrt_worker.protocol import FAULT, NO_DEVICE, OUT_OF_MEMORY, WorkerError

_begun = False
_free_at_first: int | None = None


def call(answer: tuple) -> Any:
    """The values of a CUDA call: None, one, or a tuple. WorkerError for an error of it."""
    error, *values = answer
    if error != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(error)
        said = text.decode() if isinstance(text, bytes) else str(text)
        if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
            raise out_of_memory(said)
        raise WorkerError(FAULT, reason=f"CUDA: {said} ({error.name})")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def out_of_memory(reason: str) -> WorkerError:
    """With what the device had free before this process took any, by the driver."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(_handle())
    free = int(memory.free) if _free_at_first is None else _free_at_first
    return WorkerError(OUT_OF_MEMORY, reason=reason, free_bytes=free, total_bytes=int(memory.total))


def begin() -> None:
    """Take device 0, spinning while it waits: a wake-up by interrupt costs more than a small model."""
    global _begun, _free_at_first  # noqa: PLW0603
    if _begun:
        return
    _free_at_first = int(pynvml.nvmlDeviceGetMemoryInfo(_handle()).free)
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        raise WorkerError(NO_DEVICE, reason=f"CUDA finds no device ({error.name})")
    call(cudart.cudaSetDeviceFlags(cudart.cudaDeviceScheduleSpin))
    call(cudart.cudaSetDevice(0))
    _begun = True


def facts() -> dict[str, Any]:
    """{arch, name, sm_count, memory_bytes, driver, cuda, mig}: by the driver, not by a label."""
    attribute = cudart.cudaDeviceAttr
    value = lambda which: int(call(cudart.cudaDeviceGetAttribute(which, 0)))  # noqa: E731
    major = value(attribute.cudaDevAttrComputeCapabilityMajor)
    minor = value(attribute.cudaDevAttrComputeCapabilityMinor)
    name = pynvml.nvmlDeviceGetName(_handle())
    driver = pynvml.nvmlSystemGetDriverVersion()
    cuda = int(call(cudart.cudaDriverGetVersion()))
    return {
        "arch": f"sm_{major}{minor}",
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "sm_count": value(attribute.cudaDevAttrMultiProcessorCount),
        "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(_handle()).total),
        "driver": driver.decode() if isinstance(driver, bytes) else str(driver),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
    }


def used_bytes() -> int:
    """Memory in use on the device, by everybody, as the driver counts it. Creates no context."""
    return int(pynvml.nvmlDeviceGetMemoryInfo(_handle()).used)


def _handle() -> Any:
    """The first device that CUDA may see. With CUDA_VISIBLE_DEVICES it need not be the driver's first."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise WorkerError(NO_DEVICE, reason=f"no NVIDIA driver ({error})") from error
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(visible)
    return pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)

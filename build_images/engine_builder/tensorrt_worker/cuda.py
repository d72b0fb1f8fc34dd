"""The few calls of the CUDA runtime that running an engine needs, and what the device is.

`cuda-bindings` carries a runtime of its own, so that no CUDA toolkit has to be found. Its calls answer
(error, values…).
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import runtime as cudart

from build_images.engine_builder.tensorrt_worker import driver
from build_images.engine_builder.tensorrt_worker.protocol import FAULT, NO_DEVICE, OUT_OF_MEMORY, WorkerError

# Of each thread's call stack. CUDA sets it aside for every thread that the device can hold at once: its default, 1024,
# is 264 MiB of an H100. A kernel that is known to need more gets it whatever stands here.
STACK_BYTES = 256

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
    free = driver.free_bytes() if _free_at_first is None else _free_at_first
    return WorkerError(OUT_OF_MEMORY, reason=reason, free_bytes=free, total_bytes=driver.total_bytes())


def begin() -> None:
    """Take device 0, spinning while it waits: a wake-up by interrupt costs more than a small model."""
    global _begun, _free_at_first  # noqa: PLW0603
    if _begun:
        return
    try:
        _free_at_first = driver.free_bytes()
    except driver.Error as error:
        raise WorkerError(NO_DEVICE, reason=f"no NVIDIA driver ({error})") from error
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        raise WorkerError(NO_DEVICE, reason=f"CUDA finds no device ({error.name})")
    call(cudart.cudaSetDeviceFlags(cudart.cudaDeviceScheduleSpin))
    call(cudart.cudaSetDevice(0))
    call(cudart.cudaDeviceSetLimit(cudart.cudaLimit.cudaLimitStackSize, STACK_BYTES))
    _begun = True


def facts() -> dict[str, Any]:
    """{arch, name, sm_count, memory_bytes, driver, cuda}: by the driver, not by a label."""
    attribute = cudart.cudaDeviceAttr
    value = lambda which: int(call(cudart.cudaDeviceGetAttribute(which, 0)))  # noqa: E731
    major = value(attribute.cudaDevAttrComputeCapabilityMajor)
    minor = value(attribute.cudaDevAttrComputeCapabilityMinor)
    return {
        "arch": f"sm_{major}{minor}",
        "name": driver.device_name(),
        "sm_count": value(attribute.cudaDevAttrMultiProcessorCount),
        "memory_bytes": driver.total_bytes(),
        "driver": driver.driver_version(),
        "cuda": driver.cuda_version(),
    }

"""What the figures were measured on: names and sizes, never a host."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from build_images.engine_builder.tensorrt_worker import driver


def hardware() -> dict[str, Any]:
    """{gpu, gpu_memory_gib, driver, cuda, tensorrt, torch, onnxruntime, cpu, cores, memory_gib}; null: not there."""
    try:
        gpu: dict[str, Any] = {
            "gpu": driver.device_name(),
            "gpu_memory_gib": round(driver.total_bytes() / 2**30, 1),
            "driver": driver.driver_version(),
            "cuda": driver.cuda_version(),
        }
    except driver.Error:
        gpu = dict.fromkeys(("gpu", "gpu_memory_gib", "driver", "cuda"))
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return {
        **gpu,
        "tensorrt": _tensorrt(),
        "torch": _version("torch"),
        "onnxruntime": _version("onnxruntime"),
        "cpu": names[0] if names else "unknown CPU",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(total.split()[1]) / 2**20, 1),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tensorrt() -> str | None:
    """Asked of the Python that the builder uses for it."""
    python = os.environ.get("SLUICE_TENSORRT_PYTHON", sys.executable)
    try:
        done = subprocess.run(
            [python, "-c", "import tensorrt; print(tensorrt.__version__)"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() or None

"""What the installed TensorRT offers: the one place that knows how 8.6, 10 and 11 differ.

Problem: the versions differ by names that come and go, and a comparison of version strings is right until the next
release. Invariant: what not every version has is named here, asked for by `offers`, and used through `get`.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorrt as trt

OFFERS = {
    # Precision: flags up to 10; in newer ones it is in the network, which is strongly typed.
    "fp16_flag": "BuilderFlag.FP16",
    "int8_flag": "BuilderFlag.INT8",
    "layer_precision": "ILayer.precision",
    "prefer_precision": "BuilderFlag.PREFER_PRECISION_CONSTRAINTS",
    "strongly_typed": "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "explicit_batch": "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "progress": "IProgressMonitor",
    "progress_monitor": "IBuilderConfig.progress_monitor",
    "editable_cache": "BuilderFlag.EDITABLE_TIMING_CACHE",
    "error_on_cache_miss": "BuilderFlag.ERROR_ON_TIMING_CACHE_MISS",
    "ampere_plus": "HardwareCompatibilityLevel.AMPERE_PLUS",
    "same_compute_capability": "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
    "strip_plan": "BuilderFlag.STRIP_PLAN",
    "refit_identical": "BuilderFlag.REFIT_IDENTICAL",
    "parser_refitter": "OnnxParserRefitter",
}
_MISSING = object()


def version() -> str:
    """As the bindings say it."""
    return str(trt.__version__)


@functools.cache
def offers(name: str) -> bool:
    """Whether the installed version has what OFFERS calls `name`. KeyError for a name that is not there."""
    return _find(OFFERS[name]) is not _MISSING


def get(name: str) -> Any:
    """The member itself. Ask `offers` first; LookupError without it."""
    found = _find(OFFERS[name])
    if found is _MISSING:
        raise LookupError(f"TensorRT {version()} has no {OFFERS[name]}")
    return found


def typed_by_network() -> bool:
    """Whether precision is what the network's types say (10 and 11), not what flags allow (8.6)."""
    return offers("strongly_typed")


def describe() -> dict[str, bool]:
    """Every name of OFFERS with whether it is there."""
    return {name: offers(name) for name in OFFERS}


def _find(path: str) -> Any:
    found: Any = trt
    for part in path.split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            break
    return found

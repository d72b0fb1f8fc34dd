"""From the worker's errors to ours: which of them a retry can mend, and what to do about the others. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from build_images.engine_builder import errors
from build_images.engine_builder.tensorrt_worker import protocol
from sluice.errors import FatalError, SluiceError

OWN_SHARE: Final = 0.9  # of the device's memory free before the work began: then nobody else was on it


def error_of(answer: Mapping[str, Any], what: str) -> SluiceError:
    """The error that `{"kind": ..., ...}` stands for. what: for whom or which engine the work was."""
    kind, reason = answer.get("kind"), str(answer.get("reason", "no reason given"))
    if kind == protocol.UNSUPPORTED_NODE:
        return errors.UnsupportedNodeError("unknown", str(answer["index"]), reason)
    if kind == protocol.OUT_OF_MEMORY:
        free, total = int(answer["free_bytes"]), int(answer["total_bytes"])
        alone = free >= OWN_SHARE * total
        kind_of = errors.DeviceMemoryError if alone else errors.DeviceBusyError
        return kind_of(what, reason, free, total)
    simple = {
        protocol.NO_PLAN: errors.NoPlanError,
        protocol.CACHE_MISS: errors.ReplayMissError,
        protocol.CACHE_REFUSED: errors.TimingCacheError,
        protocol.NOT_LOADED: errors.NotLoadedError,
        protocol.NO_DEVICE: errors.NoDeviceError,
        protocol.NO_LIBRARY: errors.NoLibraryError,
    }
    if kind in simple:
        return simple[str(kind)](what, reason)
    if kind == protocol.NOT_OFFERED:
        return errors.NotOfferedError(str(answer["option"]), reason)
    if kind == protocol.NO_PROFILE:
        return FatalError(f"{what}: {reason}", "correct model.axes in the spec")
    return FatalError(f"{what}: TensorRT failed: {reason}", "read the trace above in the pod's log")

"""What can be wrong when an engine is built."""

from typing import ClassVar

from sluice.errors import EXIT_WRONG_DEVICE, FatalError, RetryableError, SluiceError


class WrongDeviceError(FatalError):
    """The pod stands on a machine that is not what its node's label says."""

    exit_code: ClassVar[int] = EXIT_WRONG_DEVICE

    def __init__(self, wanted: str, got: str, device: str) -> None:
        super().__init__(wanted, got, device)
        self.wanted, self.got, self.device = wanted, got, device

    @property
    def message(self) -> str:
        return f"target {self.wanted} landed on {self.got} ({self.device}): the label is a wish, the device a fact"

    @property
    def next_step(self) -> str:
        return "correct the node's label sluice.dev/arch, or the target's arch and selector in the spec"


class UnknownBackendError(FatalError):
    """The spec names a backend that this image does not carry."""

    def __init__(self, backend: str, known: str) -> None:
        super().__init__(backend, known)
        self.backend, self.known = backend, known

    @property
    def message(self) -> str:
        return f"backend {self.backend} is not in this image, which carries {self.known}"

    @property
    def next_step(self) -> str:
        return "choose another targets[].backend, or a targets[].image that carries this one"


class NoEngineError(FatalError):
    """Not even FP32 is accurate enough: nothing may be served."""

    def __init__(self, reasons: str) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    @property
    def message(self) -> str:
        return f"no engine passes its accuracy bar, not even fp32: {self.reasons}"

    @property
    def next_step(self) -> str:
        return "look for NaN or overflow in the model, or correct accuracy.fp32 or task in the spec"


class NoRoomError(RetryableError):
    """The engine could not be written, because the disk is full; `folder` is where."""

    def __init__(self, folder: str, why: str) -> None:
        super().__init__(folder, why)
        self.folder, self.why = folder, why

    @property
    def message(self) -> str:
        return f"no room for the engine in {self.folder} ({self.why})"

    @property
    def next_step(self) -> str:
        return (
            "make room there or give the build pod's /tmp a larger volume; the step is tried again by itself"
        )


class PeakMemoryError(RetryableError):
    """The process that measures memory was killed, or gave no answer in time."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how

    @property
    def message(self) -> str:
        return f"the process that measures memory {self.how}"

    @property
    def next_step(self) -> str:
        return "give the builder more memory or CPU (targets[].resources); the step is tried again by itself"


class LargestShapeError(FatalError):
    """The engine answers the shape that it is ranked by, and fails at the largest one of the spec."""

    def __init__(self, shape: str, reason: str) -> None:
        super().__init__(shape, reason)
        self.shape, self.reason = shape, reason

    @property
    def message(self) -> str:
        return f"the engine fails at its largest shape, {self.shape}: {self.reason}"

    @property
    def next_step(self) -> str:
        return "correct the model, or lower max of the axes in model.axes"


class UnsupportedNodeError(FatalError):
    """The parser does not take a node of the ONNX."""

    def __init__(self, operator: str, node: str, reason: str) -> None:
        super().__init__(operator, node, reason)
        self.operator, self.node, self.reason = operator, node, reason

    @property
    def message(self) -> str:
        return f"operator {self.operator} (node {self.node}) cannot be built: {self.reason}"

    @property
    def next_step(self) -> str:
        return "export it from other operators (model.symbolics), or take this target or precision out of the spec"


class NoPlanError(FatalError):
    """The library made no engine; its own words are the reason."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.target, self.reason = target, reason

    @property
    def message(self) -> str:
        return f"no engine for {self.target}: {self.reason}"

    @property
    def next_step(self) -> str:
        return "if it ran out of memory raise targets[].resources.memory or lower build.workspace_mib, else the model"


class ModelRefusedError(NoPlanError):
    """The library does not take this ONNX; its own words are the reason."""

    @property
    def next_step(self) -> str:
        return "check the model's operators and opset against this version of the library"


class BuildTimeError(FatalError):
    """A build over its time limit: fatal, since the same build takes as long the next time."""

    def __init__(self, target: str, limit_s: float, phase: str) -> None:
        super().__init__(target, limit_s, phase)
        self.target, self.limit_s, self.phase = target, limit_s, phase

    @property
    def message(self) -> str:
        return f"the build for {self.target} took longer than {self.limit_s:g} s; it was at: {self.phase}"

    @property
    def next_step(self) -> str:
        return "raise targets[].build.time_limit_s, or lower build.optimization_level"


class _ReasonError(FatalError):
    """What cannot be done, and the library's own words. `said` has both in it, `step` is what to do."""

    said: ClassVar[str]
    step: ClassVar[str]

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    @property
    def message(self) -> str:
        return self.said.format(what=self.what, reason=self.reason)

    @property
    def next_step(self) -> str:
        return self.step


class NoDeviceError(_ReasonError):
    """There is no GPU where one must be."""

    said = "{what}: this machine shows no GPU: {reason}"
    step = (
        "build where the target's GPU is: look at the node's driver and device plugin, and targets[].selector"
    )


class NoLibraryError(_ReasonError):
    """The Python that should import TensorRT does not."""

    said = "{what} cannot be imported by {reason}"
    step = "set SLUICE_TENSORRT_PYTHON to a Python that has tensorrt, numpy, cuda-bindings and nvidia-ml-py"


class NotLoadedError(_ReasonError):
    """The library refuses a plan; the reason is its own."""

    said = "{what} cannot be loaded: {reason}"
    step = "build it again on the GPU and with the TensorRT that will run it"


class NotOfferedError(_ReasonError):
    """An option of the spec, `what`, that the installed library does not have."""

    said = "targets[].build.{what} cannot be had: {reason}"
    step = "take the option out, or build from an image with a newer TensorRT (targets[].image)"


class TimingCacheError(_ReasonError):
    """A timing cache that does not belong to this device and version."""

    said = "{what}: the timing cache is refused: {reason}"
    step = "name a cache that was written on this device by this version, or set build.timing_cache: reuse"


class ReplayMissError(_ReasonError):
    """A replay that met a layer which its timing cache does not know."""

    said = "{what}: the replay needed timings that its cache does not hold: {reason}"
    step = "build once with build.timing_cache: reuse, then replay the cache that its manifest names"


class _MemoryError(SluiceError):
    """Too little memory on the GPU. free_bytes: what was free before this process took any."""

    said: ClassVar[str]

    def __init__(self, what: str, reason: str, free_bytes: int, total_bytes: int) -> None:
        super().__init__(what, reason, free_bytes, total_bytes)
        self.what, self.reason, self.free_bytes, self.total_bytes = what, reason, free_bytes, total_bytes

    @property
    def message(self) -> str:
        sizes = {"free": self.free_bytes / 2**30, "total": self.total_bytes / 2**30}
        return f"{self.what}: out of GPU memory, {self.said.format(**sizes)}: {self.reason}"


class DeviceMemoryError(_MemoryError, FatalError):
    """The GPU was free: the same build needs as much the next time."""

    said = "{free:.1f} of {total:.1f} GiB were free"

    @property
    def next_step(self) -> str:
        return "lower max of the axes in model.axes, or build.workspace_mib"


class DeviceBusyError(_MemoryError, RetryableError):
    """Somebody else uses the GPU too."""

    said = "others left {free:.1f} of {total:.1f} GiB"

    @property
    def next_step(self) -> str:
        return "free the GPU, or have the build pod ask for a whole one; the step is tried again by itself"


class WorkerDiedError(RetryableError):
    """The process that holds TensorRT is gone: a kill, or a crash of the library."""

    def __init__(self, what: str, how: str, phase: str) -> None:
        super().__init__(what, how, phase)
        self.what, self.how, self.phase = what, how, phase

    @property
    def message(self) -> str:
        return f"{self.what}: the TensorRT process {self.how}; it was at: {self.phase}"

    @property
    def next_step(self) -> str:
        return "after SIGKILL raise targets[].resources.memory, else see its output; the step is tried again by itself"


class NoCalibrationError(FatalError):
    """INT8 is asked for and nothing calibrated it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    @property
    def message(self) -> str:
        return f"precisions asks for int8, but {self.why}"

    @property
    def next_step(self) -> str:
        return "give --calibration the folder that `python -m calibration` published, or take int8 out of precisions"


class NoStoreError(FatalError):
    """An option that needs somewhere to keep things between builds."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option

    @property
    def message(self) -> str:
        return f"targets[].build.{self.option} needs a place that outlives the build"

    @property
    def next_step(self) -> str:
        return "give --caches a folder"

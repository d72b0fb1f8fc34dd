"""What can be wrong when an engine is built."""

from sluice.errors import FatalError, RetryableError


class WrongDeviceError(FatalError):
    """The pod stands on a machine that is not what its node's label says."""

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
        return "look for NaN or overflow in the model, or correct accuracy.fp32 in the spec"


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

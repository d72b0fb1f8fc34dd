"""What the first bytes of a TensorRT plan say: its family, its version, where it runs. No GPU, no library.

Problem: a runtime deserializes a plan before it says that it is for another GPU or another version, and then says
so in its log alone. Invariants: what is read here is what the bytes say or an error, never a guess; a field that
this module does not know refuses the file, since a later TensorRT may mean something else by it.

Layout, little-endian: 0 magic, 4 u32 serialization version (0), 24 major, minor, patch, build (a byte each); a plan
of TensorRT-RTX has besides a u64 at 32 with one bit for each compute capability that it holds code for. NVIDIA's
samples read the first three; the mask is undocumented and was read off real plans of 1.7.1.116 for each capability.
"""

import struct
from dataclasses import dataclass
from typing import Final

from sluice.errors import FatalError

HEAD_BYTES: Final = 64  # what `read_header` asks for at most
TENSORRT: Final = "tensorrt"
TENSORRT_RTX: Final = "tensorrt_rtx"
FAMILIES: Final = {b"ftrt": TENSORRT, b"vtrt": TENSORRT_RTX}

# TensorRT-RTX's own bits. There is none for sm_90: it does not build for Hopper.
ARCH_BITS: Final = {1: "sm_75", 2: "sm_80", 4: "sm_86", 8: "sm_89", 16: "sm_120", 32: "sm_121"}
RTX_ARCHS: Final = tuple(ARCH_BITS.values())

_LEAST_BYTES: Final = {TENSORRT: 28, TENSORRT_RTX: 40}
_VERSION_AT: Final = 24
_MASK_AT: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeader:
    """version: major, minor, patch, build. archs: as in the spec; None where the header does not tell."""

    family: str
    version: tuple[int, int, int, int]
    archs: frozenset[str] | None


class PlanHeaderError(FatalError):
    """Bytes that are no plan's header: which field, what stands there, what was wanted."""

    def __init__(self, field_name: str, got: str, wanted: str) -> None:
        super().__init__(field_name, got, wanted)
        self.field_name, self.got, self.wanted = field_name, got, wanted

    @property
    def message(self) -> str:
        return f"plan header: {self.field_name} is {self.got}, wanted {self.wanted}"

    @property
    def next_step(self) -> str:
        return "remove the engine's folder from the store and build it again"


class PlanMismatchError(FatalError):
    """A plan that is not what its manifest says."""

    def __init__(self, field_name: str, manifest: str, file: str) -> None:
        super().__init__(field_name, manifest, file)
        self.field_name, self.manifest, self.file = field_name, manifest, file

    @property
    def message(self) -> str:
        return f"engine file: {self.field_name} is {self.file}, its manifest says {self.manifest}"

    @property
    def next_step(self) -> str:
        return f"remove the engine's folder from the store and build {self.field_name} {self.manifest} again"


def read_header(head: bytes) -> PlanHeader:
    """Read the first HEAD_BYTES of a plan. Raises PlanHeaderError."""
    family = FAMILIES.get(bytes(head[:4]))
    if family is None:
        raise PlanHeaderError("magic", repr(bytes(head[:4])), "b'ftrt' (TensorRT) or b'vtrt' (TensorRT-RTX)")
    least = _LEAST_BYTES[family]
    if len(head) < least:
        raise PlanHeaderError("length", f"{len(head)} bytes", f"{least} bytes at least")
    serialization = _u32(head, 4)
    if serialization != 0:
        raise PlanHeaderError("serialization version", str(serialization), "0")
    version = tuple(head[_VERSION_AT : _VERSION_AT + 4])
    if version[0] == 0:  # no release ever was 0.x: these are bytes that nobody wrote
        raise PlanHeaderError("version", version_text(version), "major 1 or more")
    archs = _archs(head) if family == TENSORRT_RTX else None
    return PlanHeader(family=family, version=(version[0], version[1], version[2], version[3]), archs=archs)


def check_plan(head: bytes, *, backend: str, arch: str, backend_version: str) -> None:
    """Compare the first HEAD_BYTES of an engine with its manifest's words, the version in all four parts.

    Raises PlanMismatchError, and PlanHeaderError where a plan must be and none is. A file of another backend is
    refused only when it is a plan: what else it is, that backend's own loader says.
    """
    if backend not in (TENSORRT, TENSORRT_RTX):
        family = FAMILIES.get(bytes(head[:4]))
        if family is not None:
            raise PlanMismatchError("backend", backend, family)
        return
    header = read_header(head)
    if header.family != backend:
        raise PlanMismatchError("backend", backend, header.family)
    if header.archs is not None and header.archs != {arch}:
        raise PlanMismatchError("arch", arch, ", ".join(sorted(header.archs)))
    if version_text(header.version) != backend_version:
        raise PlanMismatchError("backend_version", backend_version, version_text(header.version))


def version_text(version: tuple[int, ...]) -> str:
    """`1.7.1.116`, as manifests have it."""
    return ".".join(str(part) for part in version)


def _archs(head: bytes) -> frozenset[str]:
    mask = int.from_bytes(head[_MASK_AT : _MASK_AT + 8], "little")
    unknown = mask & ~sum(ARCH_BITS)
    if unknown or not mask:
        known = ", ".join(f"{bit}={arch}" for bit, arch in ARCH_BITS.items())
        raise PlanHeaderError("compute capabilities", hex(mask), f"a sum of {known}")
    return frozenset(arch for bit, arch in ARCH_BITS.items() if mask & bit)


def _u32(head: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", head, at)[0])

"""What can be wrong with the store, and who mends it."""

from sluice.errors import FatalError, RetryableError


class ArtifactMissingError(FatalError):
    """The store has no such artifact."""

    def __init__(self, kind: str, key: str, root: str) -> None:
        super().__init__(kind, key, root)
        self.kind, self.key, self.root = kind, key, root

    @property
    def message(self) -> str:
        return f"no {self.kind} {self.key[:12]} in the artifact store {self.root}"

    @property
    def next_step(self) -> str:
        return "run the step that makes it, and check that SLUICE_STORE names the store that it wrote to"


class ArtifactCorruptError(FatalError):
    """The store has the artifact, but not with the contents that its receipt names."""

    def __init__(self, kind: str, key: str, file: str, why: str) -> None:
        super().__init__(kind, key, file, why)
        self.kind, self.key, self.file, self.why = kind, key, file, why

    @property
    def message(self) -> str:
        return f"{self.kind} {self.key[:12]} is damaged: {self.file} {self.why}"

    @property
    def next_step(self) -> str:
        return f"remove the folder {self.kind}/{self.key} from the store and run its step again"


class ArtifactNameError(FatalError):
    """A kind or key that the store does not have by its rules."""

    def __init__(self, field_name: str, got: str, wanted: str) -> None:
        super().__init__(field_name, got, wanted)
        self.field_name, self.got, self.wanted = field_name, got, wanted

    @property
    def message(self) -> str:
        return f"artifact {self.field_name} {self.got!r}: {self.wanted}"


class StoreFullError(RetryableError):
    """No room. needed_bytes: at least so many more than were free when it was tried."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(path, needed_bytes, free_bytes)
        self.path, self.needed_bytes, self.free_bytes = path, needed_bytes, free_bytes

    @property
    def message(self) -> str:
        return f"no room at {self.path}: {self.needed_bytes} bytes needed, {self.free_bytes} free"

    @property
    def next_step(self) -> str:
        return "free some space or enlarge the volume; the step is tried again by itself"


class SourceChangedError(RetryableError):
    """A folder changed while it was copied, so its digest is not the one that was asked for."""

    def __init__(self, path: str, wanted_sha256: str, got_sha256: str) -> None:
        super().__init__(path, wanted_sha256, got_sha256)
        self.path, self.wanted_sha256, self.got_sha256 = path, wanted_sha256, got_sha256

    @property
    def message(self) -> str:
        return f"{self.path} changed: digest {self.got_sha256[:12]}, wanted {self.wanted_sha256[:12]}"

    @property
    def next_step(self) -> str:
        return "let whoever writes there finish, then try again"

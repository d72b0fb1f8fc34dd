"""The content-addressed store: a folder that workers and pods share, and the only thing they share.

Problem: a pod can succeed without its answer ever arriving, be killed in the middle of a write, or run twice at
once. Invariants: what is visible is whole (one rename publishes it, after every byte reached the disk); the
first publisher of a key wins and later ones get its artifact; what is read is what was written (`get` compares
every digest). So an artifact in the store is the receipt of its step.

Layout: `<root>/<kind>/<key>/` with the files and `receipt.json`; drafts are in `<root>/.drafts/`.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from artifacts.drafts import draft_folder
from artifacts.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ArtifactNameError,
    SourceChangedError,
    StoreFullError,
)
from artifacts.tree import FileDigest, TreeError, files_of, tree_files, tree_sha256
from sluice.digest import is_sha256

__all__ = [
    "KINDS",
    "Artifact",
    "ArtifactCorruptError",
    "ArtifactMissingError",
    "ArtifactNameError",
    "Draft",
    "Receipt",
    "SourceChangedError",
    "Store",
    "StoreFullError",
    "TreeError",
    "tree_sha256",
]

KINDS: Final = (
    *("release", "checkpoint", "onnx", "numerics", "calibration", "engine"),
    *("timing_cache", "weights"),  # what builds reuse: of no release alone
    *("dataset", "drift"),  # recorded traffic that calibrates, and how far it has moved
)
RECEIPT: Final = "receipt.json"
SCHEMA: Final = 1
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_THERE_ALREADY: Final = (errno.EEXIST, errno.ENOTEMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one artifact holds. facts: plain JSON that the step wants to tell."""

    kind: str
    key: str
    files: Mapping[str, FileDigest]
    facts: Mapping[str, Any]
    schema: int = SCHEMA

    def to_json(self) -> str:
        """`receipt.json`. Raises ValueError on NaN and infinity in the facts, TypeError on what JSON lacks."""
        files = {name: asdict(file) for name, file in self.files.items()}
        document = {
            **{name: getattr(self, name) for name in ("schema", "kind", "key", "facts")},
            "files": files,
        }
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published folder. Readers never write there."""

    path: Path
    receipt: Receipt

    @property
    def facts(self) -> Mapping[str, Any]:
        """The receipt's facts."""
        return self.receipt.facts


@dataclass(slots=True)
class Draft:
    """A folder to fill. Nothing of it is visible before `publish`."""

    path: Path
    kind: str
    key: str
    _store: "Store" = field(repr=False)

    def publish(self, facts: Mapping[str, Any]) -> Artifact:
        """Make the folder visible under its key; when another was first, its artifact is returned."""
        return self._store._publish(self, facts)


class Store:
    """The store in the folder `root`; it is made when the first artifact is."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, kind: str, key: str) -> Path:
        """Where the artifact is or would be. Raises ArtifactNameError."""
        if kind not in KINDS:
            raise ArtifactNameError("kind", str(kind), f"one of {', '.join(KINDS)}")
        if not is_sha256(key):
            raise ArtifactNameError("key", str(key), "64 lowercase hex digits")
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether it is published. Reads no contents: `get` does."""
        return (self.path(kind, key) / RECEIPT).is_file()

    def get(self, kind: str, key: str) -> Artifact:
        """The artifact, every digest compared. Raises ArtifactMissingError or ArtifactCorruptError."""
        folder = self.path(kind, key)
        if not folder.is_dir():
            raise ArtifactMissingError(kind, key, str(self.root))
        receipt = _read_receipt(folder, kind, key)
        _compare(folder, receipt)
        return Artifact(folder, receipt)

    @contextlib.contextmanager
    def staged(self, kind: str, key: str) -> Iterator[Draft]:
        """A draft for the key; it disappears unless it is published. A full disk raises StoreFullError."""
        self.path(kind, key)
        area = self.root / ".drafts"
        written = 0
        try:
            with draft_folder(area) as folder:
                try:
                    yield Draft(folder, kind, key, self)
                except OSError:
                    written = _size_bytes(folder)
                    raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise StoreFullError(error.filename or str(self.root), written, _free_bytes(self.root)) from error

    def keys(self, kind: str) -> list[str]:
        """Of everything of this kind that is published, sorted."""
        folder = self.path(kind, "0" * 64).parent
        return sorted(path.parent.name for path in folder.glob(f"*/{RECEIPT}") if is_sha256(path.parent.name))

    def remove(self, kind: str, key: str) -> None:
        """Out of sight by one rename, then gone. For what may not be kept; nothing happens where it is not there."""
        target = self.path(kind, key)
        with draft_folder(self.root / ".drafts") as folder, contextlib.suppress(FileNotFoundError):
            target.rename(folder / key)

    def publish_tree(self, kind: str, key: str, folder: Path, facts: Mapping[str, Any]) -> Artifact:
        """Copy `folder` in under the key. A checkpoint's key must be its digest (`tree_sha256`)."""
        if self.has(kind, key):
            return self.get(kind, key)
        files = files_of(folder)
        needed = sum(path.stat().st_size for path in files.values())
        with self.staged(kind, key) as draft:
            if needed > (free := _free_bytes(self.root)):
                raise StoreFullError(str(self.root), needed, free)
            for name, path in files.items():
                target = draft.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            if kind == "checkpoint" and (got := tree_sha256(draft.path)) != key:
                raise SourceChangedError(str(folder), key, got)
            return draft.publish(facts)

    def _publish(self, draft: Draft, facts: Mapping[str, Any]) -> Artifact:
        if (draft.path / RECEIPT).exists():
            raise ArtifactNameError("file", RECEIPT, "this name is the store's own")
        files = tree_files(draft.path)
        receipt = Receipt(kind=draft.kind, key=draft.key, files=files, facts=dict(facts))
        (draft.path / RECEIPT).write_text(receipt.to_json(), encoding="utf-8")
        _to_disk(draft.path)
        target = self.path(draft.kind, draft.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.path.rename(target)
        except OSError as error:
            if error.errno in _THERE_ALREADY:
                return self.get(draft.kind, draft.key)
            raise
        _sync(target.parent)
        return Artifact(target, receipt)


def _read_receipt(folder: Path, kind: str, key: str) -> Receipt:
    try:
        raw = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        files = {name: FileDigest(**file) for name, file in raw["files"].items()}
        receipt = Receipt(
            kind=raw["kind"], key=raw["key"], files=files, facts=raw["facts"], schema=raw["schema"]
        )
    except FileNotFoundError:
        raise ArtifactCorruptError(kind, key, RECEIPT, "is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorruptError(kind, key, RECEIPT, f"cannot be read ({error})") from error
    if (receipt.schema, receipt.kind, receipt.key) != (SCHEMA, kind, key):
        raise ArtifactCorruptError(kind, key, RECEIPT, f"is of {receipt.kind} {receipt.key[:12]}")
    if not files:
        raise ArtifactCorruptError(kind, key, RECEIPT, "names no files")
    return receipt


def _compare(folder: Path, receipt: Receipt) -> None:
    kind, key = receipt.kind, receipt.key
    there = {name: file for name, file in tree_files(folder).items() if name != RECEIPT}
    for name in sorted({*receipt.files, *there}):
        if name not in there:
            raise ArtifactCorruptError(kind, key, name, "is missing")
        if name not in receipt.files:
            raise ArtifactCorruptError(kind, key, name, "was added after it was published")
        if there[name] != receipt.files[name]:
            wanted, got = receipt.files[name], there[name]
            has = f"has SHA-256 {got.sha256[:12]} and {got.bytes} bytes"
            why = f"{has}, its receipt says {wanted.sha256[:12]} and {wanted.bytes}"
            raise ArtifactCorruptError(kind, key, name, why)


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def _to_disk(folder: Path) -> None:
    """Every file, then every folder from the leaves up: after the rename a power cut loses nothing."""
    for here, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(here, name))
        _sync(Path(here))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

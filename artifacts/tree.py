"""The files of a folder by digest.

Problem: a folder that was read one file short looks like a smaller folder, not like an error. Invariants: every
entry is either hashed or refused (a link to a folder, a broken link, a device); the order of the file system does
not matter; `__pycache__` does not count, because running the code in a checkpoint writes it there.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sluice.digest import sha256_json
from sluice.errors import FatalError

SKIPPED: Final = "__pycache__"
BLOCK_BYTES: Final = 1 << 20


class TreeError(FatalError):
    """A folder that cannot be taken as it is."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    @property
    def message(self) -> str:
        return f"{self.path}: {self.why}"

    @property
    def next_step(self) -> str:
        return "give a folder of regular files"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """sha256: 64 lowercase hex digits. bytes: size, from 0 on."""

    sha256: str
    bytes: int


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its relative path with slashes, sorted. Raises TreeError."""
    if not folder.is_dir():
        raise TreeError(str(folder), "no such folder")
    return dict(sorted(_walk(folder, "")))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for entry in os.scandir(folder):
        name, path = prefix + entry.name, Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if entry.name != SKIPPED:
                yield from _walk(path, f"{name}/")
        elif entry.is_file():  # a link to a file counts as that file: model hubs lay their caches out so
            yield name, path
        else:
            raise TreeError(str(path), "neither a file nor a folder, or a link to nothing or to a folder")


def file_digest(path: Path) -> FileDigest:
    """SHA-256 and size of one file, read in blocks of 1 MiB."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileDigest(sha256=digest.hexdigest(), bytes=size)


def tree_files(folder: Path) -> dict[str, FileDigest]:
    """Digest and size of every file by relative path. Raises TreeError; an empty folder is one."""
    files = {name: file_digest(path) for name, path in files_of(folder).items()}
    if not files:
        raise TreeError(str(folder), "the folder has no files")
    return files


def tree_sha256(folder: Path) -> str:
    """One digest of names and contents, 64 lowercase hex digits; modes and times do not count."""
    return sha256_of(tree_files(folder))


def sha256_of(files: Mapping[str, FileDigest]) -> str:
    """The tree's digest when its files are known already."""
    return sha256_json({name: asdict(file) for name, file in files.items()})

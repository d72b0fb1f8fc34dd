"""Folders in the making, out of sight of readers.

Problem: a writer that is killed leaves gigabytes behind, and nobody can tell them from the work of a writer that
is still at it. Invariants: a draft lies on the store's own file system, so that one rename publishes it; its
writer holds a lock for as long as it lives; a draft whose lock is free belongs to nobody and is removed by
the next writer.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft_folder(area: Path) -> Iterator[Path]:
    """A new empty folder in `area`, removed at the end unless it was renamed away."""
    area.mkdir(parents=True, exist_ok=True)
    sweep(area)
    lock, descriptor = _new_lock(area)
    folder = lock.with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(area: Path) -> int:
    """Remove the drafts of writers that are gone; how many there were."""
    swept = 0
    for lock in area.glob("*.lock"):
        with contextlib.suppress(OSError):  # held, or swept by another: nothing to do here
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
                swept += 1
            finally:
                os.close(descriptor)
    return swept


def _new_lock(area: Path) -> tuple[Path, int]:
    while True:
        path = area / f"{secrets.token_hex(8)}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return path, descriptor
        os.close(descriptor)  # swept between creating and locking it: take another name

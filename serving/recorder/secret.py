"""The salt of an installation, and the lock of its folder.

Problem: a hash in a file must not be looked up by whoever guesses an input; two recorders in one folder would replace
each other's files. Invariants: the salt is made once, from the system's randomness, readable by its owner alone; a
folder has one recorder.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from sluice.errors import FatalError, RetryableError


class SaltError(FatalError):
    """A salt file that keeps no secret."""

    def __init__(self, path: str, problem: str, fix: str) -> None:
        super().__init__(path, problem, fix)
        self.path, self.problem, self.fix = path, problem, fix

    @property
    def message(self) -> str:
        return f"--salt-file {self.path}: {self.problem}"

    @property
    def next_step(self) -> str:
        return self.fix


def salt_of(path: Path) -> str:
    """Read the salt; make it when there is none. Raises SaltError, OSError."""
    if not path.exists():
        _make(path)
    if mode := stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SaltError(str(path), f"others may use it (mode has {mode:03o} for them)", f"chmod 600 {path}")
    salt = path.read_text().strip()
    if len(salt) < 32:
        raise SaltError(
            str(path), f"has {len(salt)} characters, wanted 32 or more", "delete it; a new one is made"
        )
    return salt


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises RetryableError when another recorder has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetryableError(
                f"--out {folder}: another recorder writes there",
                "end it, or give each recorder a folder of its own",
            ) from error
        yield


def _make(path: Path) -> None:
    """Whole or not at all; of two that make one at once, both use the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()

"""One small file that names the newest of something: written whole or not at all, readable for whom the store is."""

import os
import secrets
from pathlib import Path


def read_pointer(file: Path) -> str | None:
    """Its text without blanks around; None when it was never written."""
    try:
        return file.read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None


def write_pointer(file: Path, text: str) -> None:
    """Replace what it says by one rename, after every byte reached the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        with written.open("x", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)

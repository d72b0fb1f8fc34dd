"""Open an engine folder: manifest and engine file belong together, and both to this machine.

Invariant: nothing of the engine file is interpreted before its header, its digest, its architecture and the version of
the library that built it are those that the manifest names; a refusal is one line that says what to build again, and
exit code 3. The machine comes first, then the library, then the file's first bytes, then its digest: an engine of
gigabytes for elsewhere is refused at once.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.runtime.backend import BACKENDS
from serving.runtime.device import machine_arch
from sluice.errors import FatalError
from sluice.manifest import EngineManifest, ManifestMismatchError
from sluice.plan import HEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A checked engine: its manifest (`sluice.manifest.EngineManifest`) and its file."""

    manifest: Any
    path: Path


def open_engine(folder: Path, *, arch: str | None = None) -> Engine:
    """Check an `engine` artifact folder. arch: what this machine is; read from the machine when left out.

    Raises FatalError (also ManifestMismatchError, PlanMismatchError, PlanHeaderError) with the next step.
    """
    text = _read(folder / "manifest.json")
    manifest = EngineManifest.from_json(text)
    manifest.check_machine(arch=arch or machine_arch())
    path = folder / manifest.engine_file
    manifest.check_head(_head(path))
    if manifest.backend not in BACKENDS:
        raise FatalError(
            f"manifest backend is {manifest.backend!r}, this server has {', '.join(BACKENDS)}",
            f"build the engine again for backend {next(iter(BACKENDS))}, or serve it with another image",
        )
    installed = BACKENDS[manifest.backend].version()
    if manifest.backend_version != installed:
        raise ManifestMismatchError("backend_version", installed, manifest.backend_version)
    manifest.check(arch=manifest.arch, backend=manifest.backend, engine_sha256=_digest(path))
    _check_weights(path)
    return Engine(manifest=manifest, path=path)


def _check_weights(engine: Path) -> None:
    """Files of weights beside the engine (`engine.onnx.data`) are what the receipt of the artifact says."""
    for path in sorted(engine.parent.glob(f"{engine.name}.*")):
        receipt = json.loads(_read(engine.parent / "receipt.json"))
        wanted = receipt["files"].get(path.name, {}).get("sha256")
        got = _digest(path)
        if got != wanted:
            raise FatalError(
                f"{path.name} has digest {got[:12]}, receipt.json wants {(wanted or 'no such file')[:12]}",
                "remove the engine's folder from the store and build it again",
            )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FatalError:
    return FatalError(
        f"{path} cannot be read ({error})",
        "name a folder with manifest.json and its engine as --engine, or build the engine again",
    )

"""Images: a pattern of names, and the environment of this machine that stands for it.

    {"sluice/*": {"path": ["/repo/.venv/bin"], "cwd": "/repo", "env": {"PYTHONPATH": "/repo"},
                  "entrypoint": [], "cmd": []}}

The first pattern that matches wins (shell wildcards, the tag is part of the name). An image that matches none
cannot be pulled: ErrImagePull, then ImagePullBackOff.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sluice.errors import FatalError

_FIELDS = {"path": list, "cwd": str, "env": dict, "entrypoint": list, "cmd": list}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a container of this image runs in. `path`: folders of programs, before the system's own."""

    pattern: str
    path: tuple[str, ...] = ()
    cwd: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """All images of the --images file, in its order."""

    images: tuple[Image, ...]

    def find(self, name: str) -> Image | None:
        return next((image for image in self.images if fnmatchcase(name, image.pattern)), None)

    @classmethod
    def load(cls, path: Path) -> Images:
        """Raises FatalError naming the pattern and the field."""
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FatalError(f"images file {path}: {error}", "give --images a readable JSON file") from error
        if not isinstance(document, dict):
            raise FatalError(f"images file {path} holds no object", "write {image pattern: {path, cwd, env}}")
        return cls(tuple(_image(pattern, entry) for pattern, entry in document.items()))


def _image(pattern: str, entry: Any) -> Image:
    step = 'write {"path": [dirs], "cwd": dir, "env": {}, "entrypoint": [], "cmd": []}'
    if not isinstance(entry, dict):
        raise FatalError(f"image {pattern!r} = {entry!r} is not an object", step)
    for name, value in entry.items():
        if name not in _FIELDS:
            raise FatalError(f"image {pattern!r}: unknown field {name!r}", step)
        if not isinstance(value, _FIELDS[name]):
            raise FatalError(f"image {pattern!r}: {name} = {value!r} is not a {_FIELDS[name].__name__}", step)
    return Image(
        pattern=pattern,
        path=tuple(entry.get("path", ())),
        cwd=Path(entry.get("cwd", "/")),
        env={key: str(value) for key, value in entry.get("env", {}).items()},
        entrypoint=tuple(entry.get("entrypoint", ())),
        cmd=tuple(entry.get("cmd", ())),
    )

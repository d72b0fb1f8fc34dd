"""A whole spec for tests: what every other test changes in one place."""

import copy
from typing import Any

import yaml

from sluice.spec import ReleaseSpec, parse_spec

SHA = "ab" * 32
PINNED = f"builder:1@sha256:{SHA}"  # what backend tensorrt wants of an image
WHOLE: dict[str, Any] = {
    "service": "tiny",
    "model": {
        "source": "/checkpoints/tiny",
        "inputs": [{"name": "x", "dtype": "float32", "dims": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "dims": ["batch", 2]}],
        "axes": {"batch": {"min": 1, "opt": 2, "max": 8, "buckets": [1, 8]}},
    },
    "targets": [
        {
            "arch": "cpu-avx2",
            "backend": "onnxruntime",
            "selector": {"sluice.dev/arch": "cpu-avx2"},
            "image": "builder:1",
        }
    ],
    "images": {"exporter": "sluice/exporter:dev", "calibration": "sluice/exporter:dev"},
    "server": {"image": "sluice/runtime:dev"},
}


def whole(changes: dict[str, Any] | None = None, *, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """`WHOLE` with values set and removed by dotted path; list items by index."""
    raw = copy.deepcopy(WHOLE)
    for path, value in (changes or {}).items():
        here, last = _reach(raw, path)
        here[last] = value
    for path in drop:
        here, last = _reach(raw, path)
        del here[last]
    return raw


def _reach(raw: Any, path: str) -> tuple[Any, Any]:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        raw = raw.setdefault(part, {}) if isinstance(raw, dict) else raw[part]
    return raw, last


def parse(changes: dict[str, Any] | None = None, **drop: tuple[str, ...]) -> ReleaseSpec:
    """Through YAML, as in production."""
    return parse_spec(yaml.safe_dump(whole(changes, **drop), sort_keys=False), {})

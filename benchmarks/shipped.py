"""The demo's release spec as it is committed, with addresses that lead nowhere unless a benchmark names its own."""

from pathlib import Path
from typing import Any, Final

import yaml

from sluice.spec import ReleaseSpec, parse_spec

SPEC_FILE: Final = Path(__file__).parents[1] / "dags" / "models" / "minilm.yaml"
NOWHERE: Final = {
    "CHECKPOINTS": "/nowhere",
    "CPU_ARCH": "cpu",
    "IMAGE_TAG": "benchmark",
    "RECORDER": "http://127.0.0.1:1",
}


def shipped(changes: dict[str, Any] | None = None, **addresses: str) -> ReleaseSpec:
    """changes: top-level fields in the place of the file's. addresses: by name without `SLUICE_`."""
    raw = {**yaml.safe_load(SPEC_FILE.read_text(encoding="utf-8")), **(changes or {})}
    return parse_spec(yaml.safe_dump(raw), environment(**addresses))


def environment(**addresses: str) -> dict[str, str]:
    """What the spec's variables are filled from."""
    return {f"SLUICE_{name}": value for name, value in {**NOWHERE, **addresses}.items()}

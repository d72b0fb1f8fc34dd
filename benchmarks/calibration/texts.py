"""Which texts calibrate and which pairs are held out: seeded splits of the standard library's docstrings.

Invariant: no text that calibrates is a half of a held-out pair, nor the first paragraph of its docstring.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from local.demo.checkpoint import TOKENS_MIN, pairs_without, token_lists

# ONNX Runtime's entropy takes samples of one shape only and keeps every activation of all of them: about 0.4 MB a
# token of MiniLM, so 10 GB for 1 000 texts of 24 tokens. Five texts in six are no longer than that.
LONGEST: Final = 24
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """calibration: token ids of each text; pairs: (first sentence, the rest) of each docstring that is held out."""

    seed: int
    calibration: tuple[Ids, ...]
    pairs: tuple[tuple[Ids, Ids], ...]


def split(seed: int, *, texts: int, held_out: int) -> Split:
    """One split. ValueError where there are fewer texts or pairs than asked for."""
    order = np.random.default_rng(seed)
    short = [ids for ids in token_lists() if TOKENS_MIN <= len(ids) <= LONGEST]
    calibration = _drawn(order, short, texts, f"texts of at most {LONGEST} tokens")
    left = pairs_without(frozenset(calibration))
    return Split(
        seed, calibration, _drawn(order, left, held_out, "pairs that share no text with calibration")
    )


def write_samples(file: Path, texts: Sequence[Ids]) -> Path:
    """A samples file as a checkpoint holds it."""
    lines = (json.dumps({"input_ids": list(ids), "attention_mask": [1] * len(ids)}) for ids in texts)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _drawn(order: np.random.Generator, among: Sequence[Any], wanted: int, what: str) -> tuple[Any, ...]:
    if not 1 <= wanted <= len(among):
        raise ValueError(f"{wanted} {what} are asked for: choose 1 to {len(among)}")
    return tuple(among[int(place)] for place in order.permutation(len(among))[:wanted])

"""What the drift check is asked about: the demo's traffic, code, other languages; all of it installed already.

Traffic: first paragraphs of the standard library's docstrings, as the demo's checkpoint holds them. Code: its simple
statements, one a text, as `ast.unparse` spells them. Languages: the catalogs of Airflow's web interface, without
placeholders and without what was left in English; its English catalog stands beside them, since a sentence on a button
is no docstring in any language. Every order depends on the texts alone.
"""

import ast
import hashlib
import importlib.util
import json
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from local.demo.checkpoint import TOKENS_MAX, TOKENS_MIN
from sluice.model_inputs import Sample

WORDS_MIN: Final = 3
LANGUAGES: Final = {"french": "fr", "german": "de", "russian": "ru"}
ENGLISH: Final = "en"
PLACEHOLDER: Final = re.compile(r"\{\{.*?\}\}|\$t\(.*?\)")
STATEMENTS: Final = (ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Import, ast.ImportFrom)


def code_texts(pattern: str = "*.py") -> list[str]:
    """Simple statements of the standard library's top modules. pattern: of their files."""
    found = set()
    for path in Path(sysconfig.get_path("stdlib")).glob(pattern):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, STATEMENTS) or (
                isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            ):
                found.add(" ".join(ast.unparse(node).split()))
    return _ordered(found)


def catalog_texts(language: str) -> list[str]:
    """The web interface's catalog in one language."""
    english = set() if language == ENGLISH else set(_catalog(ENGLISH))
    return _ordered(set(_catalog(language)) - english)


def samples_of(texts: Sequence[str], tokenizer_file: Path, limit: int) -> list[Sample]:
    """The first `limit` distinct texts that are long enough, as MiniLM's inputs."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=TOKENS_MAX)
    encoded = dict.fromkeys(tuple(one.ids) for one in tokenizer.encode_batch(list(texts)))
    long_enough = [ids for ids in encoded if len(ids) >= TOKENS_MIN][:limit]
    return [
        {"input_ids": np.array(ids, np.int64), "attention_mask": np.ones(len(ids), np.int64)}
        for ids in long_enough
    ]


def _ordered(texts: set[str]) -> list[str]:
    kept = (text for text in texts if len(text.split()) >= WORDS_MIN)
    return sorted(kept, key=lambda text: hashlib.sha256(text.encode()).digest())


def _catalog(language: str) -> Iterator[str]:
    found = importlib.util.find_spec("airflow")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("package apache-airflow-core is not installed: make setup")
    folder = Path(found.submodule_search_locations[0]) / "ui" / "dist" / "i18n" / "locales" / language
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no catalog: reinstall apache-airflow-core")
    for path in files:
        yield from _strings(json.loads(path.read_text(encoding="utf-8")))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, str):
        yield " ".join(PLACEHOLDER.sub(" ", value).split())

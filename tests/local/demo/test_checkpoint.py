"""The demo's checkpoint: the same bytes each time, lengths that look like traffic."""

import json
import os
import subprocess
import sys

import pytest

from artifacts.store import tree_sha256
from local.demo.checkpoint import PAIRS_DEFAULT, TEXTS_DEFAULT, make_checkpoint, write_requests
from local.load.client import bodies_of
from local.stack.programs import REPO
from sluice.pairs import parse_pairs
from sluice.spec import parse_spec


def test_the_checkpoint_is_the_same_each_time(tmp_path):
    """In another process too: sets of texts have another order there."""
    one, other = make_checkpoint(tmp_path / "a", texts=300), tmp_path / "b"
    command = [sys.executable, "-m", "local.demo.checkpoint", str(other), "--texts", "300"]
    subprocess.run(command, cwd=REPO, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    assert tree_sha256(one) == tree_sha256(other)
    assert {path.name for path in one.iterdir()} == {
        *("model.py", "config.json", "model.safetensors", "tokenizer.json", "samples.jsonl", "pairs.jsonl")
    }


def test_samples_are_short_with_a_tail_up_to_128(tmp_path):
    folder = make_checkpoint(tmp_path, texts=TEXTS_DEFAULT)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    lengths = sorted(len(sample["input_ids"]) for sample in samples)
    assert len(samples) == TEXTS_DEFAULT
    assert all(sample["attention_mask"] == [1] * len(sample["input_ids"]) for sample in samples)
    assert lengths[0] >= 4
    assert lengths[-1] == 128
    assert lengths[len(lengths) // 2] < 24
    assert 0.01 < sum(length > 64 for length in lengths) / len(lengths) < 0.1


def lines(path):
    return [tuple(json.loads(line)["input_ids"]) for line in path.read_text().splitlines()]


def test_the_load_sends_texts_that_nothing_was_calibrated_on(tmp_path):
    """Real English of naturally mixed length, as `local.load` reads it, and not one of the checkpoint's samples."""
    calibrated = lines(make_checkpoint(tmp_path / "checkpoint") / "samples.jsonl")
    file = write_requests(tmp_path / "requests.jsonl")
    sent = lines(file)
    assert len(sent) == len(set(sent)) > 2_000
    assert not set(sent) & set(calibrated)
    assert 0.01 < sum(len(ids) > 64 for ids in sent) / len(sent) < 0.1
    bodies = bodies_of(file)
    assert min(length for _, length in bodies) >= 4
    assert max(length for _, length in bodies) == 128


def test_a_checkpoint_of_every_text_leaves_none_to_send(tmp_path):
    with pytest.raises(ValueError, match="none is left to send"):
        write_requests(tmp_path / "requests.jsonl", texts=10_000_000)


def halves(folder):
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    return [tuple(tuple(pair[side]["input_ids"]) for side in ("query", "answer")) for pair in pairs]


def test_the_pairs_are_of_texts_that_nothing_was_calibrated_on_each_text_once(tmp_path):
    """The first sentences of docstrings and the rest of them, short enough that every build can run them."""
    assert len(halves(make_checkpoint(tmp_path))) == PAIRS_DEFAULT
    folder = make_checkpoint(tmp_path, pairs=10_000)
    texts = [text for pair in halves(folder) for text in pair]
    assert len(texts) == len(set(texts)) > 2_000
    assert not set(texts) & set(lines(folder / "samples.jsonl"))
    assert min(map(len, texts)) >= 4
    assert max(map(len, texts)) <= 64


def test_no_pair_is_cut_from_a_sample(tmp_path):
    """A sample is a first paragraph: calibrating on it is calibrating on the first sentence in it."""
    folder = make_checkpoint(tmp_path, pairs=10_000)
    held = {ids[1:-1] for ids in lines(folder / "samples.jsonl")}  # without the first and the last token
    for query, answer in halves(folder):
        assert (*query[1:-1], *answer[1:-1]) not in held


def test_more_samples_take_pairs_away(tmp_path):
    """No pair shares a text with a sample because some are left out: so some must be."""
    few, many = (make_checkpoint(tmp_path / str(n), texts=n, pairs=10_000) for n in (1, TEXTS_DEFAULT))
    assert {text for pair in halves(few) for text in pair} & set(lines(many / "samples.jsonl"))
    assert len(halves(many)) < len(halves(few))


def test_the_engine_builder_reads_the_pairs_as_the_shipped_spec_s(tmp_path):
    env = {
        "SLUICE_RECORDER": "http://r:1",
        "SLUICE_CHECKPOINTS": "/c",
        "SLUICE_CPU_ARCH": "cpu-avx2",
        "SLUICE_IMAGE_TAG": "dev",
    }
    spec = parse_spec((REPO / "dags" / "models" / "minilm.yaml").read_text(), env)
    text = (make_checkpoint(tmp_path) / "pairs.jsonl").read_text()
    assert len(parse_pairs(text, spec.model.inputs, spec.model.axes).queries) == PAIRS_DEFAULT


@pytest.mark.parametrize("pairs", [-1, 0, 1])
def test_fewer_than_two_pairs_are_refused(tmp_path, pairs):
    with pytest.raises(ValueError, match=f"pairs is {pairs}"):
        make_checkpoint(tmp_path, pairs=pairs)


@pytest.mark.parametrize("texts", [0, 10_000_000])
def test_too_few_and_too_many_texts_are_refused(tmp_path, texts):
    with pytest.raises(ValueError, match=f"texts is {texts}"):
        make_checkpoint(tmp_path, texts=texts)

"""The demo's checkpoint: the same bytes each time, lengths that look like traffic."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.store import tree_sha256
from local.demo.checkpoint import (
    PAIR_TOKENS_MAX,
    PAIRS_DEFAULT,
    TEXTS_DEFAULT,
    TOKENS_MIN,
    make_checkpoint,
    write_requests,
)
from local.load.client import bodies_of
from sluice.model_inputs import parse_samples
from sluice.pairs import parse_pairs
from sluice.spec import parse_spec

SHIPPED = Path(__file__).parents[3] / "dags" / "models" / "minilm.yaml"


def test_the_checkpoint_is_the_same_each_time(tmp_path):
    """In another process too, where a set of texts has another order."""
    one, other = make_checkpoint(tmp_path / "a", texts=300), tmp_path / "b"
    command = (sys.executable, "-m", "local.demo.checkpoint", str(other), "--texts", "300")
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, stdout=subprocess.DEVNULL)
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


def halves(folder):
    """(query, answer) of each pair."""
    return [
        tuple(tuple(json.loads(line)[side]["input_ids"]) for side in ("query", "answer"))
        for line in (folder / "pairs.jsonl").read_text().splitlines()
    ]


def test_no_text_of_the_pairs_stands_twice_or_is_a_sample(tmp_path):
    folder = make_checkpoint(tmp_path, texts=TEXTS_DEFAULT)
    pairs, samples = halves(folder), lines(folder / "samples.jsonl")
    texts = [half for pair in pairs for half in pair]
    assert len(pairs) == PAIRS_DEFAULT
    assert len(set(texts)) == len(texts)
    assert not set(texts) & set(samples)
    assert all(TOKENS_MIN <= len(half) <= PAIR_TOKENS_MAX for half in texts)
    # [CLS] first sentence [SEP] and [CLS] the rest [SEP]: a sample that is one paragraph would be both in a row
    whole = {sample[1:-1] for sample in samples}
    assert not [pair for pair in pairs if pair[0][1:-1] + pair[1][1:-1] in whole]


def test_more_samples_take_pairs_away_and_never_share_one(tmp_path):
    """The invariant holds by what is left out, so it must leave something out."""
    few, many = (
        make_checkpoint(tmp_path / str(texts), texts=texts, pairs=10_000) for texts in (1, TEXTS_DEFAULT)
    )
    samples = set(lines(many / "samples.jsonl"))
    assert {half for pair in halves(few) for half in pair} & samples
    assert not {half for pair in halves(many) for half in pair} & samples
    assert 2 * PAIRS_DEFAULT < len(halves(many)) < len(halves(few))


def test_pairs_are_read_as_the_spec_reads_them(tmp_path):
    folder, spec = make_checkpoint(tmp_path, texts=300, pairs=50), minilm()
    model = spec.model
    samples = parse_samples((folder / "samples.jsonl").read_text(), model.inputs, model.axes)
    pairs = parse_pairs((folder / "pairs.jsonl").read_text(), model.inputs, model.axes, calibrated=samples)
    assert (len(pairs.queries), len(pairs.answers)) == (50, 50)
    assert pairs.own == tuple(range(50))


def minilm():
    env = dict.fromkeys(("SLUICE_CHECKPOINTS", "SLUICE_CPU_ARCH", "SLUICE_IMAGE_TAG"), "x")
    return parse_spec(SHIPPED.read_text(), env)


@pytest.mark.parametrize("pairs", [-1, 0, 1])
def test_fewer_than_two_pairs_are_refused(tmp_path, pairs):
    with pytest.raises(ValueError, match=f"pairs is {pairs}, .* fewer than two tell nothing apart"):
        make_checkpoint(tmp_path, texts=300, pairs=pairs)


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


@pytest.mark.parametrize("texts", [0, 10_000_000])
def test_too_few_and_too_many_texts_are_refused(tmp_path, texts):
    with pytest.raises(ValueError, match=f"texts is {texts}"):
        make_checkpoint(tmp_path, texts=texts)

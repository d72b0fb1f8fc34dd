"""The demo's checkpoint: the same bytes each time, lengths that look like traffic."""

import json

import pytest

from artifacts.store import tree_sha256
from local.demo.checkpoint import TEXTS_DEFAULT, make_checkpoint, write_requests
from local.load.client import bodies_of


def test_the_checkpoint_is_the_same_each_time(tmp_path):
    one, other = (make_checkpoint(tmp_path / name, texts=300) for name in ("a", "b"))
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


@pytest.mark.parametrize("texts", [0, 10_000_000])
def test_too_few_and_too_many_texts_are_refused(tmp_path, texts):
    with pytest.raises(ValueError, match=f"texts is {texts}"):
        make_checkpoint(tmp_path, texts=texts)

"""The demo's checkpoint: the same bytes each time, lengths that look like traffic."""

import json

import pytest

from artifacts.store import tree_sha256
from local.demo.checkpoint import TEXTS_DEFAULT, make_checkpoint, sample_requests


def test_the_checkpoint_is_the_same_each_time(tmp_path):
    one, other = (make_checkpoint(tmp_path / name, texts=300) for name in ("a", "b"))
    assert tree_sha256(one) == tree_sha256(other)
    assert {path.name for path in one.iterdir()} == {
        *("model.py", "config.json", "model.safetensors", "tokenizer.json", "samples.jsonl")
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


def test_requests_repeat_by_seed_and_are_not_the_calibrated_texts(tmp_path):
    requests = sample_requests(500, seed=3)
    assert requests == sample_requests(500, seed=3)
    assert requests != sample_requests(500, seed=4)
    folder = make_checkpoint(tmp_path)
    known = {
        tuple(json.loads(line)["input_ids"]) for line in (folder / "samples.jsonl").read_text().splitlines()
    }
    assert not known & {tuple(ids) for ids in requests}


@pytest.mark.parametrize("texts", [0, 10_000_000])
def test_too_few_and_too_many_texts_are_refused(tmp_path, texts):
    with pytest.raises(ValueError, match=f"texts is {texts}"):
        make_checkpoint(tmp_path, texts=texts)

"""A calibration leaves in TensorRT's text format with the scales of its signed form, to the bit."""

import runpy
import struct
import sys

import numpy as np
import pytest

from calibration.emit import signed_scale
from calibration.tensorrt_cache import TensorrtCacheError, from_tensorrt, to_tensorrt
from tests.calibration.test_cache import METHODS, made


@pytest.fixture
def main(monkeypatch):
    """The exit code of `python -m calibration` with these words."""

    def run(words):
        monkeypatch.setattr(sys, "argv", ["calibration", *words])
        with pytest.raises(SystemExit) as done:
            runpy.run_module("calibration", run_name="__main__", alter_sys=True)
        return done.value.code

    return run


@pytest.mark.parametrize("method", METHODS)
def test_the_scales_come_back_to_the_bit(tmp_path, method):
    cache, _ = made(tmp_path)
    scales = from_tensorrt(to_tensorrt(cache, method))
    assert set(scales) == {"x", "r"}
    for name, tensor in cache.tensors.items():
        found = tensor.ranges[method]
        assert np.float32(scales[name]) == signed_scale(found.low, found.high)[0]


def test_the_command_writes_what_a_calibrator_reads(main, tmp_path, capsys):
    cache, _ = made(tmp_path)
    (tmp_path / "cache.json").write_text(cache.to_json())
    words = ["export", "--cache", str(tmp_path / "cache.json"), "--method", "percentile"]
    assert main([*words, "--out", str(tmp_path / "calib.cache")]) == 0
    first, *lines = (tmp_path / "calib.cache").read_text().splitlines()
    assert first == "TRT-8601-EntropyCalibration2"
    assert len(lines) == 2
    name, digits = lines[0].split(": ")
    found = cache.tensors[name].ranges["percentile"]
    amax = max(-found.low, found.high)
    assert struct.unpack("!f", bytes.fromhex(digits))[0] == pytest.approx(amax / 127, rel=1e-6)
    assert main([*words, "--out", str(tmp_path / "calib.cache"), "--tensorrt", "101401"]) == 0
    assert (tmp_path / "calib.cache").read_text().startswith("TRT-101401-EntropyCalibration2\n")
    assert "2 scales of percentile" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--method", "entropy"], "method 'entropy'; choose from minmax, percentile"),
        (["--tensorrt", "8.6"], "write it as 8601"),
        (["--cache", "/nowhere/cache.json"], "check the path"),
    ],
)
def test_a_wrong_call_ends_with_three_and_the_next_step(main, tmp_path, capsys, change, said):
    (tmp_path / "cache.json").write_text(made(tmp_path)[0].to_json())
    words = {"--cache": str(tmp_path / "cache.json"), "--method": "minmax", "--out": str(tmp_path / "out")}
    words[change[0]] = change[1]
    assert main(["export", *(word for pair in words.items() for word in pair)]) == 3
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_document_that_is_no_cache_is_named(main, tmp_path, capsys):
    (tmp_path / "cache.json").write_text("{}")
    words = ["--cache", str(tmp_path / "cache.json"), "--method", "minmax", "--out", str(tmp_path / "out")]
    assert main(["export", *words]) == 3
    assert "tensors: required, but missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("x: 3f800000\n", 1),
        ("TRT-8601-EntropyCalibration2\nx 3f800000\n", 2),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", 3),
        ("TRT-8601-EntropyCalibration2\nx: 3f80000000\n", 2),
    ],
)
def test_a_text_that_is_not_in_the_format_is_refused_by_line(text, line):
    with pytest.raises(TensorrtCacheError, match=f"line {line} is"):
        from_tensorrt(text)


def test_texts_that_tensorrt_wrote_are_read():
    """It leaves leading zeros out, writes 0 for a tensor of zeros, and names may hold a colon."""
    text = "TRT-8401-EntropyCalibration2\ninput: 3caa54fc\n(Unnamed Layer* 64) [Shuffle]_output: 0\na:b: 3d5c11b5\n"
    scales = from_tensorrt(text)
    assert scales["input"] == pytest.approx(0.020792, rel=1e-4)
    assert scales["(Unnamed Layer* 64) [Shuffle]_output"] == 0.0
    assert "a:b" in scales


def test_a_name_that_would_break_the_lines_is_refused(tmp_path):
    cache, _ = made(tmp_path)
    broken = cache.model_copy(update={"tensors": {"a\nb": cache.tensors["x"]}})
    with pytest.raises(TensorrtCacheError, match="rename the tensor"):
        to_tensorrt(broken, "minmax")


def test_the_pods_own_command_is_as_it_was(main, tmp_path, capsys):
    assert main(["--store", str(tmp_path)]) == 2
    assert "--release" in capsys.readouterr().err

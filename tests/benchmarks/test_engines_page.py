"""The page of the engines' figures says what they say; a miss stands there with its reason."""

import json
import re

import pytest

from benchmarks.engines.__main__ import main
from benchmarks.engines.page import page
from benchmarks.engines.result import result
from benchmarks.engines.sides import EAGER
from tests.benchmarks.engines_result import HARDWARE, MOST, everything


def missed():
    figures = everything()
    figures["gpt"]["steps"]["torch"][EAGER][MOST]["rows_per_s"] = 2500.0
    figures["gpt"]["steps"]["warm_build"] = {"error": "stopped | early"}
    return result(HARDWARE, figures)


@pytest.mark.parametrize(
    "wanted",
    [
        "NVIDIA H100 80GB HBM3 (79.6 GiB, driver 580.1, CUDA 13.0), A CPU, 16 cores, 128.0 GiB",
        "One row of 128 tokens takes the FP16 engine 1.00 ms at P99 and PyTorch eager 6.00 ms (6.00x)",
        "2.00x as many rows a second with 50 % less device memory",
        "| batch=1 sequence=128 | engine fp16, chosen | 400 | 0.500 | 1.000 | 1.000 | 1.000 | 500 | - |",
        "| PyTorch eager | 6.00 | 6.00 | 2.00 | 50 % |",
        "| PyTorch eager | 1200 | 500 | - | 300 |",
        "| torch.compile: out of memory | - | - | - | - |",
        "recall_at_1 of int8-minmax: 0.9050, the reference 0.9100, a drop of 0.0050",
        "Building all candidates takes 60.0 s cold and 12.0 s with a warm timing cache (20 %)",
        "In the engine's times: transfers, cuda_graph. Export 9 s",
        "at 3.6 an hour: PyTorch eager 0.67",
        "Failed: warm_build: stopped | early.",
        "| engines.3 |",
        "not run here: proven by `make test`, not here",
        "1 of 13 bars missed, 0 not judged; see below",
        "| gpt | rows/s of the engine by rows/s of eager, largest bucket | at least 1.4 | 1.2 | **missed** | 0.2 x |",
        "| 0.2 x | at batch=32 sequence=512 eager takes p50 10.00 ms",
        "| minilm | INT8 recall@1 lost | at most 0.01 | 0.005 | holds | - | - |",
    ],
)
def test_each_figure_is_on_the_page(wanted):
    assert wanted in page(missed())


def test_every_row_of_a_table_has_its_columns():
    tables = re.findall(r"(?:^\|.*\n?)+", page(missed()), flags=re.MULTILINE)
    assert len(tables) == 3 * 3 + 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().splitlines()}) == 1


def test_the_page_of_a_result_made_before_measures_nothing(tmp_path, capsys):
    made = missed()
    (tmp_path / "result.json").write_text(json.dumps(made))
    code = main(["--json", "--from", str(tmp_path / "result.json"), "--page", str(tmp_path / "page.md")])
    assert code == 1, "a bar was missed"
    assert (tmp_path / "page.md").read_text() == page(made)
    assert json.loads(capsys.readouterr().out) == made


def test_a_page_of_nothing_but_failures_has_dashes_and_no_zero_in_their_place():
    figures = everything()
    steps = figures["gpt"]["steps"]
    steps |= {name: {"error": "no device"} for name in steps}
    text = page(result(HARDWARE, {"gpt": figures["gpt"]}))
    assert "takes the FP16 engine - ms at P99 and PyTorch eager - ms (-x)" in text
    assert "no device" in text

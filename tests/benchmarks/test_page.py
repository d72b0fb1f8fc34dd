"""The page says what the figures say, and what is missing is never a zero."""

import json
import re

import pytest

from benchmarks.page import page
from benchmarks.promotion import main

STAGE = {
    "stage": 0,
    "percent": 5.0,
    "seconds": 41.4,
    "forecast_seconds": None,
    "users": 200,
    "users_exposed": 11,
    "mispredicted_requests": 3,
}
EXPOSURE = {
    "stages": [STAGE],
    "users_exposed": 11,
    "requests_exposed": 12,
    "client_failures": 2,
    "users_who_changed_sides": 1,
    "verdict_to_last_request_ms": None,
}
ROLLOUT = {
    "name": "version 2",
    "version": "2",
    "outcome": "turned_back",
    "seconds": 70.2,
    "reason": "harm: a | b",
    "exposure": EXPOSURE,
}
RUN = {
    "arguments": ["--exit"],
    "exit": 1,
    "seconds": 99.6,
    "report": {
        "load": {"requests": 300, "rate_rps": 80.0, "users": 20000},
        "rollouts": [ROLLOUT],
        "anonymous": {"failed": 0, "1": 10_000},
    },
}
RESULT = {
    "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 23.4},
    "figures": [RUN, {**RUN, "report": None}],
    "acceptance": [
        {"id": "demo.1", "target": "in time", "value": {}, "holds": False},
        {"id": "demo.6", "target": "tests", "value": None, "holds": None, "reason": "elsewhere"},
    ],
}


@pytest.mark.parametrize(
    "wanted",
    [
        "A CPU, 2 cores, 23.4 GiB, no GPU",
        'Run 1: `make demo ARGS="--exit"`',
        "| version 2 | turned_back | 70 | 11 | 12 | 2 | 1 | - |",
        "| 2 | 5 % | 41 | - | 200 | 11 | 5 %, 5.50 % | 3 |",
        "version 1: 10000; failed: 0",
        "harm: a | b",
        "Ended with 1 and wrote no report.",
        "| demo.1 | in time | **missed** |",
        "| demo.6 | tests | not run here: elsewhere |",
    ],
)
def test_each_figure_is_on_the_page(wanted):
    assert wanted in page(RESULT)


def test_every_row_of_a_table_has_its_columns():
    tables = re.findall(r"(?:^\|.*\n?)+", page(RESULT), flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().splitlines()}) == 1


def test_the_page_of_a_result_made_before_runs_nothing(tmp_path, capsys):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    code = main(["--json", "--from", str(tmp_path / "result.json"), "--page", str(tmp_path / "page.md")])
    assert code == 1, "a line was missed"
    assert (tmp_path / "page.md").read_text() == page(RESULT)
    assert json.loads(capsys.readouterr().out) == RESULT

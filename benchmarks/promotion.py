"""The whole way, measured: the demo as a user runs it, timed; then with the other faults and a killed Airflow.

python -m benchmarks.promotion --json                          # both runs on this checkout
python -m benchmarks.promotion --json --clone                  # in a fresh clone, its set-up timed as well
python -m benchmarks.promotion --json --reports a.json b.json  # from the reports of two runs made before
python -m benchmarks.promotion --from result.json --page page.md   # the page of a result made before
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.page import page

REPO = Path(__file__).resolve().parents[1]
FAULTS = ("fail", "reject-long", "slow", "nan")
RUNS = (("--exit",), ("--exit", "--kill-airflow", "--fault", "reject-long,slow,nan"))
WITH_INSTALL_S, WITHOUT_INSTALL_S = 20 * 60, 12 * 60
FIRST = (
    "In a fresh clone: `make demo ARGS=--exit` ends with 0 and the report; on 2 cores at most 20 minutes with "
    "installing, 12 without. Each of the four faults works."
)
BY_TESTS = "measured by `make test`, not here"
BY_READING = "for a reader to judge; a test holds only that every picture and page it names is there"
ELSEWHERE = {
    "demo.6": "`make test` under 15 minutes on 2 cores: unit tests, DAG policy tests over the whole DagBag, end-to-end "
    "tests of promoted, rejected, harmed, held and superseded runs on the real parts, started once per test session. "
    "`.ci/run` calls it, after `make check` (ruff, mypy strict for `sluice/`, import-linter).",
    "demo.7": "The emulated cluster answers `kubectl` (Debian `kubernetes-client`): get nodes, pods, deployments; "
    "describe, logs -f, delete; and the official Python client's watch.",
    "demo.8": "README: its first screen says what Sluice is, shows one picture of the flow, the two commands and what "
    "one then sees; a screenshot of a real run follows.",
}


def set_up(folder: Path) -> float:
    """Seconds of `make setup` in a fresh clone of this checkout's HEAD."""
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(folder)], check=True)
    began = time.perf_counter()
    subprocess.run(["make", "setup"], cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def demo(checkout: Path, words: Sequence[str]) -> dict[str, Any]:
    """One demo: its arguments, exit code, wall seconds and report (None when it wrote none)."""
    report = checkout / ".sluice" / "demo" / "report.json"
    report.unlink(missing_ok=True)
    argv = ["make", "demo", f"ARGS={' '.join(words)}"]
    began = time.perf_counter()
    code = subprocess.run(argv, cwd=checkout, check=False, stdout=sys.stderr).returncode
    seconds = round(time.perf_counter() - began, 1)
    found = json.loads(report.read_text()) if report.exists() else None
    return {"arguments": list(words), "exit": code, "seconds": seconds, "report": found}


def loaded(path: Path) -> dict[str, Any]:
    """A run made before, from its report; its exit code follows from the report as the demo's own does."""
    report = json.loads(path.read_text())
    code = 0 if all(line["holds"] is not False for line in report["acceptance"]) else 1
    return {"arguments": [path.name], "exit": code, "seconds": report["seconds"], "report": report}


def acceptance(runs: Sequence[Mapping[str, Any]], install_s: float | None) -> list[dict[str, Any]]:
    """Every line of the promise. `holds` comes from the runs' figures; a line that was not run is None."""
    rows = [first_line(runs, install_s)]
    for name in ("demo.2", "demo.3", "demo.4", "demo.5"):
        mine = [
            line for run in runs for line in (run["report"] or {}).get("acceptance", []) if line["id"] == name
        ]
        held = [line["holds"] for line in mine if line["holds"] is not None]
        missing = any(run["report"] is None for run in runs)
        rows.append(
            {
                "id": name,
                "target": mine[0]["target"] if mine else name,
                "value": [line["value"] for line in mine if line["value"] is not None],
                "holds": all(held) and not missing if held else None,
                **({} if held else {"reason": "no run measured it"}),
            }
        )
    return rows + [
        {
            "id": name,
            "target": target,
            "value": None,
            "holds": None,
            "reason": BY_READING if name == "demo.8" else BY_TESTS,
        }
        for name, target in ELSEWHERE.items()
    ]


def first_line(runs: Sequence[Mapping[str, Any]], install_s: float | None) -> dict[str, Any]:
    """Line 1: all runs ended with 0, every fault was played, the first run (as a user types it) was in time."""
    faults = {fault for run in runs for fault in (run["report"] or {}).get("faults", [])}
    seconds = runs[0]["seconds"] if runs else None
    value = {
        "exits": [run["exit"] for run in runs],
        "seconds": seconds,
        "install_seconds": install_s,
        "faults": sorted(faults),
    }
    holds = (
        faults == set(FAULTS)
        and all(run["exit"] == 0 and run["report"] is not None for run in runs)
        and seconds is not None
        and seconds <= WITHOUT_INSTALL_S
        and (install_s is None or install_s + seconds <= WITH_INSTALL_S)
    )
    return {"id": "demo.1", "target": FIRST, "value": value, "holds": holds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.promotion",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object alone on standard output")
    parser.add_argument("--clone", action="store_true", help="run in a fresh clone and time its set-up")
    parser.add_argument("--reports", type=Path, nargs="+", help="reports of runs made before; runs nothing")
    parser.add_argument("--install-seconds", type=float, help="of a set-up timed before, with --reports")
    parser.add_argument("--from", type=Path, dest="made", help="a result made before; runs nothing")
    parser.add_argument("--page", type=Path, help="write the result for people into this Markdown file")
    args = parser.parse_args(argv)
    result = json.loads(args.made.read_text()) if args.made else measured(args)
    if args.page:
        args.page.write_text(page(result))
    print(json.dumps(result, indent=None if args.json else 2))
    return 0 if all(line["holds"] is not False for line in result["acceptance"]) else 1


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Run what the arguments ask for; the result as one JSON object."""
    install_s = args.install_seconds
    if args.reports:
        runs = [loaded(path) for path in args.reports]
    else:
        with tempfile.TemporaryDirectory() as folder:
            checkout = Path(folder) / "sluice" if args.clone else REPO
            install_s = round(set_up(checkout), 1) if args.clone else None
            runs = [demo(checkout, words) for words in RUNS]
    hardware = next((run["report"]["hardware"] for run in runs if run["report"]), None)
    return {
        "benchmark": "promotion",
        "hardware": hardware,
        "n": len(runs),
        "figures": runs,
        "acceptance": acceptance(runs, install_s),
    }


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: start everything, promote a real model to 100 %, turn a bad one back, report."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from local.demo import report
from local.demo.scenario import FAULTS, Options, Scenario
from local.stack.processes import end_on_signals
from local.stack.programs import REPO
from local.stack.stack import Stack
from sluice.errors import FatalError, SluiceError

LOG_WIDTH = 132  # columns when the output is no terminal
MARKER = ".sluice-demo"  # says that this folder may be emptied


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo ARGS=…", description=__doc__)
    parser.add_argument(
        "--exit", action="store_true", help="end when the report is written instead of staying up"
    )
    parser.add_argument(
        "--fault",
        type=faults,
        default=("fail",),
        help=f"what is wrong with version 3: {', '.join(FAULTS)}; a list makes one bad version each (default: fail)",
    )
    parser.add_argument("--review", action="store_true", help="leave the reviews to you, at the Airflow page")
    parser.add_argument(
        "--kill-airflow", action="store_true", help="kill -9 scheduler and triggerer in the 5 %% stage"
    )
    parser.add_argument("--rate", type=float, default=80.0, help="requests per second")
    parser.add_argument("--users", type=int, default=20_000, help="size of the population")
    parser.add_argument(
        "--root", type=Path, default=REPO / ".sluice" / "demo", help="folder of all state; emptied first"
    )
    return parser.parse_args(argv)


def faults(text: str) -> tuple[str, ...]:
    """`fail,slow` -> names of faults, each once."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FAULTS)}")
    return names


def play(args: argparse.Namespace, console: Console) -> int:
    """The whole demo on a fresh state folder; the exit code: 0 if every line that was run holds."""
    began = time.monotonic()
    options = Options(
        faults=args.fault,
        rate_rps=args.rate,
        users=args.users,
        review=args.review,
        kill_airflow=args.kill_airflow,
    )
    console.rule("starting", align="left")
    with Stack(args.root, say=lambda line: console.print(line, highlight=False, soft_wrap=True)) as stack:
        scenario = Scenario(stack, options, console, args.root)
        scenario.make_checkpoint()
        stack.await_dag("promote__minilm")
        say_who_reviews(stack, args, console)
        try:
            played = scenario.play()
        except SluiceError as error:
            if args.exit:
                raise
            say_error(error, console)
            stay_up(console)
        found = report.make(scenario, played, seconds=time.monotonic() - began)
        (args.root / "report.json").write_text(json.dumps(found, indent=2))
        report.show(found, console)
        console.print(
            f"  report      {args.root / 'report.json'}   ({found['seconds']:.0f} s)", soft_wrap=True
        )
        if not args.exit:
            scenario.start_load()
            stay_up(console)
    return 0 if all(line["holds"] is not False for line in found["acceptance"]) else 1


def say_who_reviews(stack: Stack, args: argparse.Namespace, console: Console) -> None:
    if args.review:
        line = f"reviews wait for you at {stack.airflow.url}/required_actions (admin / admin)"
    else:
        line = "reviews are answered by the demo through Airflow's API; --review leaves them to you"
    console.print(f"  {line}", soft_wrap=True, highlight=False)


def say_error(error: SluiceError, console: Console) -> None:
    console.print(f"error: {error}", style="red", soft_wrap=True, highlight=False)


def stay_up(console: Console) -> NoReturn:
    """Wait to be looked at, until a signal ends it."""
    console.print("  everything stays up; Ctrl-C ends it. Airflow: admin / admin")
    while True:
        threading.Event().wait()


def main() -> int:
    args = parse()
    end_on_signals()
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    try:
        clear(args.root)
        return play(args, console)
    except KeyboardInterrupt:
        console.print("ended; nothing is left running")
        return 130
    except SluiceError as error:
        say_error(error, console)
        return 1


def clear(root: Path) -> None:
    """Empty the state of an earlier demo, ending first what it left running; refuse a folder that is not ours."""
    marker = root / MARKER
    if root.exists() and any(root.iterdir()) and not marker.exists():
        raise FatalError(f"--root {root} is not empty and not a demo's folder", next_step="name a new folder")
    Stack(root, say=lambda _: None).processes.close()
    for child in root.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    marker.touch()


if __name__ == "__main__":
    sys.exit(main())

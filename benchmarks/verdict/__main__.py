"""How often the verdict is wrong, in named cells, beside other rollout tools and broken twins.

python -m benchmarks.verdict --json --page docs/results/verdict.md        # everything: 10 000 rollouts a cell
python -m benchmarks.verdict --cells 'centre; 20 rps' --rollouts 1000 --peers 200
python -m benchmarks.verdict --resume --budget-s 600                      # cells at a time; what was done is in --out
python -m benchmarks.verdict --from result.json --page page.md            # the page of a result made before

A cell's rollouts are dealt to its faults, half of them to the healthy version. Cells that the budget does not reach
are missing, and no line holds without them.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.engines.hardware import hardware
from benchmarks.verdict.cells import CELLS, Cell
from benchmarks.verdict.measure import OURS, Job, figures, jobs, peer_jobs, run
from benchmarks.verdict.page import page
from benchmarks.verdict.plots import plots
from benchmarks.verdict.result import result
from benchmarks.verdict.timing import evaluation
from benchmarks.verdict.twins import judged

ROLLOUTS: Final = 10_000
PEERS: Final = 1_000
TWINS: Final = 400
Found = dict[str, dict[str, dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read; print the object. 1 when what was promised is missed."""
    args = _parser().parse_args(argv)
    whole = json.loads(args.made.read_text(encoding="utf-8")) if args.made else measured(args)
    if args.page:
        args.page.write_text(page(whole, plots(whole, args.page.parent)), encoding="utf-8")
    print(json.dumps(whole, indent=None if args.json else 2, allow_nan=False))
    return 0 if all(line["holds"] is not False for line in whole["acceptance"]) else 1


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The result object of this run, with what an earlier one left in --out."""
    began = time.monotonic()
    n = {"rollouts": args.rollouts, "peers": args.peers, "twins": args.twins, "seed": args.seed}
    timed = evaluation()  # first, while no worker is busy
    found: dict[str, Found] = {}
    for cell in args.cells:
        kept = _kept(args.out, cell, n) if args.resume else None
        if kept is None:
            if args.budget_s is not None and time.monotonic() - began > args.budget_s:
                print(f"{cell.name}: left out, the budget is spent", file=sys.stderr)
                continue
            kept = _cell(cell, args)
            _keep(args.out, cell, n, kept)
        found[cell.name] = kept
    twins = judged(args.twins, args.seed) if args.twins else []
    return result(hardware(), found, twins, timed, {**n, "seconds": round(time.monotonic() - began)})


def _cell(cell: Cell, args: argparse.Namespace) -> Found:
    todo = [*jobs([cell], args.rollouts, args.seed), *peer_jobs([cell], args.peers, args.seed)]
    began = time.monotonic()

    def told(done: int, job: Job) -> None:
        if done % 20 == 0 or done == len(todo):
            took = time.monotonic() - began
            print(f"{cell.name}: {done} of {len(todo)} blocks, {took:.0f} s, {job[1].name}", file=sys.stderr)

    out: Found = {}
    for (_, fault, policy), rows in run(todo, args.workers, told).items():
        out.setdefault(fault, {})[policy] = figures(rows)
    return out


def _file(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name.replace(' ', '-').replace('%', 'percent')}.json"


def _keep(folder: Path, cell: Cell, n: dict[str, int], found: Found) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _file(folder, cell).write_text(json.dumps({"n": n, "found": found}), encoding="utf-8")


def _kept(folder: Path, cell: Cell, n: dict[str, int]) -> Found | None:
    """What an earlier run left of this cell; None where it was asked otherwise."""
    file = _file(folder, cell)
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    same = all(kept["n"][key] == n[key] for key in ("rollouts", "peers", "seed"))
    wanted = {fault.name for fault in cell.faults}
    return kept["found"] if same and set(kept["found"]) == wanted else None


def _cells(text: str) -> list[Cell]:
    by_name = {cell.name: cell for cell in CELLS}
    try:
        return [by_name[name.strip()] for name in text.split(";")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no cell {error}: one of {'; '.join(by_name)}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verdict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print the JSON object in one line")
    add("--cells", type=_cells, default=list(CELLS), help="names, semicolon between (default: all)")
    add("--rollouts", type=int, default=ROLLOUTS, help=f"of {OURS}, a cell (default %(default)s)")
    add("--peers", type=int, default=PEERS, help="of each other tool, a cell (default %(default)s)")
    add("--twins", type=int, default=TWINS, help="of each broken twin; 0: none (default %(default)s)")
    add("--seed", type=int, default=1)
    add("--workers", type=int, default=2, help="processes (default %(default)s)")
    add("--budget-s", type=float, help="begin no cell after so many seconds")
    add("--out", type=Path, default=Path(".sluice/verdict"), help="folder of one file a cell")
    add("--resume", action="store_true", help="keep the cells that an earlier run left in --out")
    add("--from", type=Path, dest="made", help="a result made before; measures nothing")
    add("--page", type=Path, help="write the result for people into this Markdown file, its plots beside it")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What does mirroring to the recorder cost clients? Real Envoy, model server, recorder and load client, on one machine.

Blocks come in cycles of three: mirroring off, on, and off once more as a control, each in every place equally often.
A pair is on and off of one cycle.

python -m benchmarks.mirroring --json [--blocks 45 --block-s 30 --percent 1 --rate 150]
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.engines.hardware import hardware
from benchmarks.mirroring.result import KINDS, ON, block, order, result
from benchmarks.mirroring.stand import Stand, parts_of, stand

SETTLE_S: Final = 0.5  # after a change, and for the last answers and copies of a block
WARM_S: Final = 5.0


async def cycles(running: Stand, count: int, block_s: float) -> list[dict[str, Any]]:
    """`count` cycles, each {kind: block}. Latencies are read at the end, from the load client's journal."""
    spans: list[dict[str, tuple[float, float, int]]] = []
    for cycle in range(count):
        spans.append({})
        for kind in order(cycle):
            await running.turn(on=kind == ON)
            await asyncio.sleep(SETTLE_S)
            copies, start = await running.copies(), time.time()
            await asyncio.sleep(block_s)
            end = time.time()
            await running.turn(on=False)
            await asyncio.sleep(SETTLE_S)
            spans[-1][kind] = (start, end, await running.copies() - copies)
        print(f"cycle {cycle + 1} of {count}", file=sys.stderr, flush=True)
    sent = running.sent()
    made = []
    for span in spans:
        blocks = {}
        for kind in KINDS:
            start, end, copies = span[kind]
            latencies, failed = parts_of((start, end), sent)
            blocks[kind] = block(latencies, failed=failed, copies=copies)
        made.append(blocks)
    return made


async def measure(*, blocks: int, block_s: float, percent: float, rate_rps: float) -> dict[str, Any]:
    """The result as one JSON object."""
    with tempfile.TemporaryDirectory() as work:
        async with stand(Path(work), percent=percent, rate_rps=rate_rps) as running:
            await asyncio.sleep(min(WARM_S, block_s))
            made = await cycles(running, max(1, blocks // len(KINDS)), block_s)
    return result(hardware(), made, percent=percent, block_s=block_s, rate_rps=rate_rps)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mirroring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object on one line")
    parser.add_argument("--blocks", type=int, default=45, help="in all, a third of them on (45: 24 minutes)")
    parser.add_argument("--block-s", type=float, default=30.0, help="length of a block in seconds (30)")
    parser.add_argument(
        "--percent", type=float, default=1.0, help="of the requests, mirrored in an on block (1)"
    )
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second (150)")
    args = parser.parse_args(argv)
    made = asyncio.run(
        measure(blocks=args.blocks, block_s=args.block_s, percent=args.percent, rate_rps=args.rate)
    )
    print(json.dumps(made, indent=None if args.json else 2))
    return 0 if all(line["holds"] for line in made["acceptance"]) else 1


if __name__ == "__main__":
    sys.exit(main())

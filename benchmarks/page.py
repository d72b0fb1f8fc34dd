"""The results of `benchmarks.promotion` as a page for people. Pure: the JSON object in, Markdown out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

ROLLOUTS: Final = (
    "rollout", "outcome", "seconds", "users that it reached", "requests that it got", "requests failed at the client",
    "users who changed sides", "ms from verdict to last request",
)  # fmt: skip
STAGES: Final = (
    "version", "stage", "seconds", "first forecast, s", "users seen", "of them at the candidate", "asked, got",
    "mispredicted requests",
)  # fmt: skip
MARKS: Final = {True: "holds", False: "**missed**", None: "not run here"}


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    hardware = result["hardware"] or {}
    machine = (
        f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB, no GPU"
    )
    made = (
        "Made by `python -m benchmarks.promotion --json --clone --page docs/results/promotion.md`: the demo as a user "
        "types it, in a fresh clone, then once more with the other faults and a killed Airflow. Everything in it is "
        f"real but the cluster, whose pods are processes. Machine: {machine}."
    )
    parts = ["# A real model to 100 %, bad ones turned back", made]
    for number, run in enumerate(result["figures"], start=1):
        parts += _run(number, run)
    parts += [
        "## What was promised",
        table(("line", "target", "result"), map(_promise, result["acceptance"])),
    ]
    return "\n\n".join(parts) + "\n"


def _run(number: int, run: Mapping[str, Any]) -> list[str]:
    title = f'## Run {number}: `make demo ARGS="{" ".join(run["arguments"])}"`'
    report = run["report"]
    if report is None:
        return [title, f"Ended with {run['exit']} and wrote no report."]
    load = report["load"]
    said = (
        f"Ended with {run['exit']} after {run['seconds']:.0f} s; {load['requests']} requests at {load['rate_rps']:g} a "
        f"second from {load['users']} users. Dwell is 20 s a stage, everything else as in the spec."
    )
    rows = report["rollouts"]
    stages = [(row["version"], stage) for row in rows for stage in row["exposure"]["stages"]]
    reasons = "\n".join(f"- {row['name']}: {row['reason'] or '-'}" for row in rows)
    return [
        title,
        said,
        table(ROLLOUTS, map(_rollout, rows)),
        reasons,
        table(STAGES, (_stage(version, stage) for version, stage in stages)),
        *_anonymous(report["anonymous"]),
    ]


def _anonymous(counts: Mapping[str, int]) -> list[str]:
    """Where the requests without a user went; nothing when none were sent."""
    if not counts:
        return []
    where = ", ".join(
        f"version {name}: {count}" for name, count in sorted(counts.items()) if name != "failed"
    )
    return [f"Requests without a user while 50 % was open: {where}; failed: {counts.get('failed', 0)}."]


def _rollout(row: Mapping[str, Any]) -> Sequence[Any]:
    found = row["exposure"]
    names = ("users_exposed", "requests_exposed", "client_failures", "users_who_changed_sides")
    figures = [found.get(name) for name in (*names, "verdict_to_last_request_ms")]
    return [row["name"], row["outcome"], f"{row['seconds']:.0f}", *figures]


def _stage(version: str, stage: Mapping[str, Any]) -> Sequence[Any]:
    users, got = stage["users"], stage["users_exposed"]
    share = f"{stage['percent']:g} %, {100 * got / users:.2f} %" if users else f"{stage['percent']:g} %, -"
    forecast = stage["forecast_seconds"]
    return [
        version,
        f"{stage['percent']:g} %",
        f"{stage['seconds']:.0f}",
        None if forecast is None else f"{forecast:.0f}",
        users,
        got,
        share,
        stage["mispredicted_requests"],
    ]


def _promise(line: Mapping[str, Any]) -> Sequence[Any]:
    result = MARKS[line["holds"]]
    return [line["id"], line["target"], f"{result}: {line['reason']}" if line.get("reason") else result]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; a dash where there is None."""
    cells = [[*columns], ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(value: Any) -> str:
    return "-" if value is None else str(value).replace("|", "\\|")

"""The report of a demo: what happened to every rollout, what was promised, where to look."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests
from rich.console import Console
from rich.table import Table

from artifacts.store import Store
from local.demo import acceptance, spec
from local.demo.engines import engines_of
from local.demo.exposure import exposure, seconds
from local.demo.scenario import DAG, Played, Scenario
from local.demo.spec import SERVICE
from local.load.journal import read
from local.stack.stack import Stack
from sluice.spec import ReleaseSpec

TIMEOUT_S = 20
TAG_CHARS = 250  # of the reason that the version's tag carries


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.partition(":")[2].strip() for row in lines if row.startswith("model name")), "unknown")
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "gpu": None,
    }


def rollout_row(
    played: Played,
    rows: Sequence[Any],
    *,
    shares: Mapping[str, float],
    watched_until_s: float,
    release_spec: ReleaseSpec,
    store: Store,
) -> dict[str, Any]:
    """One rollout: outcome, engines, reviews, verdicts, exposure, forecast beside what happened."""
    rollout = played.seen.rollout or {}
    found = (
        exposure(rollout, rows, shares=shares, watched_until_s=watched_until_s) if rollout else {"stages": []}
    )
    for stage in found["stages"]:
        stage["forecast_seconds"] = played.seen.forecasts.get(stage["stage"])
    return {
        "name": played.name,
        "run_id": played.seen.run_id,
        "version": played.version,
        "outcome": rollout.get("state"),
        "reason": rollout.get("reason"),
        "seconds": played.seconds,
        "conf": played.conf,
        "changed_from_the_spec": spec.changes(release_spec, played.conf),
        "engines": engines_of(store, rollout.get("release_digest")),
        "reviews": reviews_of(played),
        "verdict": rollout.get("verdict"),
        "verdicts": [row for row in played.decisions if row.get("verdict")],
        "exposure": found,
        "task_seconds": {row["task_id"]: row["duration"] for row in played.seen.tasks},
    }


def reviews_of(played: Played) -> dict[str, dict[str, Any]]:
    """Every review that the run asked for: what was answered, by whom, as Airflow recorded it."""
    found = {}
    for row in played.reviews:
        task, user = row["task_instance"]["task_id"], row["responded_by_user"]
        # An answer without a user is the default, which Airflow fills in when the time ran out.
        person = "the demo" if task in played.seen.reviews_answered else "a person"
        found[task] = {
            "answer": (row["chosen_options"] or [None])[0],
            "by": person if user else "nobody",
            "user": (user or {}).get("name"),
            "at": row["responded_at"],
        }
    return found


def watched_until(played: Sequence[Played], turn: int, load_ended_s: float) -> float:
    """Until when a client's failure is this rollout's: the next one's first opening, or the load's end."""
    opened = [row["at"] for each in played[turn + 1 :] for row in (each.seen.rollout or {}).get("opened", [])]
    return min([seconds(at) for at in opened] + [load_ended_s])


def registry_facts(stack: Stack, good: Played, bad: Mapping[str, Played]) -> dict[str, Any]:
    """What MLflow and Airflow say afterwards, of the good version and of each bad one by its fault."""
    alias = mlflow(stack, f"registered-models/alias?name={SERVICE}&alias=champion")
    return {
        "champion": alias.get("model_version", {}).get("version"),
        "good_version": good.version,
        "good_run": good.seen.state,
        "bad": {fault: bad_facts(stack, played) for fault, played in bad.items()},
    }


def bad_facts(stack: Stack, bad: Played) -> dict[str, Any]:
    """The verdict on a bad version, and every place that has to repeat it."""
    answer = mlflow(stack, f"model-versions/get?name={SERVICE}&version={bad.version}")
    tags = {tag["key"]: tag["value"] for tag in answer.get("model_version", {}).get("tags", [])}
    run = stack.airflow.run(DAG, bad.seen.run_id)
    reason = str(((bad.seen.rollout or {}).get("verdict") or {}).get("reason") or "")
    task = next((row for row in bad.seen.tasks if row["task_id"] == "verdict"), {})
    log = stack.airflow.log(DAG, bad.seen.run_id, "verdict", attempt=task.get("try_number") or 1)
    return {
        "version": bad.version,
        "reason": reason[:TAG_CHARS],
        "tag": tags.get("reason"),
        "run": bad.seen.state,
        "verdict_in_log": bool(reason) and reason in log,
        "verdict_in_note": bool(reason) and reason in str(run.get("note") or ""),
    }


def mlflow(stack: Stack, path: str) -> dict[str, Any]:
    """A read of MLflow's REST API; empty when MLflow knows no such thing."""
    answer = requests.get(f"{stack.layout.url('mlflow')}/api/2.0/mlflow/{path}", timeout=TIMEOUT_S)
    return dict(answer.json()) if answer.ok else {}


def make(scenario: Scenario, played: Sequence[Played], *, seconds: float) -> dict[str, Any]:
    """The whole report as one JSON object."""
    stack, faults = scenario.stack, scenario.options.faults
    rows, release_spec = list(read(scenario.journal)), spec.shipped(stack.layout)
    common = {"shares": shares_of(stack), "release_spec": release_spec, "store": Store(stack.layout.store)}
    rollouts = [
        rollout_row(each, rows, watched_until_s=watched_until(played, turn, scenario.load_ended_s), **common)
        for turn, each in enumerate(played)
    ]
    _, good, *bad = played
    facts = registry_facts(stack, good, dict(zip(faults, bad, strict=True)))
    load = {"rate_rps": scenario.options.rate_rps, "users": scenario.options.users, "requests": len(rows)}
    return {
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "load": load,
        "faults": list(faults),
        "rollouts": rollouts,
        "anonymous": scenario.anonymous,
        "acceptance": promises(scenario, rollouts, release_spec, facts),
        "links": {
            "airflow": f"{stack.layout.url('airflow')}/dags/{DAG}",
            "mlflow": f"{stack.layout.url('mlflow')}/#/models/{SERVICE}",
            "prometheus": f"{stack.layout.url('prometheus')}/graph?g0.expr=sluice_rollout_percent&g0.tab=0",
            "controller": f"{stack.layout.url('controller')}/docs",
        },
    }


def promises(
    scenario: Scenario,
    rollouts: Sequence[Mapping[str, Any]],
    release_spec: ReleaseSpec,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Every line of the promise that a demo can hold."""
    percents = [stage.percent for stage in release_spec.stages]
    reviews = [f"review_{point}" for point in release_spec.review.before]
    _, good, *bad = rollouts
    return [
        acceptance.good_rollout(good, scenario.anonymous, percents=percents, reviews=reviews),
        acceptance.bad_rollouts(dict(zip(scenario.options.faults, bad, strict=True))),
        acceptance.registry(facts),
        acceptance.killed_airflow(scenario.kill and scenario.kill.facts, stages=len(percents)),
    ]


def shares_of(stack: Stack) -> dict[str, float]:
    """Share of the hash line of each architecture, from the service's line as the controller gives it."""
    line = stack.controller("GET", f"/v1/services/{SERVICE}").json()["line"]
    totals: dict[str, float] = {}
    for piece in line:
        totals[piece["arch"]] = totals.get(piece["arch"], 0) + piece["weight"] / 10_000
    return totals


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report for people: one table of rollouts, one of stages, one of promises."""
    console.rule("report", align="left")
    rollouts = table("rollout", "outcome", "seconds", "users", "requests", "failures", "changed sides")
    stages = table("version", "stage", "seconds", "forecast", "users", "asked", "got", "mispredicted")
    for row in report["rollouts"]:
        found = row["exposure"]
        names = ("users_exposed", "requests_exposed", "client_failures", "users_who_changed_sides")
        rollouts.add_row(
            row["name"], row["outcome"], f"{row['seconds']:.0f}", *(cell(found.get(x)) for x in names)
        )
        for stage in found["stages"]:
            stages.add_row(row["version"], *stage_cells(stage))
    console.print(rollouts, "", stages, "")
    for row in report["rollouts"]:
        for text in told(row):
            console.print(text, soft_wrap=True, highlight=False)
    console.print()
    for promise in report["acceptance"]:
        mark = {True: "[green]holds[/]", False: "[red]MISSED[/]", None: "[dim]not run[/]"}[promise["holds"]]
        console.print(f"  {promise['id']}  {mark:<22}  {acceptance.SHORT[promise['id']]}", soft_wrap=True)
    console.print()
    for name, link in report["links"].items():
        console.print(f"  {name:<11} {link}", style="cyan", soft_wrap=True)


def told(row: Mapping[str, Any]) -> list[str]:
    """One rollout in words: why it ended so, which engine was chosen and why, who answered its reviews."""
    engines = "; ".join(
        f"{engine['precision'] or 'no engine'} on {arch}: {engine['reason']}"
        for arch, engine in row["engines"].items()
    )
    reviews = "; ".join(
        f"{task}: {review['answer'] or 'no answer'} by {review['by']} ({review['user'] or '-'})"
        for task, review in row["reviews"].items()
    )
    return [
        f"  {row['name']}: {row['reason'] or '-'}",
        f"    engine: {engines or '-'}",
        f"    reviews: {reviews or 'none was asked for'}",
    ]


def table(*columns: str) -> Table:
    """A plain table whose numbers stand to the right."""
    made = Table(box=None, pad_edge=True)
    for turn, name in enumerate(columns):
        made.add_column(name, justify="left" if turn < 2 and name != "stage" else "right", no_wrap=True)
    return made


def stage_cells(stage: Mapping[str, Any]) -> tuple[str, ...]:
    asked = f"{stage['percent']:g} %"
    got = f"{100 * stage['users_exposed'] / stage['users']:.2f} %" if stage["users"] else "-"
    times = (f"{stage['seconds']:.0f} s", f"{cell(stage['forecast_seconds'])} s")
    return (asked, *times, str(stage["users_exposed"]), asked, got, str(stage["mispredicted_requests"]))


def cell(value: Any) -> str:
    return "-" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)

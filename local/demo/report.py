"""The report of a demo: what happened to every rollout, what was promised, where to look."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml
from rich.console import Console
from rich.table import Table

from local.demo import acceptance
from local.demo.exposure import exposure
from local.demo.scenario import DAG, DWELL_S, SERVICE, Played, Scenario
from local.load.journal import read
from local.stack.programs import REPO
from local.stack.stack import Stack

TIMEOUT_S = 20


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.partition(":")[2].strip() for row in lines if row.startswith("model name")), "unknown")
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "gpu": None,
        "os": platform.platform(),
    }


def rollout_row(played: Played, rows: Sequence[Any], shares: Mapping[str, float]) -> dict[str, Any]:
    """One rollout: outcome, verdicts, exposure, forecast beside what happened."""
    rollout = played.seen.rollout or {}
    found = exposure(rollout, rows, shares=shares) if rollout else {"stages": []}
    for stage in found["stages"]:
        stage["forecast_seconds"] = played.seen.forecasts.get(stage["stage"])
    verdicts = [row for row in played.decisions if row.get("verdict")]
    return {
        "name": played.name,
        "run_id": played.seen.run_id,
        "version": played.version,
        "outcome": rollout.get("state"),
        "reason": rollout.get("reason"),
        "seconds": played.seconds,
        "conf": played.conf,
        "reviews": {
            "answered_by": "demo" if played.seen.reviews_answered else "nobody or a person",
            "tasks": played.seen.reviews_answered,
        },
        "verdict": rollout.get("verdict"),
        "verdicts": verdicts,
        "exposure": found,
        "task_seconds": {row["task_id"]: row["duration"] for row in played.seen.tasks},
    }


def spec_difference() -> dict[str, Any]:
    """What the demo changes of the committed spec: the dwell times, nothing else."""
    spec = yaml.safe_load((REPO / "dags" / "models" / f"{SERVICE}.yaml").read_text())
    return {f"stages.{row['percent']:g}.dwell_s": [row["dwell_s"], DWELL_S] for row in spec["stages"]}


def registry_facts(stack: Stack, good: Played, bad: Played) -> dict[str, Any]:
    """What MLflow and Airflow say afterwards."""
    champion = mlflow(stack, f"registered-models/alias?name={SERVICE}&alias=champion").get(
        "model_version", {}
    )
    version = mlflow(stack, f"model-versions/get?name={SERVICE}&version={bad.version}").get(
        "model_version", {}
    )
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    run = stack.airflow.run(DAG, bad.seen.run_id)
    reason = str(((bad.seen.rollout or {}).get("verdict") or {}).get("reason") or "")
    task = next((row for row in bad.seen.tasks if row["task_id"] == "verdict"), {})
    log = stack.airflow.log(DAG, bad.seen.run_id, "verdict", attempt=task.get("try_number") or 1)
    return {
        "champion": champion.get("version"),
        "good_version": good.version,
        "bad_version_reason": tags.get("reason"),
        "good_run": good.seen.state,
        "bad_run": bad.seen.state,
        "verdict_in_log": bool(reason) and reason in log,
        "verdict_in_note": bool(reason) and reason in str(run.get("note") or ""),
    }


def mlflow(stack: Stack, path: str) -> dict[str, Any]:
    """A read of MLflow's REST API; empty when MLflow knows no such thing."""
    answer = requests.get(f"{stack.layout.url('mlflow')}/api/2.0/mlflow/{path}", timeout=TIMEOUT_S)
    return dict(answer.json()) if answer.ok else {}


def make(scenario: Scenario, played: Sequence[Played], *, seconds: float) -> dict[str, Any]:
    """The whole report as one JSON object."""
    stack = scenario.stack
    _, good, bad, *_ = played
    rows = list(read(scenario.journal))
    shares = shares_of(stack)
    rollouts = [rollout_row(each, rows, shares) for each in played]
    facts = scenario.kill.facts if scenario.kill else None
    return {
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "load": {
            "rate_rps": scenario.options.rate_rps,
            "users": scenario.options.users,
            "requests": len(rows),
        },
        "faults": list(scenario.options.faults),
        "rollouts": rollouts,
        "anonymous": scenario.anonymous,
        "changed_from_the_spec": spec_difference(),
        "acceptance": [
            acceptance.good_rollout(rollouts[1], scenario.anonymous),
            acceptance.bad_rollouts(dict(zip(scenario.options.faults, rollouts[2:], strict=True))),
            acceptance.registry(registry_facts(stack, good, bad)),
            acceptance.killed_airflow(facts),
        ],
        "links": {
            "airflow": f"{stack.layout.url('airflow')}/dags/{DAG}",
            "mlflow": f"{stack.layout.url('mlflow')}/#/models/{SERVICE}",
            "prometheus": f"{stack.layout.url('prometheus')}/graph?g0.expr=sluice_rollout_percent&g0.tab=0",
            "controller": f"{stack.layout.url('controller')}/docs",
        },
    }


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
        console.print(f"  {row['name']}: {row['reason'] or '-'}", soft_wrap=True, highlight=False)
    console.print()
    for promise in report["acceptance"]:
        mark = {True: "[green]holds[/]", False: "[red]MISSED[/]", None: "[dim]not run[/]"}[promise["holds"]]
        console.print(f"  {promise['id']}  {mark:<22}  {acceptance.SHORT[promise['id']]}", soft_wrap=True)
    console.print()
    for name, link in report["links"].items():
        console.print(f"  {name:<11} {link}", style="cyan", soft_wrap=True)


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

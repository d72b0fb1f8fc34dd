"""Runs a DAG file with Airflow's own code, once for each version of its spec; prints one JSON line per run.

`python -m tests.build_images.dag_run DAG_FILE SPEC UNTIL [SPEC UNTIL ...]`, with Airflow's environment set by the
caller. Each SPEC is put where DAG_FILE reads it. Tasks behind UNTIL, a task id or `-` for all, are marked as done. No
scheduler and no API server: `dag.test` decides by their code what runs, and runs it in this process.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

RESULT = "RESULT "


def main(file: Path, rounds: list[tuple[Path, str]]) -> None:
    from airflow.sdk.execution_time import supervisor
    from airflow.utils.db import initdb

    initdb()
    ended: list[dict[str, Any]] = []
    unwatched = supervisor.run_task_in_process

    def watched(**told: Any) -> Any:
        result = unwatched(**told)
        ended.append(seen(result))
        return result

    supervisor.run_task_in_process = watched  # `dag.test` keeps neither the error of a task nor its pod
    for spec, until in rounds:
        shutil.copy(spec, file.parent / "models" / f"{file.stem.removeprefix('promote__')}.yaml")
        dag = load(file)
        behind = [] if until == "-" else sorted(dag.get_task(until).get_flat_relative_ids(upstream=False))
        run = dag.test(mark_success_pattern="|".join(behind) or None)
        states = {
            (ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"): str(ti.state)
            for ti in run.get_task_instances()
        }
        told = {"run_id": run.run_id, "state": str(run.state), "states": states, "ended": ended}
        print(RESULT + json.dumps(told), flush=True)
        ended.clear()


def load(file: Path) -> Any:
    """The DAG as the file makes it now."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def seen(result: Any) -> dict[str, Any]:
    """What a person sees of a task that has ended, and the node of its pod."""
    pod = getattr(result.ti.task, "remote_pod", None)
    return {
        "task": result.ti.task_id,
        "map_index": result.ti.map_index,
        "label": result.ti.rendered_map_index,
        "state": result.state.value,
        "error": None if result.error is None else str(result.error),
        "node": None if pod is None else pod.spec.node_name,
    }


if __name__ == "__main__":
    argv = sys.argv[1:]
    main(Path(argv[0]), [(Path(spec), until) for spec, until in zip(argv[1::2], argv[2::2], strict=True)])

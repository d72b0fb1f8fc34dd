"""The DAG factory of calibration: recorded traffic becomes INT8 scales, and promotions use them until it moves.

Problem: scales that fitted last month's traffic clip this month's, and nobody calibrates again by hand. Invariants: a
dataset that did not pass its checks stops the run; scales are found anew only where there are none or a tensor has
moved; every promotion that begins later uses what was accepted last; no traffic moves in here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, Asset, TriggerRule, chain

from plugins import pods
from plugins.operators.calibrate import (
    AcceptCalibrationOperator,
    NameDatasetOperator,
    WhetherMovedOperator,
    skip_without_earlier,
)
from plugins.promotion import DEFAULTS, START, read_spec
from plugins.runs import RESOLVE
from plugins.settings import Addresses
from sluice.errors import SpecError
from sluice.spec import ReleaseSpec

DAG_PREFIX: Final = "calibrate__"
AGAINST: Final = "{{ ti.xcom_pull(task_ids='resolve')['against'] }}"
PROGRAM: Final = ("python", "-m", "calibration")


def calibration_dag(file: str) -> DAG:
    """The DAG of `dags/calibrate__<service>.py`, from `models/<service>.yaml` beside it.

    Raises SpecError or AddressesError with every problem: Airflow shows it as this file's import error.
    """
    name = Path(file).stem.removeprefix(DAG_PREFIX)
    return build_dag(read_spec(Path(file), name), Addresses.from_env(os.environ))


def moved_asset(service: str) -> Asset:
    """What other DAGs may wait for: an event says that the traffic of `service` has moved and scales are new."""
    return Asset(name=f"{service} calibration", uri=f"sluice://calibration/{service}")


def build_dag(spec: ReleaseSpec, addresses: Addresses) -> DAG:
    """The DAG of one service. Raises SpecError for a spec that says nothing of recordings."""
    if spec.recording is None or spec.recording.source is None:
        raise SpecError.of(
            "is needed to calibrate on recorded traffic: a folder, file or URI; or remove this DAG's file",
            path="recording.source",
        )
    with DAG(
        dag_id=f"{DAG_PREFIX}{spec.service}",
        description=f"Finds the INT8 scales of {spec.service} from its recorded traffic",
        schedule=spec.calibration.schedule,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        tags=["sluice", "calibration", f"service:{spec.service}"],
        doc_md=_doc(spec),
    ) as dag:
        common = {"service": spec.service, "addresses": addresses}
        resolve = NameDatasetOperator(task_id=RESOLVE, spec=spec)
        exporter = ("python", "-m", "build_images.exporter", "export")
        export = KubernetesPodOperator(
            **pods.step("export", image=spec.images.exporter, command=exporter, **common)
        )
        gather = _pod("gather", spec, common, command=(*PROGRAM, "gather"))
        drift = _pod("drift", spec, common, command=(*PROGRAM, "drift"), pre_execute=skip_without_earlier)
        drift.arguments = [*drift.arguments, "--against", AGAINST]
        moved = WhetherMovedOperator(task_id="moved", trigger_rule=TriggerRule.NONE_FAILED)
        calibrate = _pod("calibrate", spec, common, command=PROGRAM)
        accept = AcceptCalibrationOperator(task_id="accept", outlets=[moved_asset(spec.service)])
        chain(resolve, [export, gather], drift, moved, calibrate, accept)
    return dag


def _pod(
    task_id: str, spec: ReleaseSpec, common: dict[str, Any], *, command: tuple[str, ...], **more: Any
) -> KubernetesPodOperator:
    image = spec.images.calibration
    return KubernetesPodOperator(**pods.step(task_id, image=image, command=command, **common), **more)


def _doc(spec: ReleaseSpec) -> str:
    source = spec.recording.source if spec.recording else None
    return f"""### {spec.service}: INT8 scales from recorded traffic

`{source}` -> {spec.calibration.samples} samples that calibrate, {spec.numerics.samples} held out -> Great
Expectations -> has any tensor moved by more than {spec.calibration.drift_limit:g}? -> scales, for every architecture.

Nothing moved: the run ends green after `moved`, and promotions go on with the scales there are. Otherwise the new
ones are accepted, and the asset `sluice://calibration/{spec.service}` has an event that names the tensors.
"""

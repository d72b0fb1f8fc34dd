"""The DAG factory: one release spec becomes one DAG.

Problem: five models must not be five programs, and one wrong spec must not take the other models down. Invariants:
a spec's problems are the import error of its own file, all at once; the graph depends on the spec alone, never on a
run; only `open_*` raises traffic, `settle` (a teardown) runs whatever happened, and `verdict` is the only leaf. There
is no `dagrun_timeout`: it would skip the teardowns; pods, reviews and gates carry limits of their own.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule, chain
from airflow.sdk.exceptions import AirflowSkipException

from plugins import pods, reviews
from plugins.endings import PASSED
from plugins.operators.deploy import DeployOperator
from plugins.operators.open_stage import OpenStageOperator
from plugins.operators.register import RegisterOperator
from plugins.operators.resolve import ResolveOperator
from plugins.operators.settle import SettleOperator
from plugins.operators.verdict import VerdictOperator
from plugins.params import form
from plugins.runs import DEPLOY, REGISTER, RESOLVE, SETTLE, facts_of, release_of
from plugins.sensors.gate import GateSensor
from plugins.settings import Addresses
from sluice.errors import SpecError
from sluice.spec import ReleaseSpec, parse_spec

DAG_PREFIX: Final = "promote__"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)  # the past: a cron schedule needs some beginning
DEFAULTS: Final[dict[str, Any]] = {"retries": 3, "retry_delay": timedelta(seconds=15), "owner": "sluice"}
SETTLE_RETRIES: Final = 40  # with MLflow or the controller away for ten minutes it still gets done


def promotion_dag(file: str) -> DAG:
    """The DAG of `dags/promote__<service>.py`, from `models/<service>.yaml` beside it.

    Raises SpecError or AddressesError with every problem: Airflow shows it as this file's import error.
    """
    name = Path(file).stem.removeprefix(DAG_PREFIX)
    return build_dag(read_spec(Path(file), name), Addresses.from_env(os.environ))


def read_spec(file: Path, name: str) -> ReleaseSpec:
    """The spec of service `name`, beside the DAG's file. Raises SpecError."""
    path = file.with_name("models") / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError.of(f"{path}: {error.strerror}") from error
    spec = parse_spec(text, os.environ)
    if spec.service != name:
        raise SpecError.of(f"must be {name}, as the files are named", path="service", value=spec.service)
    return spec


def build_dag(spec: ReleaseSpec, addresses: Addresses) -> DAG:
    """The DAG of one service."""
    with DAG(
        dag_id=f"{DAG_PREFIX}{spec.service}",
        description=f"Promotes {spec.service} from checkpoint to 100 % of live traffic",
        schedule=spec.schedule,
        start_date=START,
        catchup=False,
        max_active_runs=2,
        params=form(spec),
        default_args=DEFAULTS,
        tags=["sluice", "promotion", f"service:{spec.service}"],
        doc_md=_doc(spec),
    ) as dag:
        deploy = _offline(spec, addresses)
        last = _online(spec, deploy)
        passed = EmptyOperator(task_id=PASSED)
        patient = {"retries": SETTLE_RETRIES, "execution_timeout": timedelta(minutes=15)}
        settle = SettleOperator(task_id=SETTLE, spec=spec, **patient).as_teardown()
        verdict = VerdictOperator(task_id="verdict", retries=1).as_teardown(on_failure_fail_dagrun=True)
        chain(last, passed, settle, verdict)
    return dag


def _offline(spec: ReleaseSpec, addresses: Addresses) -> DeployOperator:
    """From checkpoint to pods without traffic; the last task of it."""
    common = {"service": spec.service, "addresses": addresses}
    exporter = ("python", "-m", "build_images.exporter")
    images = spec.images
    export = KubernetesPodOperator(
        **pods.step("export", image=images.exporter, command=(*exporter, "export"), **common)
    )
    validate = KubernetesPodOperator(
        **pods.step("validate_numerics", image=images.exporter, command=(*exporter, "validate"), **common)
    )
    calibrate = KubernetesPodOperator(
        **pods.step("calibrate", image=images.calibration, command=("python", "-m", "calibration"), **common),
        pre_execute=skip_without_int8,
    )
    build = KubernetesPodOperator.partial(
        **pods.build(**common), trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    ).expand_kwargs([pods.build_target(target) for target in spec.targets])
    register = RegisterOperator(
        task_id=REGISTER,
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,  # an optional target that was not built is skipped
        execution_timeout=timedelta(minutes=30),
    )
    deploy = DeployOperator(task_id=DEPLOY, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    resolve = ResolveOperator(task_id=RESOLVE, spec=spec)
    chain(resolve, export, validate, calibrate, build, register, deploy)
    validate >> build
    if reviews.DEPLOY in spec.review.before:
        asked = reviews.review_task(reviews.DEPLOY, spec.review, service=spec.service, gate_before=None)
        chain(register, asked, deploy)
    return deploy


def _online(spec: ReleaseSpec, deploy: Any) -> Any:
    """Open and gate for each stage, a review before where the spec asks; the last gate."""
    before, gate_before = deploy, None
    for index, stage in enumerate(spec.stages):
        percent = stage.percent
        if percent in spec.review.before:
            asked = reviews.review_task(percent, spec.review, service=spec.service, gate_before=gate_before)
            before >> asked
            before = asked
        opened = OpenStageOperator(
            task_id=f"open_{percent}",
            stage=index,
            percent=percent,
            last=index == len(spec.stages) - 1,
            trigger_rule=TriggerRule.NONE_FAILED,  # a first deployment skips the stages before the last
        )
        gate = GateSensor(
            task_id=f"gate_{percent}", stage=index, percent=percent, max_hold_s=spec.gates.max_hold_s
        )
        chain(before, opened, gate)
        before, gate_before = gate, gate.task_id
    return before


def skip_without_int8(context: Any) -> None:
    """Calibration is for INT8 alone. Raises AirflowSkipException when this run asks for none."""
    precisions = release_of(facts_of(context)).spec.precisions
    if "int8" not in precisions:
        raise AirflowSkipException(f"no INT8 among the precisions of this run ({', '.join(precisions)})")


def _doc(spec: ReleaseSpec) -> str:
    stages = " -> ".join(f"{stage.percent} %" for stage in spec.stages)
    targets = "\n".join(
        f"- `{target.arch}` ({target.backend}, {target.share:.0%} of the users, {target.replicas} replicas)"
        for target in spec.targets
    )
    asked = ", ".join(str(point) for point in spec.review.before) or "nobody is asked"
    absolute = "".join(f", {gate.name} (absolute, {gate.on_breach})" for gate in spec.gates.absolute)
    return f"""### {spec.service}

Newest checkpoint of `{spec.model.source}` -> ONNX -> numerics -> engines -> MLflow -> traffic {stages}.

{targets}

Gates: {", ".join(spec.gates.metrics)}, alpha {spec.gates.alpha:g}{absolute}. Reviews before: {asked}.

A failed task alone leaves traffic where it is: clear it, with all that is downstream, to go on. To take traffic back
at once, mark the run as failed while it goes on. A run that has ended, `held`, hears no mark any more: clear its failed
task first, with all that is downstream, then mark the run as failed; or send the controller
`POST /v1/rollouts/<id>/retreat`.
"""

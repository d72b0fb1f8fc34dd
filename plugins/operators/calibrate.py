"""The tasks of a calibration that are no pods: which dataset, whether it has moved, and the acceptance.

Invariants: what a run names it names once, so that a retry reads the same artifacts; "moved" is only ever what the
`drift` artifact says, and no artifact is a failure; a calibration is accepted after it is in the store, never before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowSkipException

from artifacts.calibrations import Accepted, Calibrations
from artifacts.pods import load_release
from plugins.operators.base import SluiceOperator
from plugins.operators.resolve import find_checkpoint, publish_checkpoint, publish_release
from plugins.runs import RESOLVE, open_store, run_label
from sluice.errors import FatalError
from sluice.release import CalibratedOn, Params, Release, dataset_key, drift_key
from sluice.spec import ReleaseSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

WHY_KEY: Final = "why"  # XCom of moved: what the asset event says
SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFacts:
    """What `resolve` recorded. document: digest of release.json. against: the calibration in use, if there is one."""

    service: str
    document: str
    dataset: str
    against: str | None
    run_label: str

    def to_xcom(self) -> dict[str, Any]:
        return asdict(self)


def facts_of(context: Mapping[str, Any]) -> CalibrationFacts:
    """This run's facts. Raises FatalError when `resolve` recorded none."""
    recorded = context["ti"].xcom_pull(task_ids=RESOLVE)
    if recorded is None:
        raise FatalError("task resolve recorded nothing for this run", "clear resolve, or trigger a new run")
    return CalibrationFacts(**recorded)


class NameDatasetOperator(SluiceOperator):
    """Publishes a release of the newest checkpoint that names this run's dataset. XCom: `CalibrationFacts`."""

    ui_color = "#e8f0fe"

    def __init__(self, *, spec: ReleaseSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def run(self, context: Context) -> dict[str, Any]:
        store, label = open_store(), run_label(context["run_id"])
        asked = self.spec.model_copy(update={"precisions": ("int8",)})  # whatever promotions ask for
        current = Calibrations(store).serving(asked)
        folder = find_checkpoint(Path(self.spec.model.source), None)
        on = CalibratedOn(dataset=dataset_key(self.spec, label))
        release = Release(self.spec, publish_checkpoint(store, folder), Params(), on)
        publish_release(store, release, folder.name)
        against = None if current is None else current.calibration
        said = "nothing yet" if against is None else against[:12]
        self.log.info("checkpoint %s, dataset %s, compared with %s", folder, on.dataset[:12], said)
        return CalibrationFacts(
            service=self.spec.service,
            document=release.document_sha256,
            dataset=on.dataset,
            against=against,
            run_label=label,
        ).to_xcom()


def skip_without_earlier(context: Any) -> None:
    """There is nothing to compare a first dataset with. Raises AirflowSkipException."""
    if facts_of(context).against is None:
        raise AirflowSkipException(
            "nothing was calibrated on recorded traffic before: nothing to compare with"
        )


class WhetherMovedOperator(SluiceOperator, SkipMixin):
    """Skips what follows where the scales in use still fit. XCom `why`: what moved, for the event."""

    ui_color = "#fef7e0"

    def run(self, context: Context) -> str:
        facts, store = facts_of(context), open_store()
        if facts.against is None:
            return self._go_on(
                context, {"moved": {}, "why": "there was no calibration on recorded traffic yet"}
            )
        release = load_release(store, facts.document)
        key = drift_key(release, facts.against)
        drift = store.get("drift", key).facts
        if not isinstance(drift.get("valid"), bool):
            raise FatalError(
                f"drift {key[:12]} says nothing of valid", "remove it from the store and clear the task drift"
            )
        if drift["valid"] is not True:
            return self._go_on(context, {"moved": drift["moved"], "why": drift["why"]})
        worst = drift["worst"]
        why = (
            f"no tensor moved: {worst['tensor']} is farthest, {worst['divergence']:.2g} of {drift['limit']:g}"
        )
        self.log.info("%s; the calibration in use stays: %s", why, facts.against[:12])
        self.skip(ti=context["ti"], tasks=list(self.get_flat_relatives(upstream=False)))
        return why

    def _go_on(self, context: Context, found: Mapping[str, Any]) -> str:
        context["ti"].xcom_push(key=WHY_KEY, value=dict(found))
        self.log.info("%s: scales are found anew", found["why"])
        return str(found["why"])


class AcceptCalibrationOperator(SluiceOperator):
    """From now on promotions calibrate on this run's dataset. Emits the asset event. XCom: `Accepted`."""

    ui_color = "#e6f4ea"

    def run(self, context: Context) -> dict[str, str]:
        facts, store = facts_of(context), open_store()
        release = load_release(store, facts.document)
        store.get("calibration", release.keys.calibration)  # every digest is compared before anybody uses it
        accepted = Accepted(dataset=facts.dataset, calibration=release.keys.calibration)
        Calibrations(store).accept(facts.service, accepted)
        found = context["ti"].xcom_pull(task_ids="moved", key=WHY_KEY) or {}
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {**asdict(accepted), "against": facts.against, **found}
        self.log.info("%s calibrates on dataset %s", facts.service, facts.dataset[:12])
        return asdict(accepted)

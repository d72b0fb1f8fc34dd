"""From spec and form to one immutable release, and to the controller's leave to promote it.

Problem: two runs that both believe they promote a service, and a nightly run that fails because there is nothing
new. Invariants: the release and its checkpoint are in the store before anybody is asked; the controller decides who
may run; asking again with the same run gives the same rollout, so that a retry takes over nothing.

A sensor in reschedule mode, because `on_active: wait` may wait for days without a worker slot.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import BaseSensorOperator, PokeReturnValue

from artifacts.calibrations import Calibrations
from artifacts.store import Store, tree_sha256
from plugins.hooks.controller import (
    CONNECTION_ID,
    ActiveRolloutError,
    AlreadyStableError,
    ControllerConflictError,
    ControllerHook,
    TurnedBackError,
)
from plugins.params import from_form
from plugins.runs import SKIPPED_KEY, RunFacts, airflow_errors, open_store, run_label
from sluice.errors import FatalError
from sluice.release import CalibratedOn, Release
from sluice.spec import ReleaseSpec
from sluice.stages import LIVE, State

if TYPE_CHECKING:
    from airflow.sdk import Context

WAIT_POLL_S = 30.0
WAIT_TIMEOUT_S = 7 * 86_400.0


class ResolveOperator(BaseSensorOperator, SkipMixin):
    """Publishes the release and begins its rollout. XCom: `RunFacts`."""

    ui_color = "#e8f0fe"

    def __init__(self, *, spec: ReleaseSpec, controller_conn_id: str = CONNECTION_ID, **kwargs: Any) -> None:
        kwargs = {"mode": "reschedule", "poke_interval": WAIT_POLL_S, "timeout": WAIT_TIMEOUT_S, **kwargs}
        super().__init__(**kwargs)
        self.spec = spec
        self.controller_conn_id = controller_conn_id

    def poke(self, context: Context) -> PokeReturnValue | bool:
        with airflow_errors():
            try:
                return self._begin(context)
            except ActiveRolloutError as error:
                if error.same_release:
                    return self._nothing_new(context, error)
                if self.spec.on_active != "wait":
                    raise
                self.log.info("waiting for rollout %s: %s", error.running.get("rollout"), error.message)
                return False
            except (AlreadyStableError, TurnedBackError) as error:
                return self._nothing_new(context, error)

    def _begin(self, context: Context) -> PokeReturnValue:
        release = self._publish(context)
        body = {
            "service": release.spec.service,
            "release_digest": release.digest,
            "run_id": context["run_id"],
            "policy": release.spec.policy(),
            "on_active": release.spec.on_active,
        }
        if release.params.retry_reason is not None:
            body["retry_reason"] = release.params.retry_reason
        rollout = ControllerHook(self.controller_conn_id).get_conn().create(body)
        _check(rollout, release)
        facts = RunFacts(
            service=release.spec.service,
            digest=release.digest,
            document=release.document_sha256,
            rollout=rollout["id"],
            epoch=rollout["epoch"],
            straight=bool(rollout["first_deployment"]),
            run_label=run_label(context["run_id"]),
        )
        self.log.info("rollout %s of release %s: %s", facts.rollout, facts.digest[:12], rollout["state"])
        return PokeReturnValue(is_done=True, xcom_value=facts.to_xcom())

    def _publish(self, context: Context) -> Release:
        """Checkpoint and release.json, both under their digests; what is there already is left alone."""
        params = from_form(context["params"])
        _check_reviews(self.spec, params.review)
        store = open_store()
        folder = find_checkpoint(Path(self.spec.model.source), params.checkpoint)
        digest = publish_checkpoint(store, folder)
        release = Release(self.spec, digest, params, calibrated_on(store, params.apply(self.spec)))
        publish_release(store, release, folder.name)
        self.log.info("checkpoint %s (%s) makes release %s", folder, digest[:12], release.digest)
        return release

    def _nothing_new(self, context: Context, error: ControllerConflictError) -> bool:
        """A nightly run skips what was here before; a person who asked for it is told."""
        if not _scheduled(context):
            raise error
        return self._skip_run(context, f"nothing to promote: {error.message}")

    def _skip_run(self, context: Context, why: str) -> bool:
        """End the run green: say why, and skip everything but the teardowns, which write the note."""
        self.log.info(why)
        ti = context["ti"]
        ti.xcom_push(key=SKIPPED_KEY, value=why)
        rest = [task for task in self.get_flat_relatives(upstream=False) if not task.is_teardown]
        self.skip(ti=ti, tasks=rest)
        return True


def find_checkpoint(source: Path, name: str | None) -> Path:
    """The checkpoint folder called `name`, or the newest: the greatest name. Raises FatalError."""
    advice = "put a checkpoint folder there (mount it on every worker), or correct model.source in the spec"
    if not source.is_dir():
        raise FatalError(f"model.source {source} is no folder on this worker", advice)
    found = sorted(path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise FatalError(f"model.source {source} holds no checkpoint folder", advice)
    if name is None:
        return source / found[-1]
    if name not in found:
        shown = ", ".join(found[-5:])
        raise FatalError(
            f"params.checkpoint {name!r} is not in {source}; newest there: {shown}", "name one of those"
        )
    return source / name


def _check(rollout: dict[str, Any], release: Release) -> None:
    """The rollout that this run got before must still be live, and of this very release."""
    if State(rollout["state"]) not in LIVE:
        ended = f"{rollout['state']}: {rollout.get('reason') or 'no reason given'}"
        raise FatalError(f"rollout {rollout['id']} of this run has ended ({ended})", "trigger a new run")
    if rollout["release_digest"] != release.digest:
        raise FatalError(
            f"rollout {rollout['id']} of this run is for release {rollout['release_digest'][:12]}, and spec, form "
            f"and checkpoint now make {release.digest[:12]}",
            "trigger a new run",
        )


def _check_reviews(spec: ReleaseSpec, review: tuple[int | str, ...] | None) -> None:
    """A run may ask for fewer reviews than the spec, never for one that the DAG has no task for."""
    unknown = [point for point in review or () if point not in spec.review.before]
    if unknown:
        raise FatalError(
            f"params.review = {unknown}: the spec has no review there ({list(spec.review.before)})",
            "add it to review.before in the spec",
        )


def calibrated_on(store: Store, spec: ReleaseSpec) -> CalibratedOn | None:
    """The recorded dataset that was accepted last and serves this spec, and its ranges.

    None: the checkpoint's own samples calibrate. So it is after a change of inputs, axes or sizes, until the DAG that
    calibrates has run again.
    """
    current = Calibrations(store).serving(spec)
    return None if current is None else CalibratedOn(dataset=current.dataset, reuse=current.calibration)


def publish_release(store: Store, release: Release, checkpoint: str) -> None:
    """`release.json` under its digest. checkpoint: name of the folder, for people."""
    if store.has("release", release.document_sha256):
        return
    with store.staged("release", release.document_sha256) as draft:
        (draft.path / "release.json").write_text(release.to_json(), encoding="utf-8")
        draft.publish({"service": release.spec.service, "checkpoint": checkpoint})


def publish_checkpoint(store: Store, folder: Path) -> str:
    """Copy the folder into the store under the digest of its files; the digest."""
    digest = tree_sha256(folder)
    store.publish_tree("checkpoint", digest, folder, {"source": str(folder)})
    return digest


def _scheduled(context: Context) -> bool:
    return str(context["dag_run"].run_type).rpartition(".")[2].lower() == "scheduled"

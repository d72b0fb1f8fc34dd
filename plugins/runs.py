"""What the tasks of one run know of each other, and how our errors become Airflow's.

Problem: a task that guesses which rollout is its own moves somebody else's traffic. Invariant: every task gets the
rollout, its epoch and the release from what `resolve` recorded for this very run, and stops without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from airflow.sdk.exceptions import AirflowFailException

from artifacts.pods import MENDABLE, load_release
from artifacts.store import Store
from plugins.settings import store_root
from sluice.digest import sha256_bytes
from sluice.errors import FatalError, RetryableError
from sluice.release import Release

RESOLVE: Final = "resolve"
BUILD: Final = "build"
REGISTER: Final = "register"
DEPLOY: Final = "deploy"
SETTLE: Final = "settle"
SKIPPED_KEY: Final = "skipped"  # XCom of resolve: why a scheduled run promotes nothing
NOTE_KEY: Final = "note"  # XCom of settle: the run's note, Markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What `resolve` recorded: the release and the rollout that this run may move.

    digest: of what is served; document: of the whole release.json; 64 hex digits each. rollout: the controller's id.
    epoch: names every write. straight: a first deployment with nothing to compare with: only the last stage is opened.
    run_label: the run as a label of Kubernetes.
    """

    service: str
    digest: str
    document: str
    rollout: str
    epoch: int
    straight: bool
    run_label: str

    def to_xcom(self) -> dict[str, Any]:
        return asdict(self)


def find_facts(context: Mapping[str, Any]) -> RunFacts | None:
    """This run's facts; None when `resolve` did not get so far."""
    recorded = context["ti"].xcom_pull(task_ids=RESOLVE)
    return None if recorded is None else RunFacts(**recorded)


def facts_of(context: Mapping[str, Any]) -> RunFacts:
    """This run's facts. Raises FatalError when `resolve` recorded none."""
    facts = find_facts(context)
    if facts is None:
        raise FatalError(
            "task resolve recorded no rollout for this run", "clear resolve, or trigger a new run"
        )
    return facts


def open_store() -> Store:
    return Store(store_root(os.environ))


def release_of(facts: RunFacts) -> Release:
    """The release as `resolve` published it. Raises what the store raises when it is missing or damaged."""
    return load_release(open_store(), facts.document)


def run_label(run_id: str) -> str:
    """A run id as a label value: at most 63 letters, digits, `-`, `_` and `.`, and still its own."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id).strip("-_.")
    if plain == run_id and len(plain) <= 63:
        return plain
    return f"{plain[:50]}-{sha256_bytes(run_id.encode())[:10]}".lstrip("-_.")


def actor(context: Mapping[str, Any], task: str | None = None) -> str:
    """Who writes into the ledger: this task of this run, or `task` of it."""
    ti = context["ti"]
    return f"airflow:{ti.dag_id}:{ti.run_id}:{task or ti.task_id}"


@contextmanager
def airflow_errors() -> Iterator[None]:
    """What a retry cannot mend fails the task for good; a full disk and its kind are worth a retry."""
    try:
        yield
    except FatalError as error:
        raise AirflowFailException(str(error)) from error
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        raise RetryableError(
            f"{error.filename or 'the artifact store'}: {error.strerror}",
            "free some space in the folder of SLUICE_STORE; the task tries again by itself",
        ) from error

"""The run's last word: red unless the rollout was promoted or there was nothing to promote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow.sdk.exceptions import AirflowFailException

from plugins.operators.base import SluiceOperator
from plugins.runs import SETTLE

if TYPE_CHECKING:
    from airflow.sdk import Context

GREEN: Final = frozenset({"promoted", "skipped"})


class VerdictOperator(SluiceOperator):
    """Fails the run with the recorded verdict; reads nothing but what `settle` recorded."""

    ui_color = "#fce8e6"

    def run(self, context: Context) -> str:
        settled = context["ti"].xcom_pull(task_ids=SETTLE)
        if not settled:
            raise AirflowFailException("settle recorded nothing: clear settle, it asks the ledger again")
        line = f"{settled['outcome']}: {settled['reason']}"
        if settled["outcome"] not in GREEN:
            raise AirflowFailException(line)
        self.log.info(line)
        return line

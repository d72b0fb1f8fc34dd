"""What all operators of ours share: one place where errors turn into "again" or "for good"."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from plugins.runs import airflow_errors

if TYPE_CHECKING:
    from airflow.sdk import Context


class SluiceOperator(BaseOperator):
    """An operator whose `run` raises the errors of `sluice.errors`."""

    def execute(self, context: Context) -> Any:
        with airflow_errors():
            return self.run(context)

    @abstractmethod
    def run(self, context: Context) -> Any:
        """Do the work. FatalError fails the task for good, RetryableError leaves it to the task's retries."""

"""Great Expectations over one table: a verdict, what failed by name, and the page that a person reads.

Problem: most expectations hold on an empty table, and take NaN for "nothing to check". Invariant of every suite that
comes here: it states how many rows there are, what they cover, and that no number is missing, before any limit.

Import it where a table is judged, not at a module's top: Great Expectations takes seconds. `gxe` comes from here,
because nothing may import the package before its telemetry is off.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Read at import: no telemetry leaves a pod or a worker.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.row_conditions import Column

__all__ = ["Column", "gxe", "judged"]

BLAMED = 5  # rows that a message names
SHOWN = 120  # characters of what was observed


def judged(
    rows: Sequence[Mapping[str, Any]],
    *,
    name: str,
    columns: Sequence[str],
    named_by: Sequence[str],
    expectations: Sequence[Any],
    docs: Path,
) -> tuple[bool, str]:
    """(passed, which expectations failed, and the rows to blame) of the table; Data Docs are written under `docs`.

    name: of the table and the suite, as the page shows it. columns: of the table, also when it has no rows.
    named_by: the columns that tell a reader which row is meant. expectations: of `gxe`.
    """
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.add_data_docs_site("local", _site(docs))
    asset = context.data_sources.add_pandas(name).add_dataframe_asset("table")
    data = asset.add_batch_definition_whole_dataframe("whole")
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=data, suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": list(named_by)},
    )
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(columns))
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    return bool(result.success), "; ".join(_failed(result))


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _failed(result: Any) -> list[str]:
    """`expect_column_values_to_be_between(cosine): arch=sm_80` of every expectation that did not hold."""
    return [
        f"{one.expectation_config.type}({_column(one.expectation_config.kwargs)}){_blamed(one)}"
        for run in result.run_results.values()
        for one in run.results
        if not one.success
    ]


def _blamed(one: Any) -> str:
    """The first rows that did not fit, by the columns that name them; else what was observed instead."""
    found = one.result or {}
    column = one.expectation_config.kwargs.get("column")
    rows = found.get("unexpected_index_list") or []
    if rows:
        named = [" ".join(f"{name}={value}" for name, value in row.items() if name != column) for row in rows]
        more = f" and {len(named) - BLAMED} more" if len(named) > BLAMED else ""
        return f": {', '.join(named[:BLAMED])}{more}"
    observed = found.get("observed_value")
    return "" if observed is None else f": {_short(observed)}"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _column(kwargs: Mapping[str, Any]) -> str:
    return str(kwargs.get("column") or kwargs.get("column_A") or "table")

"""Great Expectations judges the numerics table and writes the page that a person reads.

Problem: most expectations hold on an empty table, and take NaN for "nothing to check". Invariant: the suite
states how many rows there are, which outputs and shapes they cover, and that no number is missing, before it
states any limit.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_images.exporter.table import COLUMNS
from sluice.spec import Numerics

# Read at import: no telemetry leaves a build pod.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig


def judge(
    table: Sequence[dict[str, Any]],
    limits: Numerics,
    *,
    outputs: Sequence[str],
    shapes: Sequence[str],
    docs: Path,
) -> tuple[bool, str]:
    """(passed, which expectations failed) of the table; Data Docs are written under `docs`."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.add_data_docs_site("local", _site(docs))
    asset = context.data_sources.add_pandas("numerics").add_dataframe_asset("table")
    data = asset.add_batch_definition_whole_dataframe("whole")
    suite = context.suites.add(
        gx.ExpectationSuite(name="numerics", expectations=_suite(limits, outputs, shapes))
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="numerics", data=data, suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name="numerics",
        validation_definitions=[definition],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["output", "shape"]},
    )
    frame = pd.DataFrame(list(table), columns=list(COLUMNS))
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    return bool(result.success), "; ".join(_failed(result))


def _suite(limits: Numerics, outputs: Sequence[str], shapes: Sequence[str]) -> list[Any]:
    numbers = ("max_abs", "max_rel", "cosine")
    return [
        gxe.ExpectTableRowCountToEqual(value=len(outputs) * len(shapes)),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="output", value_set=sorted(outputs)),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="shape", value_set=sorted(shapes)),
        gxe.ExpectColumnValuesToBeInSet(column="names_equal", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="shapes_equal", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="values", min_value=1),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in numbers),
        gxe.ExpectColumnValuesToBeBetween(column="max_abs", min_value=0, max_value=limits.max_abs),
        gxe.ExpectColumnValuesToBeBetween(column="max_rel", min_value=0, max_value=limits.max_rel),
        gxe.ExpectColumnValuesToBeBetween(column="cosine", min_value=limits.cosine),
    ]


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _failed(result: Any) -> list[str]:
    """`expect_column_values_to_be_between(cosine)` of every expectation that did not hold."""
    return [
        f"{one.expectation_config.type}({one.expectation_config.kwargs.get('column', 'table')})"
        for run in result.run_results.values()
        for one in run.results
        if not one.success
    ]

"""Features of some contexts at some times, computed in this process without writing anything: for trying encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from delorean.generation.bucket_task import bucket_features, match_elements, unserved_elements
from delorean.generation.generation_plan import plan_generation
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, LabelColumns
from delorean.labels.materialise import group_labels
from delorean.state.rules import AsOf
from delorean.step_timer import StepTimer
from encoders.feature_model import Encoders, FeatureModel
from schemas.errors import LabelError
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

_NEVER = pa.scalar(datetime(9999, 12, 31, tzinfo=UTC), TIME)  # later than any time


def preview_features(
    rows: Any,
    encoders: Encoders,
    index: SnapshotIndex,
    storage: Storage,
    columns: LabelColumns,
    rules: Mapping[str, AsOf] | None = None,
) -> pa.Table:
    """Encode rows from the state as of their own times: the columns of a feature set, as a table.

    rows: anything Arrow reads: contexts, times and items, one row for each item or grouped. Labels and outcomes may be
        missing
    columns: their roles
    rules: element's name → as-of rule
    """
    table, columns, added = _with_outcomes(rows, columns)
    labels, grouped = group_labels(table, columns)
    planned = partial(plan_generation, labels, FeatureModel(encoders), index, storage.uri, rules)
    plan = planned(paged=True)
    elements = match_elements(plan, grouped, 0, storage)
    while more := unserved_elements(elements):
        plan = planned(pinned=plan.pinned, more=more)
        elements = match_elements(plan, grouped, 0, storage)
    return bucket_features(plan, grouped, elements, StepTimer()).table.drop_columns(added)


def _with_outcomes(rows: Any, columns: LabelColumns) -> tuple[pa.Table, LabelColumns, list[str]]:
    """Return rows whose outcomes are not missing where there are labels, their roles, and what to drop at the end."""
    try:
        table = pa.table(rows)
    except Exception as error:  # each frame library raises errors of its own
        raise LabelError.because(f"rows are a {type(rows).__name__}, expected what Arrow reads: {error}") from error
    missing = [name for name in (*columns.items, columns.time) if name not in table.column_names]
    if missing:
        raise LabelError.unknown("column of the rows", missing[0], table.column_names)
    if not set(columns.label_names.values()) <= set(table.column_names):
        kept = [name for name in table.column_names if name not in (columns.outcome_at, *columns.label_names.values())]
        return table.select(kept), replace(columns, label=LABEL_COLUMN, labels=()), []
    if columns.label_names and columns.outcome_at not in table.column_names:
        return table.append_column(columns.outcome_at, pa.repeat(_NEVER, table.num_rows)), columns, [OUTCOME_COLUMN]
    return table, columns, []

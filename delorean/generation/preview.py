"""Features of some contexts at some times, computed in this process without writing anything: for trying encoders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from delorean.generation.bucket_task import bucket_features
from delorean.generation.generation_plan import plan_generation
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, LabelColumns
from delorean.labels.materialise import group_labels
from delorean.state.rules import AsOf
from delorean.step_timer import StepTimer
from encoders.feature_model import Encoders, FeatureModel
from schemas.errors import LabelError
from schemas.nested_types import is_list
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
    table, added = _with_outcomes(rows, columns)
    labels, grouped = group_labels(table, columns)
    plan = plan_generation(labels, FeatureModel(encoders), index, storage.uri, rules)
    features = bucket_features(plan, grouped, 0, storage, StepTimer()).table
    return features.drop_columns(added)


def _with_outcomes(rows: Any, columns: LabelColumns) -> tuple[pa.Table, list[str]]:
    """Add the missing columns of labels and outcomes, which are dropped again from the result."""
    try:
        table = pa.table(rows)
    except Exception as error:  # each frame library raises errors of its own
        raise LabelError.because(f"rows are a {type(rows).__name__}, expected what Arrow reads: {error}") from error
    missing = [name for name in (*columns.items, columns.time) if name not in table.column_names]
    if missing:
        raise LabelError.unknown("column of the rows", missing[0], table.column_names)
    added = []
    if columns.label not in table.column_names:
        items = table[columns.items[0]]
        grouped = is_list(items.type)
        none = [[0.0] * n for n in pc.list_value_length(items).to_pylist()] if grouped else [0.0] * len(items)
        table = table.append_column(columns.label, pa.array(none))
        added.append(LABEL_COLUMN)
    if columns.outcome_at not in table.column_names:
        table = table.append_column(columns.outcome_at, pa.repeat(_NEVER, table.num_rows))
        added.append(OUTCOME_COLUMN)
    return table, added

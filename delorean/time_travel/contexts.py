"""The contexts of time travel: the experiments that chose them, and their distinct keys."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from snapshotter.records import ContextGroup
from snapshotter.selection.context_sets import read_contexts
from snapshotter.storage import Storage

EXPERIMENT_COLUMN = "__experiment"  # no context variable is named so
STRATUM_COLUMN = "__stratum"


def read_chosen_contexts(group: ContextGroup, storage: Storage, experiment: str | None = None) -> pa.Table:
    """Return a row for each context and experiment that chose it, with the context's key and the stratum.

    experiment: only those that this one chose
    """
    contexts = read_contexts(group, storage)
    chosen_by = contexts["experiments"].combine_chunks()
    choices = chosen_by.flatten()
    names = pc.struct_field(choices, "experiment")
    rows = contexts.drop_columns("experiments").take(pc.list_parent_indices(chosen_by))
    rows = rows.append_column(EXPERIMENT_COLUMN, names)
    rows = rows.append_column(STRATUM_COLUMN, pc.struct_field(choices, "stratum"))
    return rows if experiment is None else rows.filter(pc.equal(names, experiment))


def distinct_keys(keys: pa.Table) -> pa.Table:
    """Return each key once, sorted; keys with a null never match anything and are left out."""
    keys = keys.drop_null()
    return keys.group_by(keys.column_names).aggregate([]).sort_by([(name, "ascending") for name in keys.column_names])

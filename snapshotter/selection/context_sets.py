"""Reads context sets from a storage, without Spark, which only their selection needs."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from schemas.data_keys import DataKey
from snapshotter.records import ContextSet
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_SELECTED_BY = pa.list_(
    pa.struct([("experiment", pa.string()), ("stratum", pa.string()), ("probability", pa.float64())])
)


def read_context_set(context_set: ContextSet, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the contexts: their key, and `experiments` that selected them, in which stratum and how probably."""
    schema = context_set_schema(context_set.key)
    empty = schema.empty_table().select(list(columns or schema.names))
    return pa.concat_tables([empty, *(read_parquet(storage, file, columns) for file in context_set.files)])


def context_set_schema(key: Sequence[DataKey]) -> pa.Schema:
    """Return the columns of a context set's files."""
    return pa.schema([*((variable.name, variable.type) for variable in key), ("experiments", _SELECTED_BY)])

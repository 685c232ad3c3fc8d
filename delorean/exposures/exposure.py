"""One answered ranking, as the exposure log keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.columns import one_array


@dataclass(frozen=True)
class Exposure:
    """What one request was shown.

    time: microseconds since the epoch, as the answer states it
    test, cell: None outside tests
    package: digest of the package that ranked
    context: one row, with a column per variable
    items: the shown items in their order, with a column per variable
    positions: (shown,) of each among the request's candidates
    scores: (shown,)
    propensities: (shown,) probability of each to be shown at its place; None where unknown
    team: (shown,) of an interleaved ranking: 0 or 1, the ranker that earns the item's credit, −1: neither
    seed: of a random ranking
    """

    request_id: str
    time: int
    test: str | None
    cell: str | None
    package: str
    task_type: str | None
    context: pa.Table
    items: pa.Table
    positions: NDArray[np.int32]
    scores: NDArray[np.float32]
    propensities: NDArray[np.float64] | None
    team: NDArray[np.int8] | None = None
    seed: int | None = None

    def __len__(self) -> int:
        """Return the number of shown items."""
        return len(self.positions)


def exposure_table(rows: Sequence[Exposure], schema: pa.Schema) -> pa.Table:
    """Return exposures as a table of a schema that `exposures_schema` gave."""
    offsets = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    columns = []
    for field in schema:
        if field.name == "context":
            columns.append(_struct(pa.concat_tables(row.context for row in rows), field.type))
        elif field.name == "items":
            items = pa.concat_tables(row.items for row in rows)
            lists = [pa.ListArray.from_arrays(offsets, one_array(column)) for column in items.columns]
            columns.append(_struct(pa.table(lists, names=items.column_names), field.type))
        elif pa.types.is_list(field.type):
            columns.append(_lists([getattr(row, field.name) for row in rows], field.type))
        else:
            columns.append(pa.array((getattr(row, field.name) for row in rows), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _struct(columns: pa.Table, type_: pa.StructType) -> pa.StructArray:
    arrays = [one_array(columns[field.name]).cast(field.type) for field in type_]
    return pa.StructArray.from_arrays(arrays, fields=list(type_))


def _lists(values: Iterable[NDArray[Any] | None], type_: pa.ListType) -> pa.ListArray:
    return pa.array(values, type_, from_pandas=False)

"""The trees of a package: an Arrow file with one row, a list for each array and a value for each number."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from delorean.packaging.golden_rows import read_arrow, write_arrow
from delorean.scoring.trees import TreeEnsemble
from schemas.errors import PackageError

TREES = "trees.arrow"

_TYPES = {
    "features": pa.int64(),
    **dict.fromkeys(("node_offsets", "leaf_offsets", "feature", "left", "right"), pa.list_(pa.int32())),
    **dict.fromkeys(("category_set", "category_offsets"), pa.list_(pa.int32())),
    **dict.fromkeys(("threshold", "categories"), pa.list_(pa.float32())),
    **dict.fromkeys(("missing_left", "zero_missing"), pa.list_(pa.bool_())),
    "leaf_values": pa.list_(pa.float64()),
    **dict.fromkeys(("base", "divisor", "scale"), pa.float64()),
    "single": pa.bool_(),
    **dict.fromkeys(("link", "rounding"), pa.string()),
}
_SCHEMA = pa.schema([pa.field(each.name, _TYPES[each.name]) for each in fields(TreeEnsemble)])


def write_trees(trees: TreeEnsemble) -> bytes:
    """Write trees as an Arrow IPC file; the same trees give the same bytes."""
    columns = []
    for field in _SCHEMA:
        value = getattr(trees, field.name)
        if pa.types.is_list(field.type):
            values = pa.array(value, field.type.value_type, from_pandas=False)
            columns.append(pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values))
        else:
            columns.append(pa.array([value], field.type))
    return write_arrow(pa.table(columns, schema=_SCHEMA))


def read_trees(name: str, data: bytes, features: int) -> TreeEnsemble:
    """Read what `write_trees` wrote, as untrusted data. Raises PackageError that names the file.

    features: that the trees must take
    """
    table = read_arrow(name, data)
    if table.schema != _SCHEMA or len(table) != 1:
        raise PackageError.because(f"'{name}' does not hold trees", "package the model again")
    values = {column: _value(name, table[column].combine_chunks()) for column in table.schema.names}
    if values["features"] != features:
        raise PackageError.because(
            f"'{name}' takes {values['features']} features, feature_model.json yields {features}"
        )
    try:
        return TreeEnsemble(**values)
    except PackageError as error:
        raise PackageError(f"'{name}': {error}") from error


def _value(name: str, column: pa.Array) -> Any:
    """Return a number, a text, or an array."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    if column.null_count or values.null_count:
        raise PackageError.because(f"'{name}' has a null", "package the model again")
    if pa.types.is_list(column.type):
        return np.array(values.to_numpy(zero_copy_only=False))
    return column[0].as_py()

"""The trees of a package: an Arrow file with one row, a list for each array and a value for each number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from delorean.packaging.golden_rows import read_arrow, write_arrow
from delorean.scoring.task_trees import TaskTrees
from delorean.scoring.trees import TreeEnsemble
from schemas.errors import PackageError

TREES = "trees.arrow"
_Trees = TypeVar("_Trees", TreeEnsemble, TaskTrees)

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
_OWNERS = "owners"  # a further column of trees of several tasks
_TASK_SCHEMA = _SCHEMA.append(pa.field(_OWNERS, pa.list_(pa.int32())))


def write_trees(trees: TreeEnsemble | TaskTrees) -> bytes:
    """Write trees as an Arrow IPC file; the same trees give the same bytes."""
    schema, columns = _SCHEMA, []
    values = vars(trees)
    if isinstance(trees, TaskTrees):
        schema, values = _TASK_SCHEMA, {**vars(trees.trees), _OWNERS: trees.owners}
    for field in schema:
        value = values[field.name]
        if pa.types.is_list(field.type):
            array = pa.array(value, field.type.value_type, from_pandas=False)
            columns.append(pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array))
        else:
            columns.append(pa.array([value], field.type))
    return write_arrow(pa.table(columns, schema=schema))


def read_trees(name: str, data: bytes, features: int) -> TreeEnsemble:
    """Read the trees of a model of one use, or in which all tasks share all trees, see `read_task_trees`."""
    return _checked(name, TreeEnsemble, **_read(name, data, features, _SCHEMA))


def read_task_trees(name: str, data: bytes, features: int, tasks: int) -> TreeEnsemble | TaskTrees:
    """Read what `write_trees` wrote of a model of several tasks, as untrusted data.

    features: that the trees must take; one more where all trees are shared, because the last is the task's number
    tasks: number of tasks

    Raises PackageError that names the file.
    """
    if _OWNERS not in read_arrow(name, data).schema.names:
        return read_trees(name, data, features + 1)
    values = _read(name, data, features, _TASK_SCHEMA)
    owners = values.pop(_OWNERS)
    return _checked(name, TaskTrees, _checked(name, TreeEnsemble, **values), owners, tasks)


def _checked(name: str, build: Callable[..., _Trees], *parts: Any, **values: Any) -> _Trees:
    try:
        return build(*parts, **values)
    except PackageError as error:
        raise PackageError(f"'{name}': {error}") from error


def _read(name: str, data: bytes, features: int, schema: pa.Schema) -> dict[str, Any]:
    """Return the arrays and numbers of a file, by name."""
    table = read_arrow(name, data)
    if table.schema != schema or len(table) != 1:
        raise PackageError.because(f"'{name}' does not hold trees", "package the model again")
    values = {column: _value(name, table[column].combine_chunks()) for column in table.schema.names}
    if values["features"] != features:
        raise PackageError.because(
            f"'{name}' takes {values['features']} features, feature_model.json yields {features}"
        )
    return values


def _value(name: str, column: pa.Array) -> Any:
    """Return a number, a text, or an array."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    if column.null_count or values.null_count:
        raise PackageError.because(f"'{name}' has a null", "package the model again")
    if pa.types.is_list(column.type):
        return np.array(values.to_numpy(zero_copy_only=False))
    return column[0].as_py()

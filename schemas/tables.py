"""The Arrow schemas of everything that is written or sent, and checks of data against them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey, refuse_naive_times
from schemas.errors import DataKeyError
from schemas.nested_types import with_leaves
from schemas.nulls import may_be_null
from schemas.services import OnFallback, Service

IS_FALLBACK = "is_fallback"
"""The column of a snapshot that marks fallback values."""

_LACKS = "defaults of "
TIME = pa.timestamp("us", tz="UTC")


def contexts_schema(key: Iterable[DataKey]) -> pa.Schema:
    """The schema of contexts in a request: one column per variable."""
    return pa.schema([(variable.name, variable.type) for variable in key])


def answers_schema(service: Service) -> pa.Schema:
    """The schema of a service's answers, one row per context; `value` is null unless the status is ok or fallback.

    `reason` says why there is no value; of an answer that lacks fields it is `lacking_reason`, otherwise null.
    """
    value = service.element.type
    return pa.schema([("status", pa.string()), ("captured_at", TIME), ("reason", pa.string()), ("value", value)])


def lacking_reason(paths: Iterable[str]) -> str:
    """Return the `reason` of an answer that lacks fields, which have their defaults in its value.

    >>> lacking_fields(lacking_reason(["plays", "seen.trailers"]))
    ['plays', 'seen.trailers']
    """
    return f"{_LACKS}{json.dumps(list(paths))}"


def lacking_fields(reason: str) -> list[str]:
    """Return the paths that `lacking_reason` was given; none for another text."""
    return list(json.loads(reason.removeprefix(_LACKS))) if reason.startswith(_LACKS) else []


def snapshot_schema(service: Service) -> pa.Schema:
    """The schema of a stored snapshot: successful answers only, sorted by key and captured_at.

    If encoders receive fallback values, it contains these as well, marked in the column `is_fallback`.
    """
    schema = pa.schema([*contexts_schema(service.key), ("captured_at", TIME), ("value", service.element.type)])
    return schema.append(pa.field(IS_FALLBACK, pa.bool_())) if service.on_fallback is OnFallback.VALUE else schema


def require_columns(what: str, table: pa.Table | pa.RecordBatch, keys: Iterable[DataKey]) -> None:
    """Raise DataKeyError unless the table has a column of each key's name and type."""
    for key in keys:
        if key.name not in table.schema.names:
            raise DataKeyError.unknown(f"column in {what}", key.name, table.schema.names)
        type = table.schema.field(key.name).type  # noqa: A001  # the field's own name
        if type != key.type:
            refuse_naive_times(f"{what}.{key.name}", type)
            raise DataKeyError.because(f"{what}: column '{key.name}' is {type}, expected {key.type}")


def refuse_hidden_nulls(name: str, values: pa.Array, first: int = 0) -> None:
    """Raise DataKeyError for a null inside a value that encoders would read as a number: see `schemas.nulls`.

    first: the position of the first value, for errors

    A value that is null as a whole is an absent element, and no error.
    """
    for child_name, child in _children(name, values):
        if child.null_count and not may_be_null(child.type):
            row = first + pc.index(child.is_null(), True).as_py()
            raise DataKeyError.because(
                f"'{child_name}' is null at position {row}: encoders cannot read a null {child.type}",
                "make it a float or a string, or leave the row out",
            )
        refuse_hidden_nulls(child_name, child)


def _children(name: str, values: pa.Array) -> list[tuple[str, pa.Array]]:
    if pa.types.is_struct(values.type):
        present = values.drop_null()
        return [(f"{name}.{field.name}", child) for field, child in zip(values.type, present.flatten(), strict=True)]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return [(f"{name}[]", values.flatten())]
    return []


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Give a table's rows as Python objects.

    Python has the years 1 to 9999, Arrow many more: a column with a time outside them has its times as text.
    """
    if not table.num_columns:
        return [{} for _ in range(table.num_rows)]
    columns = [_python_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        values = column.cast(with_leaves(column.type, _time_as_text)).to_pylist()
    return values


def _time_as_text(leaf: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_timestamp(leaf) or pa.types.is_date(leaf) else leaf

"""The Arrow schemas of everything that is written or sent, and the checks that data obeys them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey, refuse_naive_times
from schemas.errors import DataKeyError
from schemas.services import OnFallback, Service

IS_FALLBACK = "is_fallback"
"""The column of a snapshot that marks what no service answered."""

TIME = pa.timestamp("us", tz="UTC")


def contexts_schema(key: Iterable[DataKey]) -> pa.Schema:
    """Contexts as they are asked for: one column for each variable."""
    return pa.schema([(variable.name, variable.type) for variable in key])


def answers_schema(service: Service) -> pa.Schema:
    """A service's answers, one row for each context asked; `value` is null unless the status is ok or fallback."""
    value = service.element.type
    return pa.schema([("status", pa.string()), ("captured_at", TIME), ("reason", pa.string()), ("value", value)])


def snapshot_schema(service: Service) -> pa.Schema:
    """A snapshot at rest: the successes only, sorted by key and captured_at.

    Where encoders get what a fallback gave, it has these too, each marked in a column of its own.
    """
    schema = pa.schema([*contexts_schema(service.key), ("captured_at", TIME), ("value", service.element.type)])
    return schema.append(pa.field(IS_FALLBACK, pa.bool_())) if service.on_fallback is OnFallback.VALUE else schema


def require_columns(what: str, table: pa.Table | pa.RecordBatch, keys: Iterable[DataKey]) -> None:
    """Raise DataKeyError unless the table has a column of each key's name and type."""
    for key in keys:
        if key.name not in table.schema.names:
            raise DataKeyError.unknown(f"column in {what}", key.name, table.schema.names)
        found = table.schema.field(key.name).type
        if found != key.type:
            refuse_naive_times(f"{what}.{key.name}", found)
            raise DataKeyError.because(f"{what}: column '{key.name}' is {found}, expected {key.type}")


def refuse_hidden_nulls(name: str, values: pa.Array) -> None:
    """Raise DataKeyError where a null hides inside a value that encoders would read as a number.

    A float may be null (encoders see NaN) and so may text (None, code 0). Any other null inside a value is refused;
    a value that is null as a whole is an absent element.
    """
    for child_name, child in _children(name, values):
        if child.null_count and not (pa.types.is_floating(child.type) or pa.types.is_string(child.type)):
            row = pc.index(child.is_null(), True).as_py()
            raise DataKeyError.because(
                f"'{child_name}' is null at position {row}: {child.type} has no way to say so to an encoder",
                "make it a float or a string, or leave the row out",
            )
        refuse_hidden_nulls(child_name, child)


def _children(name: str, values: pa.Array) -> list[tuple[str, pa.Array]]:
    if pa.types.is_struct(values.type):
        present = values.drop_null()
        return [(f"{name}.{field.name}", child) for field, child in zip(values.type, present.flatten(), strict=True)]
    if pa.types.is_list(values.type):
        return [(f"{name}[]", values.flatten())]
    return []

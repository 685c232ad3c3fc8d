"""Arrow types that contain other types."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def is_list(type: pa.DataType) -> bool:  # noqa: A002  # the field's own name
    """Return whether a type is any of Arrow's list types."""
    of = pa.types
    tests = (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    return any(matches(type) for matches in tests)


def with_leaves(type: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:  # noqa: A002
    """Return a type whose innermost types are replaced; the names of fields and whether they may be null stay.

    >>> with_leaves(pa.list_(pa.struct([("id", pa.uint8())])), lambda leaf: pa.int16())
    ListType(list<item: struct<id: int16>>)
    """

    def inner(field: pa.Field) -> pa.Field:
        return field.with_type(with_leaves(field.type, change))

    if pa.types.is_list(type):
        return pa.list_(inner(type.value_field))
    if pa.types.is_large_list(type):
        return pa.large_list(inner(type.value_field))
    if pa.types.is_fixed_size_list(type):
        return pa.list_(inner(type.value_field), type.list_size)
    if pa.types.is_struct(type):
        return pa.struct([inner(field) for field in type])
    if pa.types.is_map(type):
        return pa.map_(inner(type.key_field), inner(type.item_field), type.keys_sorted)
    return change(type)

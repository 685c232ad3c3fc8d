"""The one rule for nulls inside values: floats and texts may be null, nothing else."""

from __future__ import annotations

import pyarrow as pa

_TEXT = frozenset(text.id for text in (pa.string(), pa.large_string(), pa.string_view()))


def may_be_null(type: pa.DataType) -> bool:  # noqa: A002  # the field's own name
    """Whether encoders can read a null of this type: as NaN where it is a float, as None where it is text.

    >>> may_be_null(pa.large_string()), may_be_null(pa.float32()), may_be_null(pa.int64())
    (True, True, False)
    """
    return is_text(type) or bool(pa.types.is_floating(value_type(type)))


def is_text(type: pa.DataType) -> bool:  # noqa: A002
    """Whether a type is text, in any of Arrow's representations."""
    return value_type(type).id in _TEXT


def value_type(type: pa.DataType) -> pa.DataType:  # noqa: A002
    """Give the type of a dictionary's values; any other type is returned unchanged."""
    return type.value_type if pa.types.is_dictionary(type) else type

"""The types of label data's columns at rest, for the types of pandas, Polars, Spark, DuckDB and files.

Encodings (dictionaries, views, large and fixed-size forms) are decoded; unsigned integers, which Delta tables do not
have, become the next wider signed type; times become UTC microseconds. Anything else raises an error that names the
column, before any work where the type alone shows it.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from schemas.errors import LabelError, NaiveTimeError
from schemas.nested_types import is_list
from schemas.tables import TIME

TimeUnit = Literal["s", "ms", "us", "ns", "day"]
_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}
_UINT64_IN_SPARK = pa.decimal128(20, 0)  # Spark's type for a Parquet file's unsigned 64-bit integers
_MOST_DIGITS = 38  # of a decimal128


def unencoded(type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
    """Return the type of the decoded values."""
    if pa.types.is_dictionary(type) or pa.types.is_run_end_encoded(type):
        return unencoded(type.value_type)
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_binary(type) or pa.types.is_binary_view(type):
        return pa.binary()
    if is_list(type):
        return pa.list_(unencoded(type.value_type))
    return type


def variable_type(name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
    """Return the type at rest of a context or item variable.

    Raises NaiveTimeError for times without a zone, LabelError for names and types that a variable cannot have.
    """
    if not name.isidentifier() or name.startswith("_"):
        raise LabelError.because(
            f"column '{name}' of the label data has a name that encoders cannot use",
            f"rename it to letters, digits and _ in the query, `{name}` AS …, or leave it out",
        )
    type = unencoded(type)  # noqa: A001
    if pa.types.is_timestamp(type):
        _refuse_naive(name, type)
        return TIME
    if pa.types.is_integer(type):
        return _SIGNED.get(type, type)
    if type == _UINT64_IN_SPARK:
        return pa.int64()
    if pa.types.is_decimal(type) and type.precision <= _MOST_DIGITS:
        return pa.decimal128(type.precision, type.scale)
    if pa.types.is_float16(type):
        return pa.float32()
    if pa.types.is_date(type):
        return pa.date32()
    if pa.types.is_floating(type) or pa.types.is_boolean(type) or pa.types.is_string(type) or type == pa.binary():
        return type
    raise LabelError.because(
        f"column '{name}' of the label data is {type}, which cannot be a context or item variable",
        "leave it out of the query, name the variables (labels.context), or cast it to text or a number",
    )


def check_time(
    name: str,
    type: pa.DataType,  # noqa: A002
    unit: TimeUnit | None,
    of: str = "the label data",
) -> None:
    """Raise LabelError, or NaiveTimeError, for a column whose type is not a time in a known unit. of: in errors."""
    type = unencoded(type)  # noqa: A001
    if pa.types.is_timestamp(type):
        _refuse_naive(name, type, of)
    elif pa.types.is_integer(type):
        if unit is None:
            raise LabelError.because(
                f"column '{name}' of {of} is {type}: integers are times only if their unit is set",
                'set it: time_unit = "s", "ms", "us", "ns" or "day" since 1970, in UTC, or cast it in the query',
            )
    elif pa.types.is_date(type):
        if unit != "day":
            raise LabelError.because(
                f"column '{name}' of {of} is a date, not a time: features could use captures from before midnight only",
                'name a column with times, or set time_unit = "day": a date is then its beginning in UTC',
            )
    elif not pa.types.is_string(type):
        raise LabelError.because(
            f"column '{name}' of {of} is {type}, expected times with a zone", "cast it in the query"
        )


def _refuse_naive(name: str, type: pa.DataType, of: str = "the label data") -> None:  # noqa: A002
    if type.tz is None:
        raise NaiveTimeError.because(
            f"column '{name}' of {of} is {type}: a time without a zone is ambiguous",
            f'set its zone: df["{name}"].dt.tz_localize("UTC") in pandas, CAST({name} AS TIMESTAMP) in a query',
        )


def check_label(name: str, type: pa.DataType) -> None:  # noqa: A002
    """Raise LabelError for a column whose type cannot be a label's."""
    value = unencoded(type)
    value = value.value_type if is_list(value) else value
    numeric = pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_decimal(value)
    if not (numeric or pa.types.is_boolean(value) or pa.types.is_string(value)):
        raise LabelError.because(
            f"column '{name}' of the label data is {type}, expected numbers or booleans as labels",
            "cast it in the query: CAST(… AS FLOAT)",
        )

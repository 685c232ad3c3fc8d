"""Casts columns of any file to plain types: the few types that this project keeps, one representation for each value.

pandas, Polars, Spark and DuckDB write the same values in many ways: text as large strings, views, dictionaries or
categories, lists of fixed sizes, times in other units. A cast never changes a value.
"""

from __future__ import annotations

import uuid
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataKeyError, NaiveTimeError
from schemas.nested_types import is_list
from schemas.times import FIRST_MICROS, LAST_MICROS

_TIME = pa.timestamp("us", "UTC")
_MOST_DIGITS = 38  # of a decimal


def plain_table(what: str, table: pa.Table) -> pa.Table:
    """Cast a table's columns to plain types. what: the table's name in errors; see `plain_column`."""
    names = table.column_names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataKeyError.because(f"{what} has the column '{twice[0]}' twice", "rename one of them")
    columns = [plain_column(f"{what}.{name}", table.column(at)) for at, name in enumerate(names)]
    return pa.table(columns, pa.schema([(name, column.type) for name, column in zip(names, columns, strict=True)]))


def plain_column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast a column to its plain type without changing a value.

    Raises NaiveTimeError for times without a zone, DataKeyError for values that no plain type can hold.
    """
    type = plain_type(name, column.type)  # noqa: A001  # the field's own name
    try:
        chunks = column.chunks if _is_plain(column.type) else [_plain(chunk) for chunk in column.chunks]
        cast = pa.chunked_array(chunks, type)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataKeyError.because(
            f"'{name}' is {column.type} and cannot become {type}: {str(error).splitlines()[0]}", _hint(column.type)
        ) from error
    _refuse_far_times(name, cast)
    return cast


def plain_type(name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
    """Give the plain type of a type; a plain type is its own.

    >>> plain_type("films.genres", pa.large_list(pa.dictionary(pa.int8(), pa.large_string())))
    ListType(list<item: string>)

    Raises as `plain_column` does.
    """
    if isinstance(type, pa.BaseExtensionType):
        special = {pa.uuid(): pa.string(), pa.bool8(): pa.bool_()}
        return special[type] if type in special else plain_type(name, type.storage_type)
    if pa.types.is_dictionary(type) or pa.types.is_run_end_encoded(type):
        return plain_type(name, type.value_type)
    if pa.types.is_map(type):
        fields = [("key", type.key_type), ("value", type.item_type)]
        return pa.list_(pa.struct([(field, plain_type(f"{name}.{field}", of)) for field, of in fields]))
    if is_list(type):
        return pa.list_(plain_type(f"{name}[]", type.value_type))
    if pa.types.is_struct(type):
        return pa.struct(
            [(field.name, plain_type(f"{name}.{field.name}", field.type)) for field in _fields(name, type)]
        )
    return _plain_scalar(name, type)


def _plain_scalar(name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
    of = pa.types
    if of.is_timestamp(type):
        if type.tz is None:
            raise NaiveTimeError.because(
                f"'{name}' is {type}: a time without a zone does not identify an instant",
                'give it one where the file is written: pandas .dt.tz_localize("UTC"), Polars '
                """.dt.replace_time_zone("UTC"), SQL AT TIME ZONE 'UTC'""",
            )
        return _TIME
    if of.is_boolean(type) or of.is_integer(type) or of.is_float32(type) or of.is_float64(type):
        return type
    if of.is_string(type) or of.is_large_string(type) or of.is_string_view(type):
        return pa.string()
    if of.is_binary(type) or of.is_large_binary(type) or of.is_binary_view(type) or of.is_fixed_size_binary(type):
        return pa.binary()
    if of.is_decimal(type) and type.scale >= 0 and type.precision <= _MOST_DIGITS:
        return pa.decimal128(type.precision, type.scale)
    for matches, plain in (
        (of.is_float16, pa.float32()),
        (of.is_date, pa.date32()),
        (of.is_time, pa.time64("us")),
        (of.is_duration, pa.duration("us")),
    ):
        if matches(type):
            return plain
    raise DataKeyError.because(f"'{name}' is {type}, which is not supported", _hint(type))


def _fields(name: str, type: pa.DataType) -> list[pa.Field]:  # noqa: A002
    if type.num_fields == 0:
        raise DataKeyError.because(f"'{name}' is a struct without fields, which Parquet cannot store", "leave it out")
    names = [field.name for field in type]
    if len(set(names)) < len(names):
        raise DataKeyError.because(f"'{name}' is {type}: two of its fields have the same name", "rename one of them")
    return list(type)


def _hint(type: pa.DataType) -> str:  # noqa: A002
    if pa.types.is_null(type):
        return "write the column with the type that its values would have, or leave it out"
    if pa.types.is_timestamp(type) or pa.types.is_time(type) or pa.types.is_duration(type):
        return 'round it to whole microseconds where the file is written: pandas .dt.floor("us")'
    if pa.types.is_decimal(type):
        return f"write it as a decimal of at most {_MOST_DIGITS} digits, or as double or text"
    return "leave the column out, or write it as numbers, text, times, or lists and structs of them"


def _plain(array: pa.Array) -> pa.Array:
    """Cast an array to its plain type. Arrow's own casts lose values of list views, and cannot cast UUIDs."""
    type = array.type  # noqa: A001
    if _is_plain(type):
        return array
    if isinstance(type, pa.BaseExtensionType):
        if type == pa.uuid():
            return _uuid_text(array)
        return _plain(array.cast(pa.bool_() if type == pa.bool8() else type.storage_type))
    if pa.types.is_dictionary(type):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(type):
        return _plain(pc.run_end_decode(array))
    if pa.types.is_map(type):
        return _plain(array.cast(pa.list_(pa.struct([("key", type.key_type), ("value", type.item_type)]))))
    if is_list(type):
        ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())).cast(pa.int32())
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(offsets, _plain(pc.list_flatten(array)), mask=array.is_null())
    if pa.types.is_struct(type):
        children = [_plain(child) for child in array.flatten()]
        fields = [pa.field(field.name, child.type) for field, child in zip(type, children, strict=True)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    return array.cast(_plain_scalar("", type))


def _is_plain(type: pa.DataType) -> bool:  # noqa: A002
    """Whether a type and all types in it are plain. Type equality ignores the field names of lists."""
    try:
        return bool(plain_type("", type) == type)
    except DataKeyError:
        return False


def _uuid_text(array: pa.Array) -> pa.Array:
    values = array.cast(array.type.storage_type).to_pylist()
    return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], pa.string())


def _refuse_far_times(name: str, column: pa.ChunkedArray) -> None:
    """Reject times outside the years 1 to 9999: Python and most readers lack them, and usually the unit is wrong."""
    for chunk in column.chunks:
        for times in _times(chunk):
            ends = pc.min_max(times.cast(pa.int64())).as_py()
            if ends["min"] is not None and (ends["min"] < FIRST_MICROS or ends["max"] > LAST_MICROS):
                raise DataKeyError.because(
                    f"'{name}' holds a time outside the years 1 to 9999", "check the unit of its numbers"
                )


def _times(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_timestamp(array.type):
        return [array]
    if pa.types.is_list(array.type):
        return _times(array.flatten())
    return [t for child in array.flatten() for t in _times(child)] if pa.types.is_struct(array.type) else []

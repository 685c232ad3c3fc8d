"""The types of label data's columns, as snapshots and data keys spell them."""

from __future__ import annotations

import pyarrow as pa

from schemas.data_keys import refuse_naive_times


def plain_type(name: str, type: pa.DataType) -> pa.DataType:  # noqa: A002
    """Give a variable's type, times in microseconds. Raises NaiveTimeError for times without a zone."""
    refuse_naive_times(f"label data.{name}", type)
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(type) else type


def without_large(type: pa.DataType) -> pa.DataType:  # noqa: A002
    """The same type as snapshots and data keys spell it: Polars and Spark may send large or dictionary forms."""
    if pa.types.is_dictionary(type):
        return without_large(type.value_type)
    if pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_large_list(type) or pa.types.is_list(type):
        return pa.list_(without_large(type.value_type))
    return type

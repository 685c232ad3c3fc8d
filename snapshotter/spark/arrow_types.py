"""Arrow types that Spark lacks, and the wider ones in their place."""

from __future__ import annotations

import pyarrow as pa

from schemas.nested_types import with_leaves

_IN_SPARK = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),  # as Spark itself reads them from Parquet
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
}


def type_in_spark(type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
    """Return a type with wider ones in place of those that Spark lacks.

    >>> type_in_spark(pa.list_(pa.uint8()))
    ListType(list<item: int16>)
    """
    return with_leaves(type, lambda leaf: _IN_SPARK.get(leaf, leaf))


def schema_in_spark(schema: pa.Schema) -> pa.Schema:
    """Return a schema with wider types in place of those that Spark lacks."""
    return pa.schema([field.with_type(type_in_spark(field.type)) for field in schema])

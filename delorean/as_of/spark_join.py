"""The as-of join of Spark DataFrames: both sides are bucketed by key and each bucket is joined as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import reduce
from operator import and_
from typing import Any

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  # as every Spark program calls it
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DecimalType,
    IntegralType,
    MapType,
    StructField,
    StructType,
    VariantType,
)

from delorean.as_of.join import as_of_join
from schemas.errors import DataKeyError

_BUCKET_BYTES = 64 << 20  # of both sides in Arrow; a worker needs about five times that, besides its libraries
_SAMPLE = 1000  # rows from which a row's width is estimated
_BUCKET, _TIE = "__as_of_bucket", "__as_of_tie"


def as_of_join_spark(
    left: DataFrame,
    right: DataFrame,
    *,
    by: str | Sequence[str],
    left_on: str = "time",
    right_on: str = "captured_at",
    max_age: timedelta | None = None,
    lag: timedelta = timedelta(0),
    allow_exact: bool = True,
    tie_break: str | Sequence[str] | None = None,
    buckets: int | None = None,
) -> DataFrame:
    """Join Spark DataFrames as `as_of_join` joins tables: every left row exactly once, in no particular order.

    left, right, by, left_on, right_on, max_age, lag, allow_exact: as in `as_of_join`; times are TIMESTAMP
    tie_break: columns of right that decide among equal times, the greater wins. Rows in Spark have no order, so among
        rows that are still equal an arbitrary one wins: always the same for the same rows, however they are partitioned
    buckets: how many parts the keys are hashed into, each joined by one worker at a time. None: parts of about 64 MiB,
        estimated by counting the rows and sampling a few; counting computes the DataFrames

    A worker holds one bucket of both sides and its result, so memory is bounded unless a few keys have most rows: the
    rows of one key are never split.

    Raises what `as_of_join` raises, before anything runs.
    """
    options = {"left_on": left_on, "right_on": right_on, "max_age": max_age, "lag": lag, "allow_exact": allow_exact}
    keys = [by] if isinstance(by, str) else list(by)
    ties = [tie_break] if isinstance(tie_break, str) else list(tie_break or ())
    _check(left, right, by=keys, tie_break=ties, **options)
    if buckets is None:
        buckets = max(1, -(-(_bytes(left) + _bytes(right)) // _BUCKET_BYTES))
    elif buckets < 1:
        raise DataKeyError.because(f"buckets is {buckets}, expected 1 or more")
    added = [field for field in right.schema if field.name not in keys]
    joined = StructType([*left.schema, *(StructField(field.name, field.dataType) for field in added)])
    numbered_left, numbered_right = _NumberedColumns(left, keys, left_on), _NumberedColumns(right, keys, right_on)
    sides = (
        _with_buckets(numbered_left, numbered_right, keys, buckets).drop(_TIE),
        _with_buckets(numbered_right, numbered_left, keys, buckets).where(numbered_right.matchable),
    )
    # As many partitions as buckets: Spark would sort all of a partition before its first bucket is joined.
    grouped = [side.repartition(buckets, _BUCKET).groupBy(_BUCKET) for side in sides]
    large = left.sparkSession.conf.get("spark.sql.execution.arrow.useLargeVarTypes") == "true"
    arrow = to_arrow_schema(joined, timezone="UTC", prefers_large_types=large)
    join = _bucket_join(left.columns, right.columns, {"by": keys, "tie_break": [*ties, _TIE], **options}, arrow)
    return grouped[0].cogroup(grouped[1]).applyInArrow(join, joined)


class _NumberedColumns:
    """A DataFrame with numbers as column names: Spark's cogroup does not accept all names that DataFrames may have."""

    def __init__(self, frame: DataFrame, keys: Sequence[str], time: str) -> None:
        self.schema = frame.schema
        self.frame = frame.toDF(*(str(number) for number in range(len(frame.columns))))
        self.matchable = reduce(and_, (self.column(name).isNotNull() for name in (*keys, time)))

    def column(self, name: str) -> Column:
        return F.col(f"`{self.schema.names.index(name)}`")

    def type_of(self, name: str) -> DataType:
        return self.schema[name].dataType

    @property
    def hash_of_row(self) -> Column:
        """A hash of all columns; nested ones are hashed as JSON, since Spark does not hash maps."""
        nested = (ArrayType, MapType, StructType, VariantType)
        columns = [
            F.to_json(self.column(field.name)) if isinstance(field.dataType, nested) else self.column(field.name)
            for field in self.schema
        ]
        return F.xxhash64(*columns, *(column.isNull() for column in columns))  # xxhash64 skips nulls


def _with_buckets(side: _NumberedColumns, other: _NumberedColumns, keys: Sequence[str], buckets: int) -> DataFrame:
    """Add to one side's rows the bucket of their key, equal on both sides, and a hash of the row to break ties by."""
    hashed = F.xxhash64(*(_hashable(side.type_of(key), other.type_of(key), side.column(key)) for key in keys))
    # Rows that can match nothing are spread by all their columns, so that nulls do not fill one bucket.
    spread = F.when(side.matchable, hashed).otherwise(side.hash_of_row)
    return side.frame.withColumns({_TIE: side.hash_of_row, _BUCKET: F.pmod(spread, F.lit(buckets)).cast("int")})


def _hashable(type: DataType, other: DataType, column: Column) -> Column:  # noqa: A002
    """Cast a key column so that Spark's hash is equal on both sides where the values are."""
    if isinstance(type, IntegralType):  # the hash depends on the width
        return column.cast("bigint")
    if isinstance(type, DecimalType) and type != other:  # it depends on the scale; the nearest double does not
        return column.cast("double")
    return column


def _bucket_join(
    left_names: list[str], right_names: list[str], options: dict[str, Any], schema: pa.Schema
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Return the function that joins one bucket in a worker."""

    def join(left: pa.Table, right: pa.Table) -> pa.Table:
        left = left.drop_columns(_BUCKET).rename_columns(left_names)
        right = right.drop_columns(_BUCKET).rename_columns([*right_names, _TIE])
        # Spark passes times in the session's zone, and expects them in UTC.
        return as_of_join(left, right, **options).drop_columns(_TIE).cast(schema)

    return join


def _check(left: DataFrame, right: DataFrame, **options: Any) -> None:
    """Join empty tables, to raise here what would fail in every worker."""
    tables = []
    for side, frame in (("left", left), ("right", right)):
        if not hasattr(frame, "sparkSession"):
            raise DataKeyError.mistaken(side, frame, "a Spark DataFrame", "as_of_join joins tables")
        try:
            tables.append(to_arrow_schema(frame.schema, timezone="UTC").empty_table())
        except PySparkException as error:
            raise DataKeyError.because(f"Arrow cannot hold the {side} DataFrame: {error}", "drop or cast it") from error
    folded = [{name.casefold() for name in frame.columns} for frame in (left, right)]
    clash = sorted((folded[0] & folded[1]) - {key.casefold() for key in options["by"]})
    exact = set(left.columns) & set(right.columns)
    if clash and not exact - set(options["by"]):
        raise DataKeyError.because(
            f"both sides have {', '.join(clash)}, spelled differently", "rename them on one side"
        )
    as_of_join(*tables, **options)


def _bytes(frame: DataFrame) -> int:
    """Estimate a DataFrame's size in Arrow from its first rows and its row count."""
    sample = frame.limit(_SAMPLE).toArrow()
    return 0 if sample.num_rows == 0 else frame.count() * sample.nbytes // sample.num_rows

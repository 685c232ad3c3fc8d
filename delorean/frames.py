"""Results that can be read as a frame of any library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError, DataKeyError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession

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


class Readable(ABC):
    """A result that can be read as an Arrow table, and so as any other frame."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Read the data."""

    def to_polars(self) -> pl.DataFrame:
        """Read the data into Polars."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)  # always, for a table
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """Read the data into pandas. Raises DataKeyError for nested times that Python cannot represent."""
        table = self.to_arrow()
        try:
            frame: pd.DataFrame = table.to_pandas()
        except (OverflowError, ValueError) as error:
            raise DataKeyError.because(
                f"pandas cannot hold all values of {', '.join(table.column_names)}: {error}",
                "times in lists and structs must be in the years 1 to 9999; .to_arrow() and .to_polars() accept any",
            ) from error
        return frame

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Read the data into Spark; types that it lacks, such as unsigned integers, become wider ones."""
        if not hasattr(spark, "createDataFrame"):
            raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")
        table = self.to_arrow()
        return spark.createDataFrame(table.cast(pa.schema([_field_in_spark(field) for field in table.schema])))


def _field_in_spark(field: pa.Field) -> pa.Field:
    return field.with_type(_type_in_spark(field.type))


def _type_in_spark(type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
    """Return Spark's type for a type's values."""
    if type in _IN_SPARK:
        return _IN_SPARK[type]
    if pa.types.is_list(type):
        return pa.list_(_field_in_spark(type.value_field))
    if pa.types.is_large_list(type):
        return pa.large_list(_field_in_spark(type.value_field))
    if pa.types.is_struct(type):
        return pa.struct([_field_in_spark(field) for field in type])
    return type

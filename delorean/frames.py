"""Results that can be read as a frame of any library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError, DataKeyError
from schemas.nested_types import with_leaves

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
        fields = [field.with_type(with_leaves(field.type, _leaf_in_spark)) for field in table.schema]
        return spark.createDataFrame(table.cast(pa.schema(fields)))


def _leaf_in_spark(type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
    return _IN_SPARK.get(type, type)

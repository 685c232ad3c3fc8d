"""Results that people take on as a frame of their own choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError, DataKeyError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession


class Readable(ABC):
    """What is read as an Arrow table, and so as any other frame."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Read the data."""

    def to_polars(self) -> pl.DataFrame:
        """Read the data into Polars."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)  # of a table it always is
        return frame

    def to_pandas(self) -> pd.DataFrame:
        """Read the data into pandas. Raises DataKeyError for nested times that Python cannot hold."""
        table = self.to_arrow()
        try:
            frame: pd.DataFrame = table.to_pandas()
        except (OverflowError, ValueError) as error:
            raise DataKeyError.because(
                f"pandas cannot hold all values of {', '.join(table.column_names)}: {error}",
                "times in lists and structs must be of the years 1 to 9999; .to_arrow() and .to_polars() give any",
            ) from error
        return frame

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Read the data into Spark."""
        if not hasattr(spark, "createDataFrame"):
            raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")
        return spark.createDataFrame(self.to_arrow())

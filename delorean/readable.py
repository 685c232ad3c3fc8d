"""Results that people take on as a frame of their own choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError

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
        """Read the data into pandas."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Read the data into Spark."""
        if not hasattr(spark, "createDataFrame"):
            raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")
        return spark.createDataFrame(self.to_arrow())

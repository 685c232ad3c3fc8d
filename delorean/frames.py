"""Results that can be read as a frame of any library."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from schemas.errors import ConfigError, DataKeyError
from snapshotter.spark.arrow_types import schema_in_spark
from snapshotter.spark.connect import require_workers

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession

_Part = TypeVar("_Part")
_BATCH_ROWS = 8_192  # nested rows are large, and Spark holds a batch of each task in memory


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
        require_spark(spark)
        table = self.to_arrow()
        return spark.createDataFrame(table.cast(schema_in_spark(table.schema)))


def require_spark(spark: object) -> None:
    """Raise ConfigError for anything but a Spark session."""
    if not hasattr(spark, "createDataFrame"):
        raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")


def lazy_frame(
    spark: SparkSession, schema: pa.Schema, parts: Sequence[_Part], read: Callable[[_Part], Iterable[pa.Table]]
) -> DataFrame:
    """Return a Spark DataFrame whose tasks read its rows; nothing is read before Spark needs them.

    schema: of the rows; types that Spark lacks become wider ones, as in `Readable.to_spark`
    parts: what each task reads, sent to it alone; read: called by tasks
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    require_workers(spark)
    in_spark = schema_in_spark(schema)
    serialised = [pickle.dumps(part) for part in parts]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for position in (position for batch in batches for position in batch.column(0).to_pylist()):
            for table in read(pickle.loads(serialised[position])):  # noqa: S301  # from our driver
                yield from table.cast(in_spark).to_batches(max_chunksize=_BATCH_ROWS)

    return spark.range(0, len(parts), 1, max(1, len(parts))).mapInArrow(run, from_arrow_schema(in_spark))

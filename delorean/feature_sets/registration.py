"""Feature sets in Spark's catalogue, so that any session that shares it can query them by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delorean.feature_sets.table import open_table, table_uri
from delorean.frames import require_spark
from schemas.plain_text import plain_text
from snapshotter.spark.catalogue import register_delta
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DATABASE = "features"


@dataclass(frozen=True, repr=False)
class RegisteredFeatureSet:
    """A feature set that Spark's catalogue knows.

    table: its name there
    location: of its files, as the catalogue has it
    new: False: it was registered before
    """

    feature_set: str
    table: str
    location: str
    new: bool

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"feature set {self.feature_set}: table {self.table} of Spark's catalogue")


def register_feature_set(
    spark: SparkSession, storage: Storage, name: str, table: str | None = None
) -> RegisteredFeatureSet:
    """Add a feature set to Spark's catalogue as an external Delta table; registering it again changes nothing.

    spark: with Delta's jar
    table: `database.table` or `catalogue.database.table`; None: `features.<name>`, with _ for what SQL would have to
        quote. The database is created if the catalogue lacks it

    Sessions that share the catalogue see later versions at once, and earlier ones by `VERSION AS OF`. A table in S3 is
    read with each session's own credentials and `spark.hadoop.fs.s3a.…` settings.

    Raises ConfigError for an unknown feature set, a name that cannot be a table's, and one that is another table's.
    """
    require_spark(spark)
    open_table(table_uri(storage, name))
    as_table = table or f"{_DATABASE}.{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
    location, new = register_delta(spark, as_table, table_uri(storage, name))
    return RegisteredFeatureSet(name, as_table, location, new)

"""Lets Spark's JVMs that tests start, in whatever process, begin with the classes that one before them has loaded.

`python tests/support/quick_jvm.py` keeps those in an archive in the environment; `make test` does so once. A JVM then
starts in half the time. Without an archive, or with one of another Java or Spark, everything works as before.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ARCHIVE = Path(sys.prefix) / "spark.jsa"
# Compiling well does not pay for short jobs; performance data would be one more file in the temporary folder.
_FOR_SHORT_JOBS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Xlog:disable"
# Spark takes spaces for ends of options. A JVM that does not find the named archive does not even use Java's own.
_SHARED = f" -XX:SharedArchiveFile={ARCHIVE}" if ARCHIVE.exists() and " " not in str(ARCHIVE) else ""
OPTIONS = _FOR_SHORT_JOBS + _SHARED
LAUNCHER_OPTIONS = _FOR_SHORT_JOBS  # of the JVM that spark-submit starts first, to build the other's command
OF_DRIVERS = {"SPARK_SUBMIT_OPTS": OPTIONS}  # whoever starts a session reads it, and spark-submit


def temporary_files_in(folder: Path) -> str:
    """Give the option that makes a JVM put its temporary files into a folder."""
    return "" if " " in str(folder) else f" -Djava.io.tmpdir={folder}"


def make_archive() -> None:
    """Run what most tests run, in a JVM that writes down at its end which classes it has loaded."""
    from snapshotter.spark.session import spark_session

    made = ARCHIVE.with_suffix(".new")
    os.environ["SPARK_SUBMIT_OPTS"] = f"{_FOR_SHORT_JOBS} -XX:ArchiveClassesAtExit={made}"
    spark = spark_session("archive", "local[2]", spark__driver__host="127.0.0.1", spark__driver__memory="1g")
    with tempfile.TemporaryDirectory() as folder:
        _work(spark, folder)
    end(spark)
    made.replace(ARCHIVE)


def end(spark: SparkSession) -> None:
    """Stop a session and end its JVM, which would otherwise live as long as this process."""
    gateway = spark.sparkContext._gateway
    assert gateway is not None
    spark.stop()
    gateway.proc.stdin.close()  # the JVM ends with it
    gateway.proc.wait()


def _work(spark: SparkSession, folder: str) -> None:
    rows = "SELECT id % 3 AS country, id, array(named_struct('v', id)) AS seen, timestamp_micros(id) AS time"
    spark.sql(f"{rows} FROM range(100)").write.parquet(f"{folder}/table")
    table = spark.read.parquet(f"{folder}/table")
    table.createOrReplaceTempView("seen")
    spark.sql(
        "SELECT *, row_number() OVER (PARTITION BY country ORDER BY xxhash64(id)) AS number FROM seen"
        " JOIN (SELECT country, count(*), max(time) FROM seen GROUP BY country) USING (country) ORDER BY id"
    ).toArrow()
    table.mapInArrow(lambda batches: batches, table.schema).count()
    spark.createDataFrame(table.drop("seen").toPandas()).collect()


if __name__ == "__main__":
    make_archive()

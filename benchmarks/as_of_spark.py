"""The as-of join of Spark DataFrames over sizes, from Parquet to Parquet: seconds, memory, and how they grow.

Workload P: 1, 5 and 20 million rows a side, each written, joined and deleted in turn, in a session that is warm.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from benchmarks.as_of import write_sides
from benchmarks.memory import PeakMemory
from delorean.as_of import as_of_join
from delorean.as_of_spark import as_of_join_spark
from snapshotter.spark_session import spark_session

WARM = 200_000


def main(arguments: list[str]) -> None:
    """Join each size once and print the table and the fit."""
    parser = argparse.ArgumentParser("make bench BENCH=as_of_spark", description=__doc__)
    parser.add_argument("--sizes", default="1,5,20", help="millions of rows of each side")
    parser.add_argument("--buckets", type=int, help="for every size; else as many as the join chooses")
    options = parser.parse_args(arguments)
    sizes = [round(float(size) * 1e6) for size in options.sizes.split(",")]
    spark = spark_session("workload P", "local[2]", spark__ui__enabled="false", spark__driver__memory="3g")
    try:
        join_once(spark, WARM, options.buckets)
        report([(size, *join_once(spark, size, options.buckets)) for size in sizes])
    finally:
        spark.stop()


def join_once(spark: SparkSession, rows: int, buckets: int | None) -> tuple[float, PeakMemory]:
    """Make the data of one size, join it, look at what came out, and delete everything."""
    folder = Path(tempfile.mkdtemp(prefix="workload-p-"))
    try:
        write_sides(folder, rows, rows, seed=1)
        start = time.perf_counter()
        with PeakMemory() as memory:
            sides = [spark.read.parquet(str(folder / f"{name}.parquet")) for name in ("labels", "captures")]
            joined = as_of_join_spark(*sides, by="profile_id", buckets=buckets)
            joined.write.option("compression", "zstd").parquet(str(folder / "joined"))
        seconds = time.perf_counter() - start
        check(folder, rows, whole=rows <= 1_000_000)
        return seconds, memory
    finally:
        shutil.rmtree(folder)


def check(folder: Path, rows: int, whole: bool) -> None:
    """Count what was written; compare it with the join of tables where that takes little memory."""
    found = sum(pq.read_metadata(file).num_rows for file in (folder / "joined").glob("*.parquet"))
    if found != rows:
        raise SystemExit(f"{found:,} rows were written for {rows:,} left rows")
    if whole:
        tables = [pq.read_table(folder / f"{name}.parquet") for name in ("labels", "captures")]
        expected = as_of_join(*tables, by="profile_id")
        order = [("profile_id", "ascending"), ("time", "ascending"), ("label", "ascending")]
        written = pq.read_table(folder / "joined").select(expected.column_names).cast(expected.schema)
        if not written.sort_by(order).equals(expected.sort_by(order)):
            raise SystemExit("Spark wrote other rows than the join of tables gives")


def report(rows: list[tuple[int, float, PeakMemory]]) -> None:
    table = Table(title="Workload P through Spark, Parquet to Parquet, local[2]")
    for column in ("rows a side", "seconds", "left rows/s", "worker peak MiB", "JVM peak MiB"):
        table.add_column(column, justify="right")
    for size, seconds, memory in rows:
        numbers = (size, seconds, size / seconds, memory.worker, memory.jvm)
        table.add_row(*(f"{n:,.1f}" if n is seconds else f"{n:,.0f}" for n in numbers))
    console = Console(width=120)
    console.print(table)
    if len(rows) > 1:
        sizes, seconds = (np.array(column, dtype=float) for column in list(zip(*rows, strict=True))[:2])
        power = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        slope, start = np.polyfit(sizes, seconds, 1)
        off = ((seconds - slope * sizes - start) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
        console.print(f"seconds grow as rows to the power {power:.2f} (1 is linear)")
        console.print(f"a line: {start:.1f} s + {slope * 1e6:.2f} s a million rows, R² {1 - off:.4f}")

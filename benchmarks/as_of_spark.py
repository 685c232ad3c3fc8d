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
import psutil
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from benchmarks.as_of import write_sides
from benchmarks.memory import PeakMemory
from delorean.as_of.join import as_of_join
from delorean.as_of.spark_join import as_of_join_spark
from snapshotter.spark.session import spark_session

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


def join_once(spark: SparkSession, rows: int, buckets: int | None) -> tuple[float, float, PeakMemory]:
    """Make the data of one size, join it, look at what came out, and delete everything."""
    folder = Path(tempfile.mkdtemp(prefix="workload-p-"))
    try:
        write_sides(folder, rows, rows, seed=1)
        start, worked = time.perf_counter(), cpu_seconds()
        with PeakMemory() as memory:
            sides = [spark.read.parquet(str(folder / f"{name}.parquet")) for name in ("labels", "captures")]
            joined = as_of_join_spark(*sides, by="profile_id", buckets=buckets)
            joined.write.option("compression", "zstd").parquet(str(folder / "joined"))
        seconds, worked = time.perf_counter() - start, cpu_seconds() - worked
        check(folder, rows, whole=rows <= 1_000_000)
        line = f"{rows:,} rows a side: {seconds:.1f} s, {worked:.1f} CPU s, worker {memory.worker:,.0f} MiB"
        Console(stderr=True).print(line)
        return seconds, worked, memory
    finally:
        shutil.rmtree(folder)


def cpu_seconds() -> float:
    """What Spark's JVM and workers have worked so far: unlike the clock, it knows nothing of a busy machine."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


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


def report(rows: list[tuple[int, float, float, PeakMemory]]) -> None:
    table = Table(title="Workload P through Spark, Parquet to Parquet, local[2]")
    for column in ("rows a side", "seconds", "CPU seconds", "left rows/s", "worker peak MiB", "JVM peak MiB"):
        table.add_column(column, justify="right")
    for size, seconds, worked, memory in rows:
        peaks = (f"{memory.worker:,.0f}", f"{memory.jvm:,.0f}")
        table.add_row(f"{size:,}", f"{seconds:.1f}", f"{worked:.1f}", f"{size / seconds:,.0f}", *peaks)
    console = Console(width=120)
    console.print(table)
    if len(rows) > 1:
        sizes, *measured = (np.array(column, dtype=float) for column in list(zip(*rows, strict=True))[:3])
        for name, taken in zip(("seconds", "CPU seconds"), measured, strict=True):
            power = np.polyfit(np.log(sizes), np.log(taken), 1)[0]
            slope, start = np.polyfit(sizes, taken, 1)
            fit = 1 - ((taken - slope * sizes - start) ** 2).sum() / ((taken - taken.mean()) ** 2).sum()
            console.print(
                f"{name} grow as rows to the power {power:.2f} (1 is linear); "
                f"as a line: {start:.1f} + {slope * 1e6:.2f} a million rows, R² {fit:.4f}"
            )

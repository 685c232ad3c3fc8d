"""Workload F on a standalone cluster of two workers, beside local[2]: what a cluster costs, and what a worker brings.

Generation on local[2], two workers and one in turns, medians; what a task costs that does nothing; how long it takes
from spark-submit to the first task; then more and more context-items on two workers: rows a second, workers' memory.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyspark
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from benchmarks import first_task
from benchmarks.features import ITEMS, MODEL, World
from benchmarks.memory import PeakMemory
from delorean.generation import generate
from delorean.labels import LabelColumns, Labels, load_labels
from delorean.labels.materialise import materialise_labels
from snapshotter.spark.session import spark_session

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "support"))  # last: it must hide nothing

from spark_cluster import SparkCluster, environment_archive, python_of_executors, spark_cluster  # noqa: E402

LOCAL, ONE, TWO = "local[2]", "one worker", "two workers"
FEW_TASKS, MANY_TASKS = 16, 144
CONSOLE = Console(width=120)


def main(arguments: list[str]) -> None:
    """Make the data, run everything and print the tables."""
    parser = argparse.ArgumentParser("make bench BENCH=cluster", description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 20, 50], help="context-items of each size")
    parser.add_argument("--compared", type=float, default=10, help="millions of the comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the data here, and use what is here")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="workload-f-"))
    try:
        with tempfile.TemporaryDirectory(prefix="cluster-") as place, spark_cluster(Path(place)) as cluster:
            CONSOLE.print(start(cluster, options.repeats))
            CONSOLE.print(compare(cluster, world(folder, options.compared), options.repeats))
            CONSOLE.print(grow(cluster, folder, options.millions, options.repeats))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def world(folder: Path, millions: float) -> World:
    """Labels and snapshots of so many context-items, at rest."""
    return World(folder / f"{millions:g}", int(millions * 1_000_000) // ITEMS)


@contextmanager
def session(where: str, cluster: SparkCluster) -> Iterator[SparkSession]:
    """Spark at one of the places; executors import from here: packing is measured by itself."""
    settings = {
        "spark__ui__enabled": "false",
        "spark__driver__memory": "2g",
        "spark__driver__host": "127.0.0.1",
        "spark__executor__memory": "1g",
        "spark__executorEnv__PYTHONPATH": str(ROOT),
        **({"spark__cores__max": "1"} if where == ONE else {}),
    }
    spark = spark_session("workload F", LOCAL if where == LOCAL else cluster.master, **settings)
    try:
        yield spark
    finally:
        spark.stop()


def start(cluster: SparkCluster, repeats: int) -> Table:
    """Measure from spark-submit to the first task, with our packages in an archive and without."""
    table = Table("", "to the first task, s", title="From spark-submit to the first task: medians")
    archive = environment_archive()
    ways = {
        "executors have the packages": [
            *("--conf", f"spark.pyspark.python={sys.executable}"),
            *("--conf", f"spark.executorEnv.PYTHONPATH={ROOT}"),
        ],
        f"an archive of {archive.stat().st_size / 1e6:.0f} MB travels along": [
            *("--archives", f"{archive}#environment", "--conf", "spark.pyspark.python=./environment/bin/python"),
            *("--conf", f"spark.executorEnv.DELOREAN_PYTHON={python_of_executors()}"),
        ],
    }
    for way, options in ways.items():
        seconds = [_to_first_task(cluster, options) for _ in range(repeats)]
        table.add_row(way, f"{statistics.median(seconds):.1f}")
    return table


def _to_first_task(cluster: SparkCluster, options: list[str]) -> float:
    submit = Path(pyspark.__file__).parent / "bin/spark-submit"
    own = ["--master", cluster.master, "--conf", f"spark.pyspark.driver.python={sys.executable}"]
    began = time.time()
    ran = subprocess.run(
        [str(submit), *own, *options, first_task.__file__], cwd=ROOT, check=True, capture_output=True, text=True
    )
    [first] = [line for line in ran.stdout.splitlines() if line.startswith(first_task.PREFIX)]
    return float(first.removeprefix(first_task.PREFIX)) - began


def compare(cluster: SparkCluster, data: World, repeats: int) -> Table:
    """Generate the same at the three places, in turns."""
    seconds: dict[str, list[float]] = defaultdict(list)
    idle: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for where in (LOCAL, TWO, ONE):
            with session(where, cluster) as spark:
                labels = labels_of(data, spark)
                seconds[where] += _generations(data, labels, spark, 3)[1:]  # the first one warms workers up
                idle[where].append(_cost_of_a_task(spark))
    medians = {where: statistics.median(times) for where, times in seconds.items()}
    table = Table("", "s", "context-items/s", "× local[2]", "× one worker", "a task that does nothing, ms of a core")
    table.title = f"Generation of {data.contexts * ITEMS / 1e6:g} M context-items: medians"
    for where, median in medians.items():
        table.add_row(
            *(where, f"{median:.2f}", f"{data.contexts * ITEMS / median:,.0f}", f"{medians[LOCAL] / median:.2f}"),
            *(f"{medians[ONE] / median:.2f}", f"{statistics.median(idle[where]) * 1000:.1f}"),
        )
    return table


def grow(cluster: SparkCluster, folder: Path, millions: list[float], repeats: int) -> Table:
    """Generate more and more on two workers; rates are compared with the second largest size's."""
    sizes = []
    for size in millions:
        data = world(folder, size)
        with session(TWO, cluster) as spark:
            labels = labels_of(data, spark)
            _generations(data, labels, spark, 1)
            with PeakMemory() as peak:
                median = statistics.median(_generations(data, labels, spark, repeats))
        sizes.append((size, data.buckets, median, peak))
        Console(stderr=True).print(f"{size:g} M: {median:.2f} s, {peak.worker:,.0f} MiB")
    table = Table("context-items", "buckets", "s", "context-items/s", "µs for each", "worker's peak, MiB", "JVM's, MiB")
    table.title = "Generation on two workers, more and more: medians"
    for size, buckets, median, peak in sizes:
        items = size * 1e6
        rates = (f"{median:.2f}", f"{items / median:,.0f}", f"{median / items * 1e6:.3f}")
        table.add_row(f"{size:g} M", str(buckets), *rates, f"{peak.worker:,.0f}", f"{peak.jvm:,.0f}")
    return table


def labels_of(data: World, spark: SparkSession) -> Labels:
    """The labels in buckets, created once."""
    name = "cluster"
    if not list((data.folder / "store/labels" / name).glob("*")):
        frame = spark.read.parquet(str(data.long_labels))
        columns = LabelColumns(items=("video_id",))
        materialise_labels(frame, columns, data.storage, labels_id=name, buckets=data.buckets)
    return load_labels(name, data.storage)


def _generations(data: World, labels: Labels, spark: SparkSession, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        generate(labels, MODEL, data.index, data.storage, "generated", spark=spark)
        seconds.append(time.perf_counter() - began)
        shutil.rmtree(data.folder / "store/feature_sets/generated")  # disk space is limited
    return seconds


def _cost_of_a_task(spark: SparkSession) -> float:
    """Seconds of one core that a task takes which does nothing."""

    def nothing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    def seconds(tasks: int) -> float:
        began = time.perf_counter()
        spark.range(0, tasks, 1, tasks).mapInArrow(nothing, "id long").collect()
        return time.perf_counter() - began

    seconds(FEW_TASKS)
    return (seconds(MANY_TASKS) - seconds(FEW_TASKS)) / (MANY_TASKS - FEW_TASKS) * spark.sparkContext.defaultParallelism

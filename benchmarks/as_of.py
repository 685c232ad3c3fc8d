"""Workload P: a million label rows against a million captured rows, 100,000 keys × 10 captures, 8 float features.

DeLorean, Polars and DuckDB side by side in one run, each on as many threads, from Parquet to Parquet of the same
compression and level, and the join alone on tables in memory. Medians of interleaved runs; what they wrote is compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.turns import seconds_in_turns
from delorean.as_of.join import as_of_join

FEATURES = [f"f{n}" for n in range(8)]
TIME = pa.timestamp("us", "UTC")
START, MONTH = 1_767_225_600_000_000, 30 * 86_400_000_000
PACKING = {"compression": "zstd", "compression_level": 1}
OURS, POLARS, DUCKDB = "DeLorean", "Polars", "DuckDB"


def main(arguments: list[str]) -> None:
    """Make the data, run the three in turns and print the table."""
    parser = argparse.ArgumentParser("make bench BENCH=as_of", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    os.environ["POLARS_MAX_THREADS"] = str(options.threads)  # read when it is imported
    pa.set_cpu_count(options.threads)
    pa.set_io_thread_count(options.threads)
    folder = Path(tempfile.mkdtemp(prefix="workload-p-"))
    try:
        write_sides(folder, options.rows, options.rows, seed=1)
        seconds = seconds_in_turns(parquet_ways(folder, options.threads), options.repeats)
        report(seconds, "Parquet to Parquet", options.rows)
        check(folder)
        seconds = seconds_in_turns(memory_ways(folder, options.threads), options.repeats)
        report(seconds, "the join alone, in memory", options.rows)
    finally:
        shutil.rmtree(folder)


def write_sides(folder: Path, labels: int, captures: int, seed: int, at_once: int = 1_000_000) -> None:
    """Write both sides chunk by chunk, unsorted; no key is captured twice at one time."""
    rng = np.random.default_rng(seed)
    keys = max(1, captures // 10)
    scattered = rng.permutation(captures)
    for name, rows in (("labels", labels), ("captures", captures)):
        with Writer(folder / f"{name}.parquet") as writer:
            for first in range(0, rows, at_once):
                n = min(at_once, rows - first)
                if name == "labels":
                    at = START + rng.integers(0, MONTH, n)
                    columns = {"profile_id": _ids(rng.integers(0, keys, n)), "time": at}
                    columns |= {"label": rng.integers(0, 2, n).astype(np.float32)}
                else:
                    capture = scattered[first : first + n]
                    at = START + (capture // keys * 10 + rng.integers(0, 10, n)) * (MONTH // 100)
                    columns = {"profile_id": _ids(capture % keys), "captured_at": at + rng.integers(0, 10**6, n)}
                    columns |= {feature: rng.normal(size=n).astype(np.float32) for feature in FEATURES}
                times = {c: pa.array(v).cast(TIME) if c in ("time", "captured_at") else v for c, v in columns.items()}
                writer.write(pa.table(times))


def _ids(numbers: np.ndarray) -> np.ndarray:
    """Spread numbers over 40 bits, each onto one of its own."""
    return (numbers.astype(np.int64) * 0x9E3779B1) % (1 << 40)


class Writer:
    """Writes tables into one Parquet file, its schema that of the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema, use_dictionary=False, **PACKING)
        self.writer.write_table(table)


def parquet_ways(folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    import duckdb
    import polars as pl

    left, right = folder / "labels.parquet", folder / "captures.parquet"
    db = duckdb.connect(config={"threads": threads})
    db.execute("SET TimeZone = 'UTC'")

    def ours() -> None:
        joined = as_of_join(pq.read_table(left), pq.read_table(right), by="profile_id")
        pq.write_table(joined, folder / f"{OURS}.parquet", use_dictionary=False, **PACKING)

    def polars() -> None:
        joined = polars_join(pl.read_parquet(left), pl.read_parquet(right))
        joined.write_parquet(folder / f"{POLARS}.parquet", **PACKING)

    def lazy_polars() -> None:
        joined = polars_join(pl.scan_parquet(left), pl.scan_parquet(right))
        joined.sink_parquet(folder / f"{POLARS}-lazy.parquet", **PACKING)

    def duck() -> None:
        db.execute(
            f"""
            COPY (
                SELECT l.*, r.* EXCLUDE (profile_id) FROM '{left}' l ASOF LEFT JOIN '{right}' r
                ON l.profile_id = r.profile_id AND l.time >= r.captured_at
            ) TO '{folder / DUCKDB}.parquet' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)
            """
        )

    return {OURS: ours, POLARS: polars, f"{POLARS}, lazily": lazy_polars, DUCKDB: duck}


def polars_join(left, right):  # type: ignore[no-untyped-def]
    return left.sort("time").join_asof(
        right.sort("captured_at"),
        left_on="time",
        right_on="captured_at",
        by="profile_id",
        coalesce=False,
        check_sortedness=False,  # it cannot check within keys, and says so
    )


def memory_ways(folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    import duckdb
    import polars as pl

    left, right = pq.read_table(folder / "labels.parquet"), pq.read_table(folder / "captures.parquet")
    frames = pl.from_arrow(left), pl.from_arrow(right)
    db = duckdb.connect(config={"threads": threads})
    for name, table in (("l", left), ("r", right)):
        db.register("arrow", table)
        db.execute(f"CREATE TABLE {name} AS FROM arrow")
    query = "CREATE OR REPLACE TABLE o AS SELECT l.*, r.* EXCLUDE (profile_id) FROM l ASOF LEFT JOIN r"
    on = "ON l.profile_id = r.profile_id AND l.time >= r.captured_at"
    return {
        OURS: lambda: as_of_join(left, right, by="profile_id"),
        POLARS: lambda: polars_join(*frames),
        DUCKDB: lambda: db.execute(f"{query} {on}"),
    }


def check(folder: Path) -> None:
    """Compare what was written, row by row, whatever order it was written in."""
    order = [("profile_id", "ascending"), ("time", "ascending"), ("label", "ascending")]
    written = {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet")) if path.stem[0].isupper()}
    ours = written.pop(OURS)
    for name, table in written.items():
        if not table.select(ours.column_names).cast(ours.schema).sort_by(order).equals(ours.sort_by(order)):
            raise SystemExit(f"{name} wrote other rows than {OURS}")
    matched = len(ours) - ours["captured_at"].null_count
    print(f"the same rows from {OURS}, {', '.join(written)}: {len(ours):,}, of which {matched:,} matched")


def report(seconds: dict[str, list[float]], title: str, rows: int) -> None:
    table = Table(title=f"Workload P, {rows:,} × {rows:,} rows: {title}")
    for column in ("", "median s", "fastest s", "rows/s", "÷ the faster other"):
        table.add_column(column, justify="left" if not column else "right")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    other = min(median for name, median in medians.items() if name != OURS)
    for name, median in medians.items():
        ratio = f"{median / other:.2f}×"
        table.add_row(name, f"{median:.3f}", f"{min(seconds[name]):.3f}", f"{rows / median:,.0f}", ratio)
    Console(width=120).print(table)

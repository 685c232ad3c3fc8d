"""Queries that only read Parquet files are recognised, and their rows are those that Spark reads."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from schemas.tables import TIME
from snapshotter.spark.plain_scan import plain_scan
from snapshotter.storage import open_storage
from snapshotter.storage.parquet_scan import UnclearFileError

START = datetime(2026, 5, 1, tzinfo=UTC)
ROWS = pa.table(
    {
        "profile_id": pa.array(np.repeat(np.arange(100), 3), pa.int64()),
        "Country": pa.array([None if i % 7 == 0 else ["US", "DE", "é"][i % 3] for i in range(300)]),
        "at": pa.array([START + timedelta(minutes=i // 3) for i in range(300)], TIME),
        "video_id": pa.array(np.tile(np.arange(3), 100), pa.int32()),
        "label": pa.array(np.where(np.arange(300) % 5 == 0, np.nan, 0.5)),
        "seen_at": pa.array([START + timedelta(days=1, minutes=i // 3) for i in range(300)], TIME),
    }
)
WHERE = "SELECT profile_id AS p, video_id, label FROM {} WHERE "
PLAIN = [
    "SELECT * FROM {}",
    "SELECT country, PROFILE_ID AS p, at FROM {}",
    WHERE + "profile_id >= 10 AND profile_id < 20 AND video_id = 2 AND country IS NOT NULL",
    WHERE + "at > timestamp'2026-05-01 00:10:00+00:00' AND at <= timestamp'2026-05-01 01:00:00+02:00' + interval 1 day",
    WHERE + "country > 'DE' AND country <= 'é'",
]
OTHER = [
    WHERE + "label >= 0.5",
    WHERE + "profile_id = 1 OR video_id = 2",
    WHERE + "video_id = CAST(country AS INT)",
    WHERE + "profile_id NOT IN (1, 2)",
    "SELECT profile_id + 1 AS p, at FROM {}",
    "SELECT DISTINCT profile_id FROM {}",
    "SELECT a.profile_id FROM {0} a JOIN {0} b USING (profile_id)",
    "SELECT profile_id FROM {} WHERE rand() < 0.5",
    "SELECT profile_id FROM {} LIMIT 3",
]


def scanned(scan):
    batches = [batch for part in scan.slices(3) for each in part for batch in scan.read(each)]
    return pa.Table.from_batches(batches) if batches else None


def in_order(table):
    return sorted(map(repr, table.to_pylist()))


@pytest.fixture(scope="module")
def views(spark, tmp_path_factory):
    """Equal rows as written by several programs."""
    folder = tmp_path_factory.mktemp("tables # 100%")
    pq.write_table(ROWS, folder / "arrow.parquet", row_group_size=70)
    ROWS.to_pandas().to_parquet(folder / "pandas.parquet", coerce_timestamps="us", index=False)
    pl.DataFrame(pl.from_arrow(ROWS)).write_parquet(folder / "polars.parquet")
    spark.read.parquet(str(folder / "arrow.parquet")).repartition(3).write.parquet(str(folder / "spark"))
    write_deltalake(str(folder / "delta"), ROWS)
    write_deltalake(str(folder / "delta"), ROWS.slice(0, 30), mode="append")
    frames = {each: spark.read.parquet(str(folder / f"{each}.parquet")) for each in ("arrow", "pandas", "polars")}
    frames |= {"spark_files": spark.read.parquet(str(folder / "spark"))}
    frames |= {"delta_files": spark.read.format("delta").load(str(folder / "delta"))}
    for name, frame in frames.items():
        frame.createOrReplaceTempView(name)
    yield frames
    for name in frames:
        spark.catalog.dropTempView(name)


def test_plain_queries_are_read_as_spark_reads_them_whoever_wrote_the_files(spark, views):
    for query, view in [*((PLAIN[2], view) for view in views), *((query, "arrow") for query in PLAIN)]:
        frame = spark.sql(query.format(view))
        scan = plain_scan(frame)
        assert scan is not None, (query, view)
        found, expected = scanned(scan), frame.toArrow()
        assert found.column_names == expected.column_names
        assert in_order(found) == in_order(expected), (query, view)


@pytest.mark.parametrize("query", OTHER)
def test_other_queries_are_left_to_spark(spark, views, query):
    assert plain_scan(spark.sql(query.format("arrow"))) is None


def test_files_that_do_not_hold_all_of_a_table_are_left_to_spark(spark, views, tmp_path):
    assert plain_scan(views["arrow"].select("profile_id", "_metadata.file_name")) is None
    pq.write_to_dataset(ROWS, tmp_path / "folders", partition_cols=["video_id"])
    folders = spark.read.parquet(str(tmp_path / "folders"))
    assert plain_scan(folders) is None
    assert plain_scan(folders.where("video_id = 1").select("profile_id")) is None
    assert scanned(plain_scan(folders.select("profile_id"))).num_rows == 300
    write_deltalake(str(tmp_path / "deleted"), ROWS, configuration={"delta.enableDeletionVectors": "true"})
    deleted = spark.read.format("delta").load(str(tmp_path / "deleted"))
    assert DeltaTable(str(tmp_path / "deleted")).protocol().min_reader_version > 1
    assert plain_scan(deleted) is None
    assert plain_scan(spark.createDataFrame(ROWS.to_pandas())) is None
    cached = spark.read.parquet(str(tmp_path / "folders")).select("profile_id").cache()
    cached.count()
    assert plain_scan(cached) is None
    cached.unpersist()


def test_label_data_of_a_plain_query_equals_that_of_its_rows_and_unclear_files_are_left_to_spark(spark, tmp_path):
    storage, columns = (
        open_storage(f"file://{tmp_path / 'store'}"),
        LabelColumns(("video_id",), context=("profile_id",), time="at", label="label", outcome_at="seen_at"),
    )
    rows = ROWS.drop_columns(["Country", "label"]).append_column("label", pa.array([0.5] * 300))
    pq.write_table(rows, tmp_path / "clear.parquet", row_group_size=70)
    old = pd.DataFrame(rows.to_pandas())
    old.to_parquet(tmp_path / "unclear.parquet", use_deprecated_int96_timestamps=True, index=False)
    unclear = spark.read.parquet(str(tmp_path / "unclear.parquet"))
    with pytest.raises(UnclearFileError):
        scanned(plain_scan(unclear))
    frames = [rows, spark.read.parquet(str(tmp_path / "clear.parquet")), unclear]
    written = [materialise_labels(frame, columns, storage, buckets=2) for frame in frames]
    files = [[(file.bucket, file.rows, file.checksum) for file in labels.files] for labels in written]
    assert files[0] == files[1] == files[2]
    assert not [file.path for file in storage.list("labels") if "rows-" in file.path]

"""Label data in files as pandas, Polars and others write them, through Spark SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from delorean.experiment.tables import query
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from schemas.errors import JobError, LabelError, NaiveTimeError, SelectionError
from schemas.tables import TIME
from snapshotter.spark.tables import load_table
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet
from snapshotter.storage.table_source import TableSource

START = datetime(2026, 5, 1, tzinfo=UTC)
NANOS = pd.to_datetime([START, START])
ALL = "SELECT * FROM shown"
Write = Callable[[str], Any]


def frame(**columns: Any) -> pd.DataFrame:
    plain = {"profile_id": [1, 2], "time": NANOS, "video_id": [7, 8], "label": [0, 1]}
    return pd.DataFrame({**plain, "outcome_at": NANOS + pd.Timedelta("1h"), **columns})


def with_column(values: pa.Array) -> Write:
    return lambda path: pq.write_table(pa.Table.from_pandas(frame()).append_column("c", values), path)


@pytest.fixture
def labels_of(spark: SparkSession, tmp_path: Path) -> Callable[..., pa.Table]:
    def read(write: Write, text: str = ALL, format: str = "parquet", **columns: Any) -> pa.Table:  # noqa: A002
        path = str(tmp_path / f"shown.{format}")
        write(path)
        rows = query(spark, text, {"shown": TableSource(path, format)})
        storage = open_storage(f"file://{tmp_path}/store")
        labels = materialise_labels(rows, LabelColumns(("video_id",), **columns), storage, buckets=2)
        return pa.concat_tables([read_parquet(storage, file) for file in labels.files]).sort_by("profile_id")

    return read


def test_nanoseconds_are_read_and_are_no_other_instants(labels_of: Callable[..., pa.Table]) -> None:
    times = NANOS + pd.to_timedelta([-(10**18) - 1000, 10**9 + 1000])  # one before 1970
    rows = labels_of(frame(time=times).to_parquet)
    assert rows.schema.field("time").type == TIME
    assert rows["time"].to_pylist() == list(times.to_pydatetime())


def test_what_pandas_and_polars_write_is_read(labels_of: Callable[..., pa.Table]) -> None:
    unsigned = frame(
        profile_id=pd.array([1, 2**32 - 1], dtype="uint32"),
        video_id=pd.array([7, 2**63 - 1], dtype="uint64"),
        c=pd.Categorical(["a", "b"]),
    )
    rows = labels_of(unsigned.to_parquet)
    assert rows.schema.types[:2] == [pa.int64(), pa.string()]
    assert rows["profile_id"].to_pylist() == [1, 2**32 - 1]
    assert rows["video_id"].to_pylist() == [[7], [2**63 - 1]]
    assert rows["c"].to_pylist() == ["a", "b"]
    filtered = frame()[lambda each: each.profile_id > 1]
    assert labels_of(filtered.to_parquet).column_names[:2] == ["profile_id", "time"]
    grouped = pl.from_pandas(frame()).group_by("profile_id", "time", "outcome_at").agg("video_id", "label")
    assert labels_of(grouped.write_parquet)["video_id"].to_pylist() == [[7], [8]]


def test_json_lines_of_pandas_are_read_where_the_unit_is_known(labels_of: Callable[..., pa.Table]) -> None:
    def write(path: str) -> None:
        frame().to_json(path, orient="records", lines=True, date_unit="ms")

    with pytest.raises(LabelError, match='column .time. of the label data is int64: integers are times only if.*"ms"'):
        labels_of(write, format="json")
    assert labels_of(write, format="json", time_unit="ms")["time"].to_pylist() == [START, START]


WITHOUT_TIME = "SELECT profile_id, video_id, label, outcome_at"
REFUSED: dict[str, tuple[Write, str, str]] = {
    "finer than microseconds": (
        frame(time=NANOS + pd.Timedelta("1ns")).to_parquet,
        ALL,
        "column 'time' of table 'shown': 1777593600000000001 nanoseconds is finer than a microsecond.* → round it",
    ),
    "an unsigned key": (
        frame(profile_id=pd.array([1, 2**64 - 1], dtype="uint64")).to_parquet,
        ALL,
        "column 'profile_id' of the label data: 18446744073709551615 does not fit int64; in the row with time=",
    ),
    "dates": (frame().to_parquet, f"{WITHOUT_TIME}, CAST(time AS DATE) AS time FROM shown", "is a date, which is no"),
    "a year that is none": (
        frame().to_parquet,
        f"{WITHOUT_TIME}, CAST(unix_millis(time) AS TIMESTAMP) AS time FROM shown",
        "'time' of the label data: 1777593600000000000 us is outside the years 1 to 9999",
    ),
    "a column twice": (frame().to_parquet, "SELECT *, video_id FROM shown", "several columns named 'video_id' and"),
    "cases": (frame().to_parquet, "SELECT *, label AS Profile_ID FROM shown", "named 'profile_id' and 'Profile_ID'"),
    "a label left over": (
        frame().to_parquet,
        "SELECT *, outcome_at AS seen_at FROM shown",
        "column 'outcome_at' of the label data would be a variable beside the rows' own outcome_at",
    ),
    "a list": (with_column(pa.array([[1], [2]])), ALL, "column 'c' of the label data is list<"),
    "a struct": (frame().to_parquet, "SELECT *, struct(label) AS c FROM shown", "column 'c' of the label data is stru"),
    "a map": (frame().to_parquet, "SELECT *, map('a', label) AS c FROM shown", "column 'c' of the label data is map<"),
    "nulls": (frame().to_parquet, "SELECT *, NULL AS c FROM shown", "column 'c' of the label data is null"),
    "an interval": (frame().to_parquet, "SELECT *, outcome_at - time AS c FROM shown", "column 'c' .* is duration"),
    "a UUID": (
        with_column(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 2, pa.binary(16)))),
        ALL,
        r"table 'shown': Spark cannot read 'c' \(extension<arrow.uuid>\) of .*shown.parquet → write the file without",
    ),
    "a half float": (with_column(pa.array([1.0, 2.0], pa.float16())), ALL, r"Spark cannot read 'c' \(halffloat\)"),
    "lists of nanoseconds": (
        with_column(pa.array([[1], [2]], pa.list_(pa.timestamp("ns", "UTC")))),
        ALL,
        r"Spark cannot read 'c' \(list<.*timestamp\[ns",
    ),
    "a cast that fails": (frame().to_parquet, "SELECT *, CAST('x' AS INT) + label AS c FROM shown", "CAST_INVALID_IN"),
    "an unknown column": (frame().to_parquet, "SELECT profil_id FROM shown", "`profil_id` cannot be resolved"),
    "no SQL": (frame().to_parquet, "SELEC *", "Syntax error at or near 'SELEC'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_column_and_for_good(
    labels_of: Callable[..., pa.Table], case: str
) -> None:
    write, text, message = REFUSED[case]
    columns = {"outcome_at": "seen_at"} if "seen_at" in text else {}
    with pytest.raises(LabelError, match=message) as raised:
        labels_of(write, text, **columns)
    assert raised.value.final
    assert not isinstance(raised.value, JobError)


def test_a_wall_clock_of_nanoseconds_stays_one(labels_of: Callable[..., pa.Table]) -> None:
    write = frame(time=NANOS.tz_localize(None)).to_parquet
    with pytest.raises(NaiveTimeError, match="column 'time' .* is ambiguous"):
        labels_of(write)
    rows = labels_of(write, f"{WITHOUT_TIME}, CAST(time AS TIMESTAMP) AS time FROM shown")
    assert rows["time"].to_pylist() == [START, START]


def test_tables_of_selections_are_read_the_same_way(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    frame().to_parquet(folder / "part-0.parquet")
    table = load_table(spark, "shown", TableSource(str(folder)), SelectionError)
    assert dict(table.dtypes)["time"] == "timestamp"
    assert {row["time"] for row in table.toArrow().to_pylist()} == {START}

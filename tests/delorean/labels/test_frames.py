"""Label data as pandas, Polars and pyarrow really have it: read as what it means, or refused by the column's name."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delorean.labels import LabelColumns, Labels, load_labels
from delorean.labels.casting import Caster
from delorean.labels.materialise import materialise_labels
from schemas.errors import LabelError, NaiveTimeError
from schemas.tables import TIME
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet

START = datetime(2026, 5, 1, tzinfo=UTC)
COLUMNS = LabelColumns(items=("video_id",))
NANOS = pd.to_datetime([START, START])


def pandas_rows(**columns: Any) -> pd.DataFrame:
    plain = {"profile_id": [1, 2], "time": NANOS, "video_id": [7, 8], "label": [0, 1]}
    return pd.DataFrame({**plain, "outcome_at": NANOS + pd.Timedelta("1h"), **columns})


def polars_rows(**columns: Any) -> pl.DataFrame:
    return pl.from_pandas(pandas_rows()).with_columns(**columns)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}")


def rows_of(labels: Labels, storage: Storage) -> pa.Table:
    assert load_labels(labels.labels_id, storage) == labels
    return pa.concat_tables([read_parquet(storage, file) for file in labels.files])


def materialised(frame: Any, storage: Storage, columns: LabelColumns = COLUMNS) -> pa.Table:
    return rows_of(materialise_labels(frame, columns, storage, buckets=1), storage)


READ = {
    "nanoseconds": (pandas_rows(), "time", TIME, [START, START]),
    "a categorical": (pandas_rows(c=pd.Categorical(["a", "b"])), "c", pa.string(), ["a", "b"]),
    "a Polars categorical": (
        polars_rows(c=pl.Series(["a", "b"], dtype=pl.Categorical)),
        "c",
        pa.string(),
        ["a", "b"],
    ),
    "a Polars enum": (polars_rows(c=pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"]))), "c", pa.string(), ["a", "b"]),
    "views of text": (polars_rows(c=pl.Series(["a", "b"])), "c", pa.string(), ["a", "b"]),
    "unsigned 8": (polars_rows(c=pl.Series([1, 255], dtype=pl.UInt8)), "c", pa.int16(), [1, 255]),
    "unsigned 16": (polars_rows(c=pl.Series([1, 2**16 - 1], dtype=pl.UInt16)), "c", pa.int32(), [1, 2**16 - 1]),
    "unsigned 32": (polars_rows(c=pl.Series([1, 2**32 - 1], dtype=pl.UInt32)), "c", pa.int64(), [1, 2**32 - 1]),
    "unsigned 64": (polars_rows(c=pl.Series([1, 2**63 - 1], dtype=pl.UInt64)), "c", pa.int64(), [1, 2**63 - 1]),
    "a date as a variable": (pandas_rows(c=[date(2026, 1, 1)] * 2), "c", pa.date32(), [date(2026, 1, 1)] * 2),
    "a decimal": (
        pandas_rows(c=[Decimal("1.50"), Decimal("2.25")]),
        "c",
        pa.decimal128(3, 2),
        [Decimal("1.50"), Decimal("2.25")],
    ),
    "milliseconds": (polars_rows(c=pl.lit(START).cast(pl.Datetime("ms", "UTC"))), "c", TIME, [START, START]),
    "another zone": (pandas_rows(time=NANOS.tz_convert("Asia/Tokyo")), "time", TIME, [START, START]),
    "text with a zone": (
        pandas_rows(time=["2026-05-01T00:00:00Z", "2026-05-01T02:00+02:00"]),
        "time",
        TIME,
        [START] * 2,
    ),
    "an index that a filter left": (pandas_rows()[lambda rows: rows.profile_id == 2], "profile_id", pa.int64(), [2]),
    "an index with a name": (pandas_rows().set_index("profile_id"), "profile_id", pa.int64(), [1, 2]),
    "labels of booleans": (pandas_rows(label=[False, True]), "label", pa.list_(pa.float32()), [[0.0], [1.0]]),
    "labels of doubles": (
        pandas_rows(label=[0.0, 0.1]),
        "label",
        pa.list_(pa.float32()),
        [[0.0], [pytest.approx(0.1)]],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_what_frames_have_is_read_as_what_it_means(storage: Storage, case: str) -> None:
    frame, column, type_at_rest, values = READ[case]
    rows = materialised(frame, storage).sort_by("profile_id")
    assert rows.schema.field(column).type == type_at_rest
    assert rows[column].to_pylist() == values
    assert not [name for name in rows.column_names if name.startswith("_")]


REFUSED = {
    "epoch seconds": ({"time": [1777593600, 1777593601]}, 'integers are times only if .* time_unit = "s"'),
    "floats as times": ({"time": [1777593600.0, 1777593601.0]}, "'time' of the label data is double, expected times"),
    "dates as times": ({"time": [date(2026, 5, 1)] * 2}, "is a date, not a time.* time_unit = .day."),
    "dates as outcomes": ({"outcome_at": [date(2026, 5, 2)] * 2}, "'outcome_at' of the label data is a date"),
    "text without a zone": (
        {"time": ["2026-05-01T00:00:00Z", "2026-05-01T00:00:00"]},
        "2026-05-01T00:00:00 is not a time with a zone; in the row with profile_id=2",
    ),
    "finer than microseconds": (
        {"time": [NANOS[0], NANOS[0] + pd.Timedelta("1ns")]},
        "'time' of the label data: 2026-05-01 00:00:00.000000001.00:00 is finer than a microsecond.*profile_id=2",
    ),
    "a list": ({"c": [[1], [2]]}, "'c' of the label data is list<.*cannot be a context or item variable"),
    "a struct": ({"c": [{"a": 1}] * 2}, "'c' of the label data is struct<.*cannot be a context or item variable"),
    "nothing but nulls": ({"c": [None, None]}, "'c' of the label data is null"),
    "a duration": ({"c": [timedelta(1)] * 2}, "'c' of the label data is duration"),
    "a time of day": ({"c": [time(1)] * 2}, "'c' of the label data is time64"),
    "a NaN": ({"c": pd.array([1.0, float("nan")], dtype="double[pyarrow]")}, "1 nulls in column 'c'"),
    "times as labels": ({"label": NANOS}, "'label' of the label data is timestamp.*expected numbers or booleans"),
    "words as labels": ({"label": ["1", "yes"]}, "column 'label' of the label data: yes does not fit float"),
    "large labels": ({"label": [0, 2**40 + 1]}, "1099511627777 does not fit float; in the row with profile_id=2"),
    "a name of several words": (
        {"my column": [1, 2]},
        "'my column' of .* that encoders cannot use → .*`my column` AS …",
    ),
    "names that differ by case": ({"Profile_ID": [1, 2]}, "named 'profile_id' and 'Profile_ID'"),
    "a name of label data's own": ({"Outcome_At": [1, 2]}, "named 'outcome_at' and 'Outcome_At'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_column_before_any_work(storage: Storage, case: str) -> None:
    columns, message = REFUSED[case]
    with pytest.raises(LabelError, match=message) as raised:
        materialise_labels(pandas_rows(**columns), COLUMNS, storage)
    assert raised.value.final
    assert list(storage.list("labels")) == []


def test_what_only_other_frames_have_is_refused_as_well(storage: Storage) -> None:
    rows = pa.table(pandas_rows())
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 2, pa.binary(16)))
    maps = pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int32()))
    wrong = {
        "extension<arrow.uuid>": rows.append_column("c", uuids),
        "fixed_size_binary": rows.append_column("c", pa.array([b"0" * 16] * 2, pa.binary(16))),
        "map<string, int32>": rows.append_column("c", maps),
        "named 'video_id' and 'video_id'": rows.append_column("video_id", rows["video_id"]),
        "Duplicate column names": pandas_rows(c=0).rename(columns={"c": "video_id"}),
        "object has no attribute|pointer|fixed_size_binary": polars_rows(c=pl.Series([object()] * 2, dtype=pl.Object)),
        "_pli128|int128": polars_rows(c=pl.Series([1, 2], dtype=pl.Int128)),
        "18446744073709551615 does not fit int64; in the row with profile_id=2": polars_rows(
            c=pl.Series([1, 2**64 - 1], dtype=pl.UInt64)
        ),
        "column 'time' of the label data: 1777593600000000000 ms is outside the years 1 to 9999": polars_rows(
            time=(pl.col("time").dt.epoch("ms") * 1_000_000).cast(pl.Datetime("ms", "UTC"))
        ),
        "unknown column of the label data 'label' → did you mean 'labels'": rows.rename_columns(
            ["profile_id", "time", "video_id", "labels", "outcome_at"]
        ),
    }
    for message, frame in wrong.items():
        with pytest.raises(LabelError, match=message):
            materialise_labels(frame, COLUMNS, storage)
    assert list(storage.list("labels")) == []


def test_a_time_without_a_zone_says_how_to_give_it_one(storage: Storage) -> None:
    with pytest.raises(NaiveTimeError, match=r"column 'time' .* is ambiguous → .*tz_localize\(\"UTC\"\)"):
        materialise_labels(pandas_rows(time=NANOS.tz_localize(None)), COLUMNS, storage)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_integers_are_times_where_their_unit_is_known(storage: Storage, unit: Any, factor: int) -> None:
    seconds = int(START.timestamp())
    frame = pandas_rows(time=[seconds * factor] * 2, outcome_at=[(seconds + 9) * factor] * 2)
    rows = materialised(frame, storage, LabelColumns(("video_id",), time_unit=unit))
    assert rows["time"].to_pylist() == [START, START]
    assert rows["outcome_at"].to_pylist() == [START + timedelta(seconds=9)] * 2


def test_days_are_times_where_the_spec_says_so(storage: Storage) -> None:
    by_day = LabelColumns(("video_id",), time_unit="day")
    for days in ([START.date()] * 2, [(START.date() - date(1970, 1, 1)).days] * 2):
        assert materialised(pandas_rows(time=days), storage, by_day)["time"].to_pylist() == [START, START]


def test_milliseconds_taken_for_seconds_are_refused_and_an_unknown_unit_too(storage: Storage) -> None:
    with pytest.raises(LabelError, match="1777593600000 is outside the years 1 to 9999, and 1 more; in the row"):
        materialised(pandas_rows(time=[1777593600000] * 2), storage, LabelColumns(("video_id",), time_unit="s"))
    with pytest.raises(LabelError, match="unknown time_unit 'm' → did you mean 'ms'. known: day, ms, ns, s, us"):
        LabelColumns(("video_id",), time_unit="m")  # type: ignore[arg-type]  # as a person may


@pytest.mark.parametrize(
    "items",
    [
        pl.List(pl.Int64),
        pl.List(pl.UInt32),
        pl.List(pl.String),
        pl.List(pl.Categorical),
        pl.Array(pl.Int64, 2),
    ],
)
def test_grouped_rows_have_lists_of_any_form(storage: Storage, items: Any) -> None:
    grouped = polars_rows(video_id=pl.Series([[9, 3], [5, 5 + 1]]), label=pl.Series([[0, 1], [1, 0]]))
    inner = pl.List(pl.String) if items in (pl.List(pl.String), pl.List(pl.Categorical)) else pl.List(pl.Int64)
    rows = materialised(grouped.with_columns(pl.col("video_id").cast(inner).cast(items)), storage).sort_by("profile_id")
    assert [[str(item) for item in row] for row in rows["video_id"].to_pylist()] == [["9", "3"], ["5", "6"]]
    assert rows["label"].to_pylist() == [[0.0, 1.0], [1.0, 0.0]]


def test_an_item_that_does_not_fit_is_named_with_its_row(storage: Storage) -> None:
    items = pl.Series([[1, 2], [3, 2**64 - 1]], dtype=pl.List(pl.UInt64))
    with pytest.raises(
        LabelError, match=r"'video_id' of the label data: .*does not fit int64; in the row with profile_id=2"
    ):
        materialise_labels(polars_rows(video_id=items, label=pl.Series([[0, 1], [1, 0]])), COLUMNS, storage)


def test_duckdb_gives_rows_too(storage: Storage) -> None:
    made = duckdb.sql(
        "SELECT 1::UINTEGER AS profile_id, 'a'::ENUM ('a', 'b') AS c, TIMESTAMPTZ '2026-05-01 00:00:00Z' AS time,"
        " 7::UBIGINT AS video_id, 1 AS label, TIMESTAMPTZ '2026-05-01 01:00:00Z' AS outcome_at"
    )
    assert materialised(made.to_arrow_table(), storage).to_pylist()[0]["c"] == "a"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    micros=st.lists(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999), min_size=1),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    as_integers=st.booleans(),
)
def test_times_are_the_same_instants_in_any_unit_or_refused(micros: list[int], unit: Any, as_integers: bool) -> None:
    factor = {"s": 10**6, "ms": 10**3, "us": 1}.get(unit)
    counts = [m // factor if factor else m * 1000 for m in micros]
    if any(abs(count) >= 2**63 for count in counts):
        return
    column = pa.array(counts, pa.int64()) if as_integers else pa.array(counts, pa.timestamp(unit, "UTC"))
    found = Caster(pa.table({"time": column}), time_unit=unit).time("time")
    assert found.cast(pa.int64()).to_pylist() == [count * factor if factor else count // 1000 for count in counts]

"""The as-of join: types and encodings, the ends of time, names, refusals. Its answers: test_as_of_oracles.py."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from delorean.as_of.join import as_of_join
from schemas.errors import DataKeyError, NaiveTimeError

START = datetime(2026, 3, 29, tzinfo=UTC)  # the day Europe's clocks jump
DAY = START.date()
TIME = pa.timestamp("us", "UTC")


def uuids(values):
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16)))


@pytest.mark.parametrize(
    ("kind", "same", "other"),
    [
        (pa.int8(), 1, 2),
        (pa.string(), "ä", "a"),
        (pa.bool_(), True, False),
        (pa.date32(), START.date(), START.date() + timedelta(1)),
        (pa.decimal128(10, 2), "1.10", "1.11"),
        (TIME, START, START + timedelta(microseconds=1)),
        (pa.binary(), b"\x00", b""),
        (pa.binary(2), b"ab", b"ba"),
        (pa.string_view(), "a", "b"),
        (pa.dictionary(pa.int8(), pa.string()), "a", "b"),
    ],
)
def test_any_type_that_compares_by_value_is_a_key(kind, same, other):
    def column(*values):
        return pa.array(values).cast(kind)

    left = pa.table({"k": column(same, other), "time": pa.array([START, START], TIME)})
    right = pa.table({"k": column(same), "captured_at": pa.array([START], TIME), "v": [1]})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == [1, None]


def matches(left_keys, right_keys, **options):
    """Which right row each left row gets, all captured and asked for at once."""

    def side(keys, time):
        return pa.table({"k": keys, time: pa.array([START] * len(keys), TIME)})

    right = side(right_keys, "captured_at").append_column("row", pa.array(range(len(right_keys)), pa.int64()))
    return as_of_join(side(left_keys, "time"), right, by="k", **options)["row"].to_pylist()


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["b"], pa.large_string()), [None, 0]),
        (pa.DictionaryArray.from_arrays([0, 1, None], pa.array(["a", None])), pa.array(["a", None]), [0, None, None]),
        (pa.DictionaryArray.from_arrays([0, 1], pa.array(["a", "a"])), pc.run_end_encode(pa.array(["a"])), [0, 0]),
        (pa.array([1, 2], pa.int8()), pa.array([2], pa.uint64()), [None, 0]),
        (pa.array([2**64 - 1, 5], pa.uint64()), pa.array([-1, 5], pa.int64()), [None, 1]),
        (pa.array([2**64 - 1, 5], pa.uint64()), pa.array([2**64 - 1], pa.uint64()), [0, None]),
        (pa.array([DAY, DAY + timedelta(1)], pa.date64()), pa.array([DAY], pa.date32()), [0, None]),
        (pa.array([Decimal("1.10")], pa.decimal32(5, 2)), pa.array([Decimal("1.1")], pa.decimal256(60, 9)), [0]),
        (pa.array([Decimal(100)], pa.decimal128(5, -2)), pa.array([Decimal(100)], pa.decimal128(9, 2)), [0]),
        (pa.array([1], pa.time32("s")), pa.array([10**9 + 1, 10**9], pa.time64("ns")), [1]),
        (pa.array([2**62], pa.duration("s")), pa.array([2**62 // 10**6], pa.duration("us")), [None]),
        (pa.array([START], pa.timestamp("s", "Asia/Tokyo")), pa.array([START], pa.timestamp("ns", "UTC")), [0]),
        (pa.array([b"ab", b"a"]), pa.array([b"ab"], pa.binary(2)), [0, None]),
        (uuids([b"u" * 16, None]), uuids([b"u" * 16]), [0, None]),
        (pa.nulls(2), pa.array([1]), [None, None]),
        (pa.array([None, None], pa.string()), pa.array([None], pa.string()), [None, None]),
        (pa.nulls(1), pa.nulls(1), [None]),
    ],
)
def test_keys_compare_by_value_whatever_their_widths_units_and_encodings(left, right, expected):
    assert matches(left, right) == expected


def test_times_of_any_unit_and_zone_are_compared_as_instants():
    left = pa.table({"k": [1], "time": pa.array([START], pa.timestamp("s", "America/New_York"))})
    a_nanosecond_later = pc.add(pa.array([START], pa.timestamp("ns", "UTC")).cast(pa.int64()), 1).cast(
        pa.timestamp("ns", "Asia/Tokyo")
    )
    right = pa.table({"k": [1], "captured_at": a_nanosecond_later, "v": [1]})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == [None]
    same = right.set_column(1, "captured_at", pa.array([START], pa.timestamp("ns", "Asia/Tokyo")))
    assert as_of_join(left, same, by="k")["v"].to_pylist() == [1]


def test_tie_break_columns_decide_among_equal_times_and_then_the_later_row():
    left = pa.table({"k": [1], "time": pa.array([START], TIME)})
    right = pa.table(
        {"k": [1, 1, 1], "captured_at": pa.array([START] * 3, TIME), "version": [2, 9, 2], "v": ["a", "b", "c"]}
    )
    assert as_of_join(left, right, by="k")["v"].to_pylist() == ["c"]
    assert as_of_join(left, right, by="k", tie_break="version")["v"].to_pylist() == ["b"]


@pytest.mark.parametrize(
    ("values", "greatest"),
    [
        (pa.array([None, float("nan"), float("-inf")]), 2),
        (pa.array([float("nan"), None]), 0),
        (pa.array([0.0, -0.0]), 1),
        (pa.array([2, 1, 2], pa.uint64()), 2),
        (pa.array(["b", "a", None], pa.string_view()), 0),
        (pa.array(["b", "a"]).dictionary_encode(), 0),
        (pa.array([b"b", b"a"], pa.binary(1)), 0),
        (pa.array([1.5, 0.5], pa.float16()), 0),
        (pa.array([Decimal("1.1"), Decimal(-1)], pa.decimal64(9, 2)), 0),
        (pa.array([True, False]), 0),
        (pa.nulls(2), 1),
    ],
)
def test_the_greatest_wins_a_tie_nulls_least_then_nan_and_of_equal_ones_the_later(values, greatest):
    left = pa.table({"k": [1], "time": pa.array([START], TIME)})
    right = pa.table({"k": [1] * len(values), "captured_at": pa.array([START] * len(values), TIME), "tie": values})
    joined = as_of_join(left, right.append_column("row", pa.array(range(len(values)))), by="k", tie_break="tie")
    assert joined["row"].to_pylist() == [greatest]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[{"video_id": 5}]]),
        pa.array(["x"], pa.string_view()),
        pa.array([b"x"], pa.binary_view()),
        pa.array([[1]], pa.list_view(pa.int8())),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array(["x"]).dictionary_encode(),
        pa.array(["x"], pa.string_view()).dictionary_encode(),
        pa.nulls(1),
        uuids([b"u" * 16]),
    ],
)
def test_columns_of_any_type_come_along_as_they_are(values):
    left = pa.table({"k": [1, 2], "time": pa.array([START] * 2, TIME)})
    right = pa.table({"k": [1], "captured_at": pa.array([START], TIME), "v": values})
    joined = as_of_join(left, right, by="k")
    assert joined["v"].to_pylist() == [values[0].as_py(), None]
    assert joined["v"].type == values.type


def test_columns_in_runs_come_along_without_them():
    left = pa.table({"k": [1, 2], "time": pa.array([START] * 2, TIME)})
    right = pa.table({"k": [1], "captured_at": pa.array([START], TIME), "v": pc.run_end_encode(pa.array(["x"]))})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == ["x", None]


def test_left_columns_keep_types_metadata_and_order():
    schema = pa.schema([pa.field("k", pa.int8(), nullable=False, metadata={"a": "b"}), ("time", TIME)], {"c": "d"})
    left = pa.table([pa.array([2, 1], pa.int8()), pa.array([START] * 2, TIME)], schema=schema)
    right = pa.table({"v": ["x"], "k": pa.array([1]), "captured_at": pa.array([START], TIME)})
    joined = as_of_join(left, right, by="k")
    assert joined.column_names == ["k", "time", "v", "captured_at"]
    assert joined.select(["k", "time"]).schema.equals(schema, check_metadata=True)


def test_microseconds_beyond_the_years_of_nanoseconds_compare_with_nanoseconds():
    far = datetime(9999, 12, 31, tzinfo=UTC)
    fine = pa.array([START], pa.timestamp("ns", "UTC"))
    left = pa.table({"k": [1], "time": pa.array([far], TIME)})
    right = pa.table({"k": [1], "captured_at": fine, "v": ["then"]})
    assert as_of_join(left, right, by="k", max_age=far - START)["v"].to_pylist() == ["then"]
    almost = far - START - timedelta(microseconds=1)
    assert as_of_join(left, right, by="k", max_age=almost)["v"].to_pylist() == [None]


def test_ages_of_centuries_in_nanoseconds_are_right():
    moments = [datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)]
    nanoseconds = [pa.array([moment], pa.timestamp("ns", "UTC")) for moment in moments]
    left = pa.table({"k": [1], "time": nanoseconds[1]})
    right = pa.table({"k": [1], "captured_at": nanoseconds[0], "v": ["old"]})
    age = moments[1] - moments[0]
    assert as_of_join(left, right, by="k", max_age=age)["v"].to_pylist() == ["old"]
    assert as_of_join(left, right, by="k", max_age=age - timedelta(microseconds=1))["v"].to_pylist() == [None]


def test_a_key_may_hold_the_time_itself():
    left = pa.table({"k": [1, 1], "time": pa.array([START, START + timedelta(1)], TIME)})
    right = pa.table({"k": [1], "time": pa.array([START], TIME), "v": ["x"]})
    assert as_of_join(left, right, by=["k", "time"], right_on="time")["v"].to_pylist() == ["x", None]


def test_the_ends_of_time_do_not_overflow():
    ends = pa.array([-(2**63), 2**63 - 1], pa.int64()).cast(TIME)
    left = pa.table({"k": [1, 1], "time": ends})
    right = pa.table({"k": [1, 1], "captured_at": ends, "v": [0, 1]})

    def matched(**options):
        return as_of_join(left, right, by="k", **options)["v"].to_pylist()

    microsecond = timedelta(microseconds=1)
    apart = (2**64 - 1) * microsecond
    assert matched(max_age=timedelta(days=1)) == [0, 1]
    assert matched(allow_exact=False) == [None, 0]
    assert matched(max_age=timedelta.max, lag=timedelta(1)) == [None, 0]
    assert matched(lag=apart, max_age=apart) == [None, 0]
    assert matched(lag=apart, allow_exact=False) == [None, None]
    assert matched(lag=apart + microsecond) == [None, None]
    assert matched(lag=microsecond, max_age=apart - microsecond) == [None, None]


def test_empty_sides_work():
    left = pa.table({"k": pa.array([], pa.int64()), "time": pa.array([], TIME)})
    right = pa.table({"k": pa.array([], pa.int64()), "captured_at": pa.array([], TIME), "v": pa.array([], pa.string())})
    assert as_of_join(left, right, by="k").num_rows == 0
    one = pa.table({"k": [1], "time": pa.array([START], TIME)})
    assert as_of_join(one, right, by="k")["v"].to_pylist() == [None]
    untyped = pa.table({"k": [], "captured_at": [], "v": []})
    assert as_of_join(one, untyped, by="k", tie_break="v")["v"].to_pylist() == [None]
    chunkless = pa.table(
        {
            "k": pa.chunked_array([], pa.dictionary(pa.int8(), pa.int64())),
            "captured_at": pa.chunked_array([], TIME),
            "v": pa.chunked_array([], pa.string_view()),
        }
    )
    assert as_of_join(one, chunkless, by="k")["v"].to_pylist() == [None]


def refused(error, match, left=None, right=None, **options):
    left = left if left is not None else {"k": [1], "time": pa.array([START], TIME)}
    right = right if right is not None else {"k": [1], "captured_at": pa.array([START], TIME), "v": [1]}
    with pytest.raises(error, match=match):
        as_of_join(pa.table(left), pa.table(right), **{"by": "k", **options})


def test_wrong_input_is_refused_with_a_reason():
    naive = pa.array([START.replace(tzinfo=None)], pa.timestamp("us"))
    time = pa.array([START], TIME)
    beyond = pa.array([2**62], pa.int64()).cast(pa.timestamp("s", "UTC"))
    wide, deep = pa.array([Decimal(1)], pa.decimal256(76, 0)), pa.array([Decimal(1)], pa.decimal128(10, 5))
    refused(NaiveTimeError, "no zone", left={"k": [1], "time": naive})
    refused(NaiveTimeError, "no zone", right={"k": [1], "captured_at": naive})
    refused(DataKeyError, "did you mean 'k'", by="kk")
    refused(DataKeyError, "names no columns", by=[])
    refused(
        DataKeyError,
        "cannot be compared by value",
        left={"k": [[1]], "time": time},
        right={"k": [[1]], "captured_at": time},
    )
    refused(
        DataKeyError,
        "cannot be compared by value",
        left={"k": [1.5], "time": time},
        right={"k": [1.5], "captured_at": time},
    )
    refused(DataKeyError, "they never match", left={"k": ["1"], "time": time})
    refused(DataKeyError, "both tables have the columns v", left={"k": [1], "time": time, "v": [1]})
    refused(DataKeyError, "lag ≤ max_age", lag=timedelta(2), max_age=timedelta(1))
    refused(DataKeyError, "read the future", lag=-timedelta(1))
    refused(DataKeyError, "expected a timestamp", left={"k": [1], "time": [5]})
    refused(DataKeyError, "tie_break", tie_break="w")
    refused(DataKeyError, "has no order", right={"k": [1], "captured_at": time, "v": [[1]]}, tie_break="v")
    refused(
        NaiveTimeError, "'k' is timestamp", left={"k": naive, "time": time}, right={"k": naive, "captured_at": time}
    )
    refused(DataKeyError, "left time is beyond microseconds", left={"k": [1], "time": beyond})
    refused(DataKeyError, "expected a timedelta", lag=0)
    refused(DataKeyError, "expected a timedelta", max_age=np.timedelta64(1, "D"))
    refused(DataKeyError, "finer than a microsecond", max_age=pd.Timedelta(1500, "ns"))
    refused(
        DataKeyError, "no decimal holds both", left={"k": wide, "time": time}, right={"k": deep, "captured_at": time}
    )
    refused(DataKeyError, "both tables have the columns time", right={"k": [1], "time": time}, right_on="time")


VIEW = pa.string_view()


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["x", "y"]).cast(VIEW),
        pa.array([["x"], ["y", None]]).cast(pa.list_(VIEW)),
        pa.array([["x"], ["y"]]).cast(pa.large_list(VIEW)),
        pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)).cast(pa.list_(VIEW, 1)),
        pa.array([["x"], ["y"]], pa.list_view(VIEW)),
        pa.array([{"a": ["x"]}, None]).cast(pa.struct([("a", pa.list_(VIEW))])),
        pa.array([{"a": b"x"}, None]).cast(pa.struct([("a", pa.binary_view())])),
        pa.array([[("a", "x")], None], pa.map_(pa.string(), pa.string())).cast(pa.map_(VIEW, VIEW)),
    ],
    ids=lambda values: str(values.type),
)
def test_views_of_text_are_joined_however_deep_they_lie(values):
    time = pa.array([START] * 3, TIME)
    left, right = (
        pa.table({"k": [2, 3, 1], "time": time}),
        pa.table({"k": [1, 2], "captured_at": time[:2], "v": values}),
    )
    joined = as_of_join(left, right, by="k")
    expected = values.to_pylist()
    assert joined["v"].to_pylist() == [expected[1], None, expected[0]]
    assert joined.schema.field("v").type == values.type


def test_lists_of_text_from_polars_are_joined():
    frame = pl.DataFrame({"k": ["a", "b"], "captured_at": [START] * 2, "v": [["x"], ["y", "z"]]})
    left = pa.table(frame.rename({"captured_at": "time", "v": "seen"}))
    assert as_of_join(left, pa.table(frame), by="k")["v"].to_pylist() == [["x"], ["y", "z"]]


def test_what_is_no_table_is_refused():
    table = pa.table({"k": [1], "time": pa.array([START], TIME)})
    with pytest.raises(DataKeyError, match="left is a DataFrame, expected a pyarrow.Table"):
        as_of_join(table.to_pandas(), table, by="k")


def test_columns_named_twice_are_refused():
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([1]), pa.array([START], TIME)], ["k", "k", "time"])
    right = pa.table({"k": [1], "captured_at": pa.array([START], TIME)})
    with pytest.raises(DataKeyError, match="repeats the columns k"):
        as_of_join(twice, right, by="k")

"""The as-of join: types and encodings, the ends of time, names, refusals. Its answers: test_as_of_oracles.py."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from delorean.as_of import as_of_join
from schemas.errors import DataKeyError, NaiveTimeError

START = datetime(2026, 3, 29, tzinfo=UTC)  # the day Europe's clocks jump
TIME = pa.timestamp("us", "UTC")


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


def test_texts_match_however_they_are_encoded():
    left = pa.table({"k": pa.array(["a", "b"]).dictionary_encode(), "time": pa.array([START, START], TIME)})
    right = pa.table({"k": pa.array(["b"], pa.large_string()), "captured_at": pa.array([START], TIME), "v": ["x"]})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == [None, "x"]


def test_keys_of_different_widths_compare_by_value():
    left = pa.table({"k": pa.array([1], pa.int32()), "time": pa.array([START], TIME)})
    right = pa.table({"k": pa.array([1], pa.int64()), "captured_at": pa.array([START], TIME), "v": ["x"]})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == ["x"]


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


def test_nested_columns_come_along():
    left = pa.table({"k": [1, 2], "time": pa.array([START] * 2, TIME)})
    right = pa.table({"k": [1], "captured_at": pa.array([START], TIME), "v": [[{"video_id": 5}]]})
    assert as_of_join(left, right, by="k")["v"].to_pylist() == [[{"video_id": 5}], None]


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


def refused(error, match, left=None, right=None, **options):
    left = left if left is not None else {"k": [1], "time": pa.array([START], TIME)}
    right = right if right is not None else {"k": [1], "captured_at": pa.array([START], TIME), "v": [1]}
    with pytest.raises(error, match=match):
        as_of_join(pa.table(left), pa.table(right), **{"by": "k", **options})


def test_wrong_input_is_refused_with_a_reason():
    naive = pa.array([START.replace(tzinfo=None)], pa.timestamp("us"))
    time = pa.array([START], TIME)
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


def test_columns_named_twice_are_refused():
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([1]), pa.array([START], TIME)], ["k", "k", "time"])
    right = pa.table({"k": [1], "captured_at": pa.array([START], TIME)})
    with pytest.raises(DataKeyError, match="named twice: k"):
        as_of_join(twice, right, by="k")

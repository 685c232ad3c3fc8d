"""The as-of kernel against a brute-force oracle, and its refusals."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delorean.as_of import as_of_join
from schemas.errors import DataKeyError, NaiveTimeError

START = datetime(2026, 3, 29, tzinfo=UTC)  # the day Europe's clocks jump
TIME = pa.timestamp("us", "UTC")


def oracle(left, right, max_age, lag, allow_exact):
    """Scan everything: the rule as the design writes it."""
    found = []
    for *key, time in left:
        best = None
        for row, (*other, captured) in enumerate(right):
            if time is None or captured is None or None in key or key != other:
                continue
            latest = time - lag
            if captured > latest or (captured == latest and not allow_exact):
                continue
            if max_age is not None and captured < time - max_age:
                continue
            if best is None or captured >= right[best][-1]:
                best = row
        found.append(best)
    return found


def table(rows, keys, time):
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in range(len(keys) + 1)]
    types = [pa.string(), pa.int64()][: len(keys)]
    data = {key: pa.array(column, kind) for key, column, kind in zip(keys, columns, types, strict=False)}
    micros = [None if t is None else START + timedelta(microseconds=t) for t in columns[-1]]
    return pa.table({**data, time: pa.array(micros, TIME)})


text = st.sampled_from(["a", "ab", "b", "", "1", "11", None])  # joined into one string, ("a", 11) and ("a1", 1) collide
number = st.sampled_from([1, 11, -1, 0, None])
moment = st.one_of(st.integers(-6, 6), st.none())
rows = st.lists(st.tuples(text, number, moment), max_size=25)


@settings(max_examples=400, deadline=None)
@given(
    left=rows,
    right=rows,
    lag=st.integers(0, 3),
    extra=st.one_of(st.none(), st.integers(0, 5)),
    allow_exact=st.booleans(),
)
def test_it_agrees_with_a_scan_of_everything(left, right, lag, extra, allow_exact):
    max_age = None if extra is None else lag + extra
    joined = as_of_join(
        table(left, ["text", "number"], "time"),
        table(right, ["text", "number"], "captured_at").append_column("row", pa.array(range(len(right)), pa.int64())),
        by=["text", "number"],
        max_age=None if max_age is None else timedelta(microseconds=max_age),
        lag=timedelta(microseconds=lag),
        allow_exact=allow_exact,
    )
    assert joined["row"].to_pylist() == oracle(left, right, max_age, lag, allow_exact)
    assert joined["text"].to_pylist() == [row[0] for row in left]


def test_it_agrees_with_polars_where_their_rules_coincide():
    import numpy as np

    rng = np.random.default_rng(5)
    times = rng.permutation(200_000)  # no ties: there Polars promises nothing
    left = pa.table({"k": rng.zipf(1.3, 50_000) % 3000, "time": pa.array(times[:50_000] * 2).cast(TIME)})
    right = pa.table(
        {
            "k": rng.zipf(1.3, 50_000) % 3000,
            "captured_at": pa.array(times[50_000:100_000] * 2).cast(TIME),
            "v": times[:50_000],
        }
    )
    ours = as_of_join(left, right, by="k")
    frame = pl.from_arrow(left).with_row_index().sort("time")
    theirs = frame.join_asof(
        pl.from_arrow(right).sort("captured_at"), left_on="time", right_on="captured_at", by="k", check_sortedness=False
    )
    assert ours["v"].to_pylist() == theirs.sort("index")["v"].to_list()


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
    ends = pa.array([-(2**63) + 2, 2**63 - 1], pa.int64()).cast(TIME)
    left = pa.table({"k": [1, 1], "time": ends})
    right = pa.table({"k": [1, 1], "captured_at": ends, "v": [0, 1]})
    joined = as_of_join(left, right, by="k", max_age=timedelta(days=1))
    assert joined["v"].to_pylist() == [0, 1]
    assert as_of_join(left, right, by="k", max_age=timedelta.max, lag=timedelta(1))["v"].to_pylist() == [None, None]


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

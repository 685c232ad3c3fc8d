"""The as-of join against others: a scan of everything, DuckDB's ASOF JOIN, Polars' join_asof."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.as_of_check import check, scan
from benchmarks.as_of_worlds import World, make_world, same_hash
from delorean.as_of.join import as_of_join

TIME = pa.timestamp("us", "UTC")
START = datetime(2026, 3, 29, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def test_a_hundred_thousand_random_queries_agree_with_a_scan_of_everything():
    counts = check(100_000, seed=20260329)
    assert counts["queries"] == counts["agreed"] == 100_000
    # The queries are worth asking: many match, among ties, and exactly at an end.
    assert counts["matched"] > 15_000
    assert counts["tied"] > 5_000
    assert counts["at an end"] > 5_000


text = st.sampled_from(["a", "ab", "b", "", "1", "11", None])  # joined into one string, ("a", 11) and ("a1", 1) collide
number = st.sampled_from([1, 11, -1, 0, 2**63 - 1, -(2**63), None])
moment = st.one_of(st.integers(-6, 6), st.none())
rank = st.sampled_from([1.0, 2.0, float("nan"), None])


def table(rows, time):
    texts, numbers, moments = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "number": pa.array(numbers, pa.int64()),
            time: pa.array([None if m is None else START + m * MICROSECOND for m in moments], TIME),
        }
    )


@settings(max_examples=300, deadline=None)
@given(
    left=st.lists(st.tuples(text, number, moment), max_size=12),
    right=st.lists(st.tuples(text, number, moment, rank), max_size=25),
    lag=st.integers(0, 3),
    extra=st.one_of(st.none(), st.integers(0, 5)),
    allow_exact=st.booleans(),
    tie_break=st.sampled_from([[], ["rank"]]),
)
def test_small_adversarial_tables_agree_with_a_scan_of_everything(left, right, lag, extra, allow_exact, tie_break):
    options = {
        "by": ["text", "number"],
        "lag": lag * MICROSECOND,
        "max_age": None if extra is None else (lag + extra) * MICROSECOND,
        "allow_exact": allow_exact,
        "tie_break": tie_break,
    }
    captures = table([row[:3] for row in right], "captured_at")
    captures = captures.append_column("rank", pa.array([row[3] for row in right], pa.float64()))
    world = World(
        table(left, "time"),
        captures.append_column("row", pa.array(range(len(right)), pa.int64())),
        options,
        [row[:2] for row in left],
        [row[:2] for row in right],
        [None if row[2] is None else row[2] * 1000 for row in left],
        [None if row[2] is None else row[2] * 1000 for row in right],
        [row[3:] if tie_break else () for row in right],
    )
    joined = as_of_join(world.left, world.right, **options)
    assert joined["row"].fill_null(-1).to_pylist() == scan(world)[0].tolist()
    assert joined.select(world.left.column_names).equals(world.left)


ROWS = 40_000


def captures_and_labels(seed, distinct_times):
    """Skewed composite keys: numbers of both signs and texts that run into each other."""
    rng = np.random.default_rng(seed)
    texts = np.array(["a", "ab", "b", "b1", "1", "11"])

    def side(times):
        number = rng.zipf(1.3, ROWS) % 400 * rng.choice([-1, 1], ROWS)
        return {"number": number, "text": texts[rng.integers(0, 6, ROWS)], "at": pa.array(times).cast(TIME)}

    right_times = 3 * (rng.permutation(ROWS) if distinct_times else rng.integers(0, ROWS // 50, ROWS))
    left = pa.table(side(rng.integers(0, right_times.max(), ROWS))).rename_columns({"at": "time"})
    right = pa.table(side(right_times)).rename_columns({"at": "captured_at"})
    return left, right.append_column("row", pa.array(range(ROWS)))


@pytest.mark.parametrize("allow_exact", [True, False])
@pytest.mark.parametrize("max_age", [None, 3000])
def test_polars_gives_the_same_where_no_times_are_equal(allow_exact, max_age):
    left, right = captures_and_labels(7, distinct_times=True)
    ours = as_of_join(
        left,
        right,
        by=["number", "text"],
        allow_exact=allow_exact,
        max_age=None if max_age is None else max_age * MICROSECOND,
    )
    theirs = (
        pl.from_arrow(left)
        .with_row_index()
        .sort("time")
        .join_asof(
            pl.from_arrow(right).sort("captured_at"),
            left_on="time",
            right_on="captured_at",
            by=["number", "text"],
            allow_exact_matches=allow_exact,
            tolerance=None if max_age is None else f"{max_age}us",
            check_sortedness=False,
        )
        .sort("index")
    )
    assert ours["row"].to_pylist() == theirs["row"].to_list()
    assert 0 < ours["row"].null_count < ROWS


@pytest.mark.parametrize("allow_exact", [True, False])
@pytest.mark.parametrize(("lag", "max_age"), [(0, None), (6, None), (6, 1200)])
def test_duckdb_gives_the_same_once_it_is_told_which_of_equal_times_wins(lag, max_age, allow_exact):
    left, right = captures_and_labels(8, distinct_times=False)
    ours = as_of_join(
        left,
        right,
        by=["number", "text"],
        allow_exact=allow_exact,
        lag=lag * MICROSECOND,
        max_age=None if max_age is None else max_age * MICROSECOND,
    )
    with duckdb.connect() as db:
        db.register("labels", left.append_column("n", pa.array(range(ROWS))))
        db.register("captures", right)
        # DuckDB takes the latest of any age: one that is too old leaves nothing that is not older still.
        theirs = db.sql(
            f"""
            WITH latest AS (
                FROM captures
                QUALIFY row_number() OVER (PARTITION BY number, text, captured_at ORDER BY row DESC) = 1
            )
            SELECT CASE WHEN $max_age IS NULL OR epoch_us(l.time) - epoch_us(r.captured_at) <= $max_age THEN r.row END
            FROM labels l ASOF LEFT JOIN latest r
                ON l.number = r.number AND l.text = r.text
                AND epoch_us(l.time) - {lag} {">=" if allow_exact else ">"} epoch_us(r.captured_at)
            ORDER BY l.n
            """,
            params={"max_age": max_age},
        ).fetchall()
    assert ours["row"].to_pylist() == [row for (row,) in theirs]
    assert 0 < ours["row"].null_count < ROWS


def test_many_left_rows_answered_by_threads_are_those_answered_alone():
    left, right = captures_and_labels(9, distinct_times=False)
    times = 6  # enough for threads
    whole = as_of_join(pa.concat_tables([left] * times), right, by=["number", "text"], tie_break="row")
    assert whole["row"].to_pylist() == as_of_join(left, right, by=["number", "text"])["row"].to_pylist() * times


def test_keys_with_the_same_hash_in_all_its_bits_are_told_apart():
    first, second = same_hash()
    times = pa.array([START] * len(first), TIME)
    left = pa.table({"a": first, "b": second, "time": times})
    right = pa.table({"a": first, "b": second, "captured_at": times, "row": range(len(first))})
    assert as_of_join(left, right, by=["a", "b"])["row"].to_pylist() == list(range(len(first)))
    assert as_of_join(left, right.slice(1), by=["b", "a"])["row"].to_pylist() == [None, *range(1, len(first))]


def test_one_key_with_very_many_captures_in_any_order_is_answered_right():
    rng = np.random.default_rng(3)
    captured, asked = rng.integers(0, 10_000, 50_000), rng.integers(-10, 10_100, 20_000)
    left = pa.table({"k": pa.nulls(20_000, pa.int8()).fill_null(1), "time": pa.array(asked).cast(TIME)})
    right = pa.table({"k": pa.nulls(50_000, pa.int8()).fill_null(1), "captured_at": pa.array(captured).cast(TIME)})
    found = as_of_join(left, right.append_column("row", pa.array(range(50_000))), by="k")["row"].fill_null(-1)
    order = np.lexsort([np.arange(50_000), captured])
    ends = np.searchsorted(captured[order], asked, side="right")
    assert found.to_pylist() == np.where(ends > 0, order[ends - 1], -1).tolist()


def test_worlds_are_the_same_for_the_same_seed():
    one, other = (make_world(np.random.default_rng(5), 50) for _ in range(2))
    assert one.left.equals(other.left)
    assert one.right.equals(other.right)

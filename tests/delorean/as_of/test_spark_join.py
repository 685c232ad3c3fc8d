"""The as-of join of Spark DataFrames gives what the join of Arrow tables gives."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import functions as F  # noqa: N812

from delorean import as_of_join, as_of_join_spark
from schemas.errors import DataKeyError, NaiveTimeError

TIME = pa.timestamp("us", "UTC")
START = datetime(2026, 10, 25, tzinfo=UTC)  # the day Europe's clocks jump back
ROWS = 3000


@pytest.fixture(scope="module")
def tables():
    """Skewed composite keys of other types on either side, nulls in keys and times, equal times, nested values."""
    rng = np.random.default_rng(4)

    def some(values, kind):
        values = np.where(rng.random(ROWS) < 0.03, None, values)
        return pa.array(list(values), kind)

    texts = np.array(["a", "ab", "b", "b1", "1", ""], dtype=object)
    prices = np.array([Decimal("1.1"), Decimal("1.01"), Decimal(11)], dtype=object)

    def side(number, price, times):
        return {
            "number": some(rng.zipf(1.5, ROWS) % 40 - 20, number),
            "text": some(texts[rng.integers(0, 6, ROWS)], pa.string()),
            "price": some(prices[rng.integers(0, 3, ROWS)], price),
            times: some(
                [START + timedelta(minutes=int(m)) for m in rng.integers(-600, 600, ROWS)],
                pa.timestamp("us", "Europe/Berlin"),
            ),
        }

    left = pa.table({**side(pa.int32(), pa.decimal128(10, 2), "time"), "label": rng.integers(0, 2, ROWS)})
    right = pa.table(
        {
            **side(pa.int64(), pa.decimal128(20, 6), "captured_at"),
            "version": rng.permutation(ROWS),
            "state": [{"seen": [{"video_id": int(n)}]} for n in rng.integers(0, 9, ROWS)],
        }
    )
    return left.append_column("n", pa.array(range(ROWS))), right


BY = ["number", "text", "price"]


def in_order(frame):
    table = frame.toArrow()
    return table.sort_by("n")


@pytest.mark.parametrize(
    ("buckets", "options"),
    [(None, {}), (5, {"max_age": timedelta(hours=2), "lag": timedelta(minutes=1), "allow_exact": False})],
)
def test_it_gives_every_left_row_once_with_what_the_join_of_tables_gives(spark, tables, buckets, options):
    left, right = tables
    expected = as_of_join(left, right, by=BY, tie_break="version", **options)
    frames = [spark.createDataFrame(table).repartition(3) for table in tables]
    joined = in_order(as_of_join_spark(*frames, by=BY, tie_break="version", buckets=buckets, **options))
    assert joined.column_names == expected.column_names
    assert 0 < joined["version"].null_count < ROWS
    for field in expected.schema:
        assert joined[field.name].cast(field.type).to_pylist() == expected[field.name].to_pylist()


def test_without_a_tie_break_the_answer_does_not_depend_on_order_or_partitions(spark, tables):
    left, right = tables
    right = right.set_column(3, "captured_at", pc.floor_temporal(right["captured_at"], unit="day"))
    first, other = (
        in_order(
            as_of_join_spark(
                spark.createDataFrame(left).repartition(parts),
                spark.createDataFrame(rows).repartition(parts),
                by="text",
                left_on="time",
                buckets=parts,
            )
        )
        for parts, rows in (
            (1, right.drop_columns(["number", "price"])),
            (4, right.drop_columns(["number", "price"]).sort_by([("version", "descending")])),
        )
    )
    assert first["version"].to_pylist() == other["version"].to_pylist()
    assert first["version"].null_count < ROWS


def test_rows_that_differ_in_where_they_are_null_are_told_apart(spark):
    left = spark.sql("SELECT 1 AS k, TIMESTAMP'2026-01-01' AS time")
    rows = ["(1, TIMESTAMP'2026-01-01', 5, NULL)", "(1, TIMESTAMP'2026-01-01', NULL, 5)"]
    found = []
    for ordered in (rows, rows[::-1]):
        right = spark.sql(f"SELECT * FROM VALUES {', '.join(ordered)} AS t (k, captured_at, a, b)").coalesce(1)
        found.append(as_of_join_spark(left, right, by="k", buckets=1).toArrow())
    assert found[0].equals(found[1])


def test_instants_are_the_same_in_a_session_of_any_zone(spark, tables):
    left, right = tables
    expected = as_of_join(left, right, by=BY, tie_break="version")["version"].to_pylist()
    before = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "America/New_York")
        frames = [spark.createDataFrame(table) for table in tables]
        joined = in_order(as_of_join_spark(*frames, by=BY, tie_break="version", buckets=2))
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)
    assert joined["version"].to_pylist() == expected


def test_rows_that_match_nothing_do_not_meet_in_one_bucket(spark):
    left = spark.range(2000).select(
        F.lit(None).cast("bigint").alias("k"), F.lit(START).alias("time"), F.col("id").alias("n")
    )
    right = spark.range(10).select(F.col("id").alias("k"), F.lit(START).alias("captured_at"), F.lit(1).alias("v"))
    joined = as_of_join_spark(left, right, by="k", buckets=4)
    partitions = [row[0] for row in joined.select(F.spark_partition_id()).collect()]
    assert len(partitions) == 2000
    assert len(set(partitions)) > 1


def test_empty_sides_work(spark, tables):
    left, right = (spark.createDataFrame(table) for table in tables)
    assert as_of_join_spark(left.limit(0), right, by=BY).count() == 0
    alone = as_of_join_spark(left, right.limit(0), by=BY).toArrow()
    assert alone.num_rows == alone["version"].null_count == ROWS


def test_odd_names_work(spark):
    left = spark.sql("SELECT 1 AS `a.b`, TIMESTAMP'2026-01-02' AS `my time`")
    right = spark.sql("SELECT 1 AS `a.b`, TIMESTAMP'2026-01-01' AS `its ``time`, map('x', 1) AS `v.w`")
    joined = as_of_join_spark(left, right, by="a.b", left_on="my time", right_on="its `time", buckets=1)
    assert joined.columns == ["a.b", "my time", "its `time", "v.w"]
    assert joined.toArrow()["v.w"].to_pylist() == [[("x", 1)]]


def test_keys_of_every_type_meet_in_one_bucket_whatever_their_widths_and_scales(spark):
    shared = (
        "true AS a, DATE'2026-01-01' AS b, TIMESTAMP'2026-01-01' AS c, X'00ff' AS d, INTERVAL '1' DAY AS e, 'ä' AS f"
    )
    left = spark.sql(f"SELECT {shared}, 1Y AS g, 1.10 AS h, now() AS time")
    right = spark.sql(
        f"SELECT {shared}, 1L AS g, CAST(1.1 AS DECIMAL(38, 9)) AS h, TIMESTAMP'2020-01-01' AS captured_at"
    )
    joined = as_of_join_spark(left, right, by=list("abcdefgh"), buckets=64)
    assert joined.toArrow()["captured_at"].null_count == 0


def test_a_key_without_a_type_matches_nothing(spark):
    left, right = spark.sql("SELECT NULL AS k, now() AS time"), spark.sql("SELECT NULL AS k, now() AS captured_at")
    assert as_of_join_spark(left, right, by="k", buckets=2).toArrow()["captured_at"].null_count == 1


def test_wrong_input_is_refused_before_anything_runs(spark):
    def refused(error, match, left="1 AS k, now() AS time", right="1 AS k, now() AS captured_at", **options):
        with pytest.raises(error, match=match):
            as_of_join_spark(spark.sql(f"SELECT {left}"), spark.sql(f"SELECT {right}"), **{"by": "k", **options})

    refused(DataKeyError, "did you mean 'k'", by="kk")
    refused(DataKeyError, "both tables have the columns time", right="1 AS k, now() AS captured_at, 1 AS time")
    refused(DataKeyError, "spelled differently", right="1 AS k, now() AS captured_at, 1 AS Time")
    refused(DataKeyError, "'k' is double", left="1D AS k, now() AS time", right="1D AS k, now() AS captured_at")
    refused(DataKeyError, "they never match", left="'1' AS k, now() AS time")
    refused(NaiveTimeError, "no zone", left="1 AS k, localtimestamp() AS time")
    refused(DataKeyError, "expected a timestamp", left="1 AS k, current_date() AS time")
    refused(DataKeyError, "0 ≤ lag", lag=timedelta(-1))
    refused(DataKeyError, "has no order", right="1 AS k, now() AS captured_at, array(1) AS v", tie_break="v")
    refused(DataKeyError, "buckets is 0", buckets=0)
    refused(DataKeyError, "Arrow cannot hold the left DataFrame", left="1 AS k, now() AS time, make_interval(1) AS i")

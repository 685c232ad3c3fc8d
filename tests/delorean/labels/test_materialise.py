"""Label data in buckets: from Spark and from Arrow alike, and nothing wrong gets in."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Barrier

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delorean.labels import LabelColumns, load_labels
from delorean.labels.materialise import materialise_labels
from schemas.errors import ConfigError, LabelError, NaiveTimeError, ParadoxError
from schemas.hashing import bucket_of
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet

START = datetime(2026, 5, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
COLUMNS = LabelColumns(items=("video_id",), outcome_at="seen_at", label="played")


def long_rows(rows):
    """Rows of (profile, country, minute, video, label, minutes until the outcome)."""
    profile, country, minute, video, label, wait = zip(*rows, strict=True) if rows else [[]] * 6
    return pa.table(
        {
            "profile_id": pa.array(profile, pa.int64()),
            "country": pa.array(country, pa.string()),
            "time": pa.array([START + timedelta(minutes=m) for m in minute], TIME),
            "video_id": pa.array(video, pa.int64()),
            "played": pa.array(label, pa.int32()),
            "seen_at": pa.array([START + timedelta(minutes=m + w) for m, w in zip(minute, wait, strict=True)], TIME),
        }
    )


def stored(labels, storage):
    return pa.concat_tables([read_parquet(storage, file) for file in labels.files])


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"file://{tmp_path}")


row = st.tuples(
    st.integers(-3, 3),
    st.sampled_from(["US", "DE", ""]),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 1),
    st.integers(1, 9),
)
distinct_rows = st.lists(row, min_size=1, max_size=40, unique_by=lambda r: r[:4])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=distinct_rows, buckets=st.sampled_from([1, 2, 8]))
def test_every_row_is_grouped_once_and_lies_in_its_bucket(rows, buckets, tmp_path):
    storage = open_storage(f"file://{tmp_path}")
    labels = materialise_labels(long_rows(rows), COLUMNS, storage, buckets=buckets)
    expected = (
        pl.from_arrow(long_rows(rows))
        .sort("profile_id", "country", "time", "video_id")
        .group_by("profile_id", "country", "time", maintain_order=True)
        .agg(pl.col("video_id"), pl.col("played").cast(pl.Float32), pl.col("seen_at").max())
    )
    found = pl.from_arrow(stored(labels, storage)).sort("profile_id", "country", "time")
    assert found["video_id"].to_list() == expected["video_id"].to_list()
    assert found["label"].to_list() == expected["played"].to_list()
    assert found["outcome_at"].to_list() == expected["seen_at"].to_list()
    assert labels.contexts == len(expected)
    assert labels.item_count == len(rows)
    for file in labels.files:
        assert set(bucket_of(read_parquet(storage, file)["profile_id"], buckets)) == {file.bucket}
    assert load_labels(labels.labels_id, storage) == labels


def test_spark_and_arrow_write_the_same_rows_in_the_same_buckets(spark, storage):
    rows = [(p, "US", m, v, (p * v) % 2, 5) for p in range(40) for m in (0, 30) for v in range(7)]
    here = materialise_labels(long_rows(rows), COLUMNS, storage, buckets=4)
    frame = spark.createDataFrame(long_rows(rows)).repartition(5)
    there = materialise_labels(frame, COLUMNS, storage, buckets=4)
    assert stored(here, storage).equals(stored(there, storage))
    assert [(f.bucket, f.rows, f.checksum) for f in here.files] == [(f.bucket, f.rows, f.checksum) for f in there.files]
    assert (here.earliest, here.latest, here.context) == (there.earliest, there.latest, there.context)


def test_a_query_runs_once_and_its_files_agree_with_its_counts_even_if_it_is_random(spark, storage):
    rows = spark.sparkContext.accumulator(0)

    def counted(batches):
        for batch in batches:
            rows.add(batch.num_rows)
            yield batch

    source = spark.createDataFrame(long_rows([(p, "US", 0, v, 1, 5) for p in range(200) for v in range(5)]))
    frame = source.repartition(3).mapInArrow(counted, source.schema).where("rand() < 0.5")
    labels = materialise_labels(frame, COLUMNS, storage)
    assert rows.value == 1000
    table = stored(labels, storage)
    assert labels.item_count == len(table["video_id"].combine_chunks().flatten())
    assert labels.contexts == table.num_rows
    assert 300 < labels.item_count < 700
    assert {file.path for file in storage.list("labels")} == {
        f"labels/{labels.labels_id}/manifest.json",
        *(file.path for file in labels.files),
    }


def test_rows_grouped_already_keep_the_order_of_their_items(spark, storage):
    grouped = pa.table(
        {
            "profile_id": [1, 2],
            "time": pa.array([START, START], TIME),
            "video_id": [[9, 3], [5]],
            "played": [[0.0, 1.0], [1.0]],
            "seen_at": pa.array([START + timedelta(1)] * 2, TIME),
        }
    )
    here = materialise_labels(grouped, COLUMNS, storage, buckets=2)
    there = materialise_labels(spark.createDataFrame(grouped), COLUMNS, storage, buckets=2)
    assert stored(here, storage).equals(stored(there, storage))
    assert sorted(stored(here, storage)["video_id"].to_pylist()) == [[5], [9, 3]]


def test_grouped_rows_that_repeat_an_item_or_a_context_are_refused(storage):
    def grouped(profiles, videos):
        n = len(profiles)
        return pa.table(
            {
                "profile_id": profiles,
                "time": pa.array([START] * n, TIME),
                "video_id": videos,
                "played": [[0.0] * len(row) for row in videos],
                "seen_at": pa.array([START + timedelta(1)] * n, TIME),
            }
        )

    materialise_labels(grouped([1, 2], [[9, 3], [9, 3]]), COLUMNS, storage)
    with pytest.raises(LabelError, match="grouped label rows repeat 1 items within a context and time"):
        materialise_labels(grouped([1, 2], [[9, 3, 9], [9]]), COLUMNS, storage)
    with pytest.raises(LabelError, match="1 grouped label rows repeat a context and time"):
        materialise_labels(grouped([1, 1], [[9], [3]]), COLUMNS, storage)


def test_a_group_that_spans_batches_stays_one_row(spark, storage):
    rows = [(1, "US", 0, v, 0, 5) for v in range(30_000)]
    labels = materialise_labels(spark.createDataFrame(long_rows(rows)).repartition(3), COLUMNS, storage)
    assert labels.contexts == 1
    assert labels.item_count == 30_000


def test_label_data_comes_from_polars_and_pandas_too(storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5)])
    for source in (pl.from_arrow(rows), rows.to_pandas()):
        labels = materialise_labels(source, COLUMNS, storage)
        assert stored(labels, storage)["video_id"].to_pylist() == [[7]]


@pytest.fixture(params=["arrow", "spark"])
def source(request):
    if request.param == "arrow":
        return lambda table: table
    return request.getfixturevalue("spark").createDataFrame


def test_an_outcome_not_later_than_its_time_is_a_paradox(source, storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5), (2, "US", 0, 7, 1, 0)])
    with pytest.raises(ParadoxError, match="1 label rows have an outcome not later than their time.*profile_id=2"):
        materialise_labels(source(rows), COLUMNS, storage)
    assert list(storage.list("labels")) == [] or not any("manifest" in f.path for f in storage.list("labels"))


def test_a_join_that_multiplied_rows_is_caught(source, storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5), (1, "US", 0, 7, 0, 5)])
    with pytest.raises(LabelError, match="repeat an item of the same context and time.*video_id=7"):
        materialise_labels(source(rows), COLUMNS, storage)


def test_nulls_are_refused_with_their_column(source, storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5), (None, "US", 0, 8, 1, 5)])
    with pytest.raises(LabelError, match="1 nulls in column 'profile_id'"):
        materialise_labels(source(rows), COLUMNS, storage)


def test_a_time_without_a_zone_is_refused(spark, storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5)])
    naive = rows.set_column(2, "time", rows["time"].cast(pa.timestamp("us")))
    in_spark = spark.createDataFrame(rows).selectExpr("* EXCEPT (time)", "CAST(time AS TIMESTAMP_NTZ) AS time")
    for source in (naive, in_spark):
        with pytest.raises(NaiveTimeError, match="without a zone"):
            materialise_labels(source, COLUMNS, storage)


def test_an_empty_query_is_an_error_that_says_so(source, storage):
    with pytest.raises(LabelError, match="no rows"):
        materialise_labels(source(long_rows([]).slice(0, 0)), COLUMNS, storage)


def test_wrong_columns_are_named(storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5)])
    with pytest.raises(LabelError, match="did you mean 'played'"):
        materialise_labels(rows, LabelColumns(items=("video_id",), label="playd", outcome_at="seen_at"), storage)
    with pytest.raises(LabelError, match="is also a context or item variable"):
        materialise_labels(rows, LabelColumns(items=("played",), label="played", outcome_at="seen_at"), storage)
    with pytest.raises(LabelError, match="names no items"):
        materialise_labels(rows, LabelColumns(items=(), outcome_at="seen_at", label="played"), storage)
    with pytest.raises(LabelError, match="bucket variable"):
        materialise_labels(rows, COLUMNS, storage, bucket_variable="profil")


def test_an_id_is_published_once(storage):
    rows = long_rows([(1, "US", 0, 7, 1, 5)])
    materialise_labels(rows, COLUMNS, storage, labels_id="may")
    with pytest.raises(ConfigError, match="'may' exists already"):
        materialise_labels(rows, COLUMNS, storage, labels_id="may")
    with pytest.raises(LabelError, match="no label data 'june'"):
        load_labels("june", storage)


@dataclass
class Writers:
    """Writers of one id that all have written their files before any of them publishes."""

    storage: Storage
    count: int = 2

    def publish(self, rows, sources, **options):
        barrier = Barrier(self.count)

        def write(number):
            source, each = sources[number], rows[number % len(rows)]
            wait = lambda *_: barrier.wait(60)  # noqa: E731
            return materialise_labels(each, COLUMNS, self.storage, buckets=1, source=source, progress=wait, **options)

        with ThreadPoolExecutor(self.count) as threads:
            futures = [threads.submit(write, number) for number in range(self.count)]
            return [future.exception() or future.result() for future in futures]


def test_the_slower_of_two_writers_of_the_same_gets_what_the_faster_published(storage):
    rows, others = long_rows([(1, "US", 0, 7, 1, 5)]), long_rows([(1, "US", 0, 8, 1, 5)])
    query = {"spec": {"query": "SELECT"}}
    for name, tables in (("may", [rows]), ("june", [rows, others])):  # a table may grow while both read it
        one, other = Writers(storage).publish(tables, [query, query], labels_id=name)
        assert one == other == load_labels(name, storage)
    one, other = Writers(storage).publish([rows], [None, None], labels_id="july")
    assert one == other


def test_the_slower_of_two_writers_of_something_else_gets_an_error_that_is_final(storage):
    rows, others = long_rows([(1, "US", 0, 7, 1, 5)]), long_rows([(1, "US", 0, 8, 1, 5)])
    for name, tables, sources in (("may", [rows], [{"a": 1}, {"a": 2}]), ("june", [rows, others], [None, None])):
        found = Writers(storage).publish(tables, sources, labels_id=name)
        [error] = [each for each in found if isinstance(each, ConfigError)]
        [labels] = [each for each in found if not isinstance(each, ConfigError)]
        assert f"label data '{name}' exists already" in str(error)
        assert error.final
        assert labels == load_labels(name, storage)


def test_what_two_writers_call_the_same_without_a_name_is_the_faster_ones(storage):
    rows, others = long_rows([(1, "US", 0, 7, 1, 5)]), long_rows([(1, "US", 0, 8, 1, 5)])
    sources = [{"tables": {"shown": 4}}, {"tables": {"shown": 5}}]
    one, other = Writers(storage).publish([rows, others], sources, labels_id="0123456789ab", named=False)
    assert one == other
    assert not one.named


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"labels_id": 1}', "\xff"])
def test_a_manifest_that_cannot_be_read_is_an_error_before_any_work(storage, text):
    storage.create("labels/may/manifest.json", text.encode("latin-1"))
    with pytest.raises(
        LabelError, match="'labels/may/manifest.json' is not a manifest of label data.*restore"
    ) as raised:
        materialise_labels(long_rows([(1, "US", 0, 7, 1, 5)]), COLUMNS, storage, labels_id="may")
    assert raised.value.final
    assert [file.path for file in storage.list("labels")] == ["labels/may/manifest.json"]


@pytest.mark.parametrize("name", ["team/homepage", "", ".", "..", "-x", "a b", "con"])
def test_an_id_that_cannot_name_a_folder_is_refused(storage, name):
    with pytest.raises(ConfigError, match="label data '.*' cannot name a folder"):
        materialise_labels(long_rows([(1, "US", 0, 7, 1, 5)]), COLUMNS, storage, labels_id=name)


@pytest.mark.parametrize("over", ["arrow", "spark"])
def test_how_far_it_is_is_told_bucket_by_bucket(over, spark, tmp_path):
    rows = long_rows([(profile, "US", 10, video, 1, 5) for profile in range(40) for video in range(3)])
    reported = []
    materialise_labels(
        spark.createDataFrame(rows) if over == "spark" else rows,
        COLUMNS,
        open_storage(f"file://{tmp_path}"),
        buckets=4,
        progress=lambda _, done, total: reported.append((done, total)),
    )
    assert reported[-1] == (4, 4)
    assert reported == sorted(reported)

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from schemas.data_keys import global_element, service_element
from schemas.errors import (
    ConfigError,
    DataKeyError,
    NaiveTimeError,
    UnreadableRecordError,
    WithdrawnError,
)
from snapshotter.global_elements import publish_global, read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import GlobalVersion
from snapshotter.storage import Storage, external_sort
from snapshotter.storage.parquet import write_parquet

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VIDEOS = global_element("videos", "struct<video_id: int64, title: string, genres: list<string>, popularity: float>")


def videos(*rows: tuple[Any, Any, Any, Any]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, VIDEOS.type, strict=True)],
        list(VIDEOS.type.names),
    )


def read_global(element: str, at: datetime, storage: Storage, index: SnapshotIndex) -> pa.Table:
    version = index.global_version_at(element, at)
    assert version is not None
    return read_global_version(version, storage)


ONE = (1, "Up", ["drama"], 0.5)
TWO: tuple[Any, ...] = (2, None, [], None)  # text and floats may be null


def test_the_version_valid_at_a_time_is_read_sorted_by_its_key(storage: Storage, index: SnapshotIndex) -> None:
    assert publish_global(videos(TWO, ONE), VIDEOS, NOON, storage, index, "v1") is True
    assert publish_global(
        videos(ONE).select(["title", "video_id", "popularity", "genres"]), VIDEOS, NOON + DAY, storage, index, "v2"
    )
    assert read_global("videos", NOON, storage, index).to_pylist() == videos(ONE, TWO).to_pylist()
    assert read_global("videos", NOON + DAY - timedelta(microseconds=1), storage, index).num_rows == 2
    assert read_global("videos", NOON + DAY, storage, index).equals(videos(ONE))
    assert index.global_version_at("videos", NOON - timedelta(microseconds=1)) is None


def test_a_version_id_is_published_once(storage: Storage, index: SnapshotIndex) -> None:
    publish_global(videos(ONE), VIDEOS, NOON, storage, index, "v1")
    files = list(storage.list(""))
    assert publish_global(videos(ONE), VIDEOS, NOON + DAY, storage, index, "v1") is False
    with pytest.raises(ConfigError, match="version id 'v1' of global element 'videos' is taken by other rows"):
        publish_global(videos(TWO), VIDEOS, NOON + DAY, storage, index, "v1")
    assert list(storage.list("")) == files
    assert read_global("videos", NOON + DAY, storage, index).equals(videos(ONE))


def test_a_stream_that_does_not_fit_into_memory_is_published_like_a_table(
    storage: Storage, index: SnapshotIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_sort, "_RUN_BYTES", 2_000)
    monkeypatch.setattr(external_sort, "_PIECE_BYTES", 300)
    numbers = [n * 37 % 1_000 for n in range(1_000)]

    def publish(version: str, numbers: list[int], **options: bool) -> bool:
        table = videos(*[(n, f"title {n}", [], 0.5) for n in numbers])
        return publish_global(table.to_reader(50), VIDEOS, NOON, storage, index, version, **options)

    assert publish("v1", numbers) is True
    expected = videos(*[(n, f"title {n}", [], 0.5) for n in range(1_000)])
    assert read_global("videos", NOON, storage, index).equals(expected)
    assert publish("v1", numbers[::-1]) is False
    assert publish("v2", numbers[::-1], if_changed=True) is False
    for changed in (numbers[:-1], [*numbers[:-1], 5_000]):
        with pytest.raises(ConfigError, match="is taken by other rows"):
            publish("v1", changed)
    for repeated in range(20):  # also where two pieces of a run meet
        with pytest.raises(DataKeyError, match=r"'videos.video_id' has nulls or repeats"):
            publish("v3", sorted([*range(100), repeated]))
    assert len(list(storage.list(""))) == 1


def test_an_empty_table_is_a_version(storage: Storage, index: SnapshotIndex) -> None:
    empty = videos(ONE).slice(0, 0)
    assert publish_global(empty, VIDEOS, NOON, storage, index, "v1") is True
    assert read_global("videos", NOON, storage, index).equals(empty)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (videos(ONE, ONE), "'videos.video_id' has nulls or repeats"),
        (videos((1, "x", None, 0.0)), "'videos.genres' is null at position 0"),
        (videos((None, "x", [], 0.0)), "'videos.video_id' has nulls or repeats"),
        (videos(ONE).drop_columns("title"), "unknown column in global element 'videos' 'title'"),
        (videos(ONE).append_column("year", [[1]]), "global element 'videos' has no field year"),
        (videos(ONE).set_column(3, "popularity", [[1.0]]), "'videos.popularity' is double, expected float"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    storage: Storage, index: SnapshotIndex, table: pa.Table, message: str
) -> None:
    with pytest.raises(DataKeyError, match=message):
        publish_global(table, VIDEOS, NOON, storage, index, "v1")
    assert list(storage.list("")) == []


def test_other_wrong_input_is_refused(storage: Storage, index: SnapshotIndex) -> None:
    with pytest.raises(NaiveTimeError, match="has no zone"):
        publish_global(videos(ONE), VIDEOS, NOON.replace(tzinfo=None), storage, index, "v1")
    with pytest.raises(ConfigError, match="version id 'a/b' cannot name a folder"):
        publish_global(videos(ONE), VIDEOS, NOON, storage, index, "a/b")
    with pytest.raises(DataKeyError, match="'h' is a service_element, expected a global element"):
        publish_global(videos(ONE), service_element("h", VIDEOS.type), NOON, storage, index, "v1")


def test_what_has_not_changed_is_not_published_again(storage: Storage, index: SnapshotIndex) -> None:
    def publish(table: pa.Table, days: int) -> bool:
        return publish_global(table, VIDEOS, NOON + days * DAY, storage, index, f"v{days}", if_changed=True)

    reported = [publish(table, day) for day, table in enumerate([videos(ONE, TWO), videos(TWO, ONE), videos(ONE)])]
    assert reported == [True, False, True]
    assert publish(videos(ONE, TWO), 3)  # as it was once, and is again
    assert [version.version_id for version in index.global_versions("videos", NOON + 9 * DAY)] == ["v3", "v2", "v0"]


def test_publishing_reads_no_version_but_those_that_it_compares_with(storage: Storage, index: SnapshotIndex) -> None:
    for day in range(9):
        publish_global(videos(ONE), VIDEOS, NOON + day * DAY, storage, index, f"v{day}")
    path = index.uri.removeprefix("sqlite://")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE global_versions SET record = '{' WHERE version_id NOT IN ('v4', 'v8')")
        connection.commit()
    assert publish_global(videos(ONE), VIDEOS, NOON + 4 * DAY, storage, index, "x", if_changed=True) is False
    assert publish_global(videos(TWO), VIDEOS, NOON + 4 * DAY, storage, index, "y", if_changed=True) is True
    assert publish_global(videos(ONE), VIDEOS, NOON + 8 * DAY, storage, index, "v8") is False
    assert publish_global(videos(ONE), VIDEOS, NOON + 2 * DAY, storage, index, "z", if_changed=True) is True
    with pytest.raises(UnreadableRecordError, match="delorean index withdraw global videos v3"):
        publish_global(videos(ONE), VIDEOS, NOON + 3 * DAY, storage, index, "v3")


def test_a_withdrawn_version_is_never_published_again_under_its_id(storage: Storage, index: SnapshotIndex) -> None:
    publish_global(videos(ONE), VIDEOS, NOON, storage, index, "v1")
    index.withdraw_global("videos", "v1", "half of it", "ann")
    with pytest.raises(WithdrawnError, match="half of it"):
        publish_global(videos(TWO), VIDEOS, NOON, storage, index, "v1")
    assert publish_global(videos(ONE), VIDEOS, NOON, storage, index, "v2", if_changed=True) is True


@pytest.mark.parametrize("text", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_an_element_s_own_type_is_kept_where_configuration_can_say_it(
    storage: Storage, index: SnapshotIndex, text: pa.DataType
) -> None:
    table = pa.table({"id": [1], "title": pa.array(["Up"]).cast(text)})
    for name, element_type in (("a", pa.string()), ("b", pa.large_string()), ("c", text)):
        element = global_element(name, pa.struct({"id": pa.int64(), "title": element_type}))
        assert publish_global(table, element, NOON, storage, index, "v1") is True
        found = index.global_versions(name, NOON)[0].element.type
        kept = element_type if element_type in (pa.string(), pa.large_string()) else pa.string()
        assert found == pa.struct({"id": pa.int64(), "title": kept})
        assert read_global(name, NOON, storage, index).to_pylist() == [{"id": 1, "title": "Up"}]


def test_what_an_earlier_release_published_is_read_as_its_plain_type(storage: Storage, index: SnapshotIndex) -> None:
    """It kept the types of the file, in a record that only later releases can read."""
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), ("release-year", pa.timestamp("ms", "UTC"))])
    table = pa.table([[1], pa.array([NOON], pa.timestamp("ms", "UTC"))], schema=schema)
    file = write_parquet(storage, "globals/old/v1/a.parquet", table, schema)
    index.publish_global(GlobalVersion(global_element("old", pa.struct({"id": pa.int64()})), "v1", NOON, (file,)))
    path = index.uri.removeprefix("sqlite://")
    with closing(sqlite3.connect(path)) as connection:
        old = "struct<id: int64 not null, release-year: timestamp[ms, tz=UTC]>"
        connection.execute("UPDATE global_versions SET record = replace(record, 'struct<id: int64>', ?)", (old,))
        connection.commit()
    found = read_global("old", NOON, storage, index)
    assert found.to_pylist() == [{"id": 1, "release-year": NOON}]
    assert found.schema == pa.schema({"id": pa.int64(), "release-year": pa.timestamp("us", "UTC")})
    plain = global_element("old", pa.struct(list(found.schema)))
    assert publish_global(table, plain, NOON + DAY, storage, index, "v2", if_changed=True) is False

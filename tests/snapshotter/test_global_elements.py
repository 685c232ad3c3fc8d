from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from schemas.data_keys import global_element, service_element
from schemas.errors import ConfigError, DataKeyError, NaiveTimeError, NotInIndexError
from snapshotter.global_elements import publish_global, read_global
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VIDEOS = global_element("videos", "struct<video_id: int64, title: string, genres: list<string>, popularity: float>")


def videos(*rows: tuple[Any, Any, Any, Any]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, VIDEOS.type, strict=True)],
        list(VIDEOS.type.names),
    )


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
    with pytest.raises(NotInIndexError, match="global element 'videos' has no version valid at 2026-01-05T11:59:59"):
        read_global("videos", NOON - timedelta(microseconds=1), storage, index)


def test_a_version_id_is_published_once(storage: Storage, index: SnapshotIndex) -> None:
    publish_global(videos(ONE), VIDEOS, NOON, storage, index, "v1")
    files = list(storage.list(""))
    assert publish_global(videos(ONE), VIDEOS, NOON + DAY, storage, index, "v1") is False
    with pytest.raises(ConfigError, match="version id 'v1' of global element 'videos' is taken, by other rows"):
        publish_global(videos(TWO), VIDEOS, NOON + DAY, storage, index, "v1")
    assert list(storage.list("")) == files
    assert read_global("videos", NOON + DAY, storage, index).equals(videos(ONE))


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

    told = [publish(table, day) for day, table in enumerate([videos(ONE, TWO), videos(TWO, ONE), videos(ONE)])]
    assert told == [True, False, True]
    assert publish(videos(ONE, TWO), 3)  # as it was once, and is again
    assert [version.version_id for version in index.global_versions("videos", NOON + 9 * DAY)] == ["v3", "v2", "v0"]

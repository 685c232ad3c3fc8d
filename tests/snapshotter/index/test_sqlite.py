from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from schemas.errors import ConfigError, SnapshotIndexError
from snapshotter.index import open_index
from snapshotter.index.sqlite import SqliteIndex
from snapshotter.records import ContextSet


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/index.db"


def execute(uri: str, text: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(uri.removeprefix("sqlite://"))
    try:
        found = connection.execute(text).fetchall()
        connection.commit()
        return found
    finally:
        connection.close()


def publish(uri: str) -> None:
    with open_index(uri) as index:
        index.publish_context_set(ContextSet.of_one_key("c1", date(2026, 1, 5), ("e",), (), (), ()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"no database at all" * 1000, "file is not a database"),
        (lambda data: data[:100] + b"\xff" * (len(data) - 100), "malformed"),
        (lambda data: data[:5000], "malformed"),
    ],
)
def test_a_file_that_is_no_index_is_one_clear_error(
    uri: str, tmp_path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    publish(uri)
    file = tmp_path / "index.db"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(SnapshotIndexError, match=f"index {uri}: .*{message}"):
        publish(uri)


def test_another_database_of_sqlite_is_not_taken_for_an_index_of_another_version(uri: str) -> None:
    publish(uri)
    execute(uri, "UPDATE schema_version SET version = 99")
    with pytest.raises(SnapshotIndexError, match="has schema version 99, expected 3 → use the release that wrote it"):
        open_index(uri)


@pytest.mark.parametrize("record", ["{", "{}", "[]", '{"context_set_id": 1}'])
def test_a_record_that_cannot_be_read_is_one_clear_error(uri: str, record: str) -> None:
    publish(uri)
    execute(uri, f"UPDATE context_sets SET record = '{record}'")
    with open_index(uri) as index, pytest.raises(SnapshotIndexError, match="has a record that cannot be read"):
        index.context_set(date(2026, 1, 5))


def test_a_folder_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(SnapshotIndexError, match="unable to open database file"):
        open_index(f"sqlite://{tmp_path}")


def test_a_closed_index_says_so(uri: str) -> None:
    index = open_index(uri)
    index.close()
    with pytest.raises(SnapshotIndexError, match="closed"):
        index.runs()


def test_writes_are_durable_and_logged_ahead(uri: str) -> None:
    with open_index(uri) as index:
        assert isinstance(index, SqliteIndex)
        pragmas = {name: index._query(f"PRAGMA {name}", ())[0][0] for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite://host/index.db", "sqlite:index.db"])
def test_a_uri_that_names_no_file_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="is wrong, expected sqlite:///path"):
        open_index(uri)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown index scheme 'sqlit' → did you mean 'sqlite'"):
        open_index("sqlit:///index.db")

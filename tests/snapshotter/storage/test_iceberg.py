"""Iceberg tables are read as of any snapshot, whatever was deleted and renamed since."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from iceberg_lake import add_version_hint, delete_beside, lake_in, new_table
from pyiceberg.types import DoubleType, LongType
from pyiceberg.utils.config import Config
from s3_server import S3Server

from schemas.errors import ConfigError, CorruptFileError, MissingFileError, StorageError
from snapshotter.storage.iceberg import iceberg_snapshot, newest_snapshot
from snapshotter.storage.s3_client import forget_clients

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "name": pa.array(["a", "b", "c"], pa.large_string()),
        "listed_at": pa.array([NOON] * 3, pa.timestamp("us", "UTC")),
        "genres": pa.array([["x"], [], ["y", "z"]], pa.list_(pa.string())),
    }
)


def rows(path: str, snapshot: int | None = None) -> list[dict[str, Any]]:
    found = iceberg_snapshot(path, snapshot)
    return sorted(pa.Table.from_batches(found.batches(), found.schema).to_pylist(), key=lambda row: row["id"])


def test_each_snapshot_is_read_with_its_own_columns_and_without_its_deleted_rows(tmp_path: Path) -> None:
    table = new_table(lake_in(tmp_path), "films", ROWS)
    delete_beside(table, [1])
    with table.update_schema() as schema:
        schema.add_column("price", DoubleType())
        schema.rename_column("name", "title")
        schema.update_column("id", LongType())
    more = {"id": [4], "title": ["d"], "listed_at": [NOON], "genres": [["w"]], "price": [1.5]}
    table.append(pa.table(more, table.schema().as_arrow()))
    folder = add_version_hint(table)
    first, deleted, newest = [snapshot.snapshot_id for snapshot in table.snapshots()]
    assert newest_snapshot(folder) == newest
    assert rows(folder, first) == sorted(ROWS.to_pylist(), key=lambda row: row["id"])
    assert [row["name"] for row in rows(folder, deleted)] == ["a", "c"]
    assert [(row["title"], row["price"]) for row in rows(folder)] == [("a", None), ("c", None), ("d", 1.5)]
    assert iceberg_snapshot(folder).schema.field("id").type == pa.int64()
    assert iceberg_snapshot(folder).schema.field("title").type == pa.string()
    table.append(pa.table(more, table.schema().as_arrow()))
    assert len(rows(folder)) == 3, "the version hint decides"
    assert len(rows(table.metadata_location)) == 4


def test_a_table_of_a_catalogue_is_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_in(tmp_path)
    new_table(lake, "films", ROWS)
    lake.create_table("shop.empty", schema=ROWS.schema)
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{tmp_path}/lake.db")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which it reads when it is imported
    assert len(rows("iceberg://lake/shop.films")) == 3
    assert newest_snapshot("iceberg://lake/shop.empty") is None
    assert rows("iceberg://lake/shop.empty") == []
    with pytest.raises(MissingFileError, match="no table 'shop.flims' in the catalogue 'lake' → name"):
        newest_snapshot("iceberg://lake/shop.flims")
    with pytest.raises(ConfigError, match="the catalogue 'pond' of iceberg://pond/shop.films cannot be opened"):
        newest_snapshot("iceberg://pond/shop.films")


def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    table = new_table(lake_in(tmp_path), "films", ROWS)
    folder = table.location().removeprefix("file://")
    with pytest.raises(MissingFileError, match=r"films cannot be opened: .*→ name a folder with metadata/version-hint"):
        iceberg_snapshot(folder)
    add_version_hint(table)
    with pytest.raises(MissingFileError, match=f"no snapshot 7 of .* → its latest are {newest_snapshot(folder)}"):
        iceberg_snapshot(folder, 7)
    found = iceberg_snapshot(folder)
    next(Path(folder, "data").glob("*.parquet")).unlink()
    with pytest.raises(MissingFileError, match="films cannot be opened"):
        list(found.batches())
    Path(table.metadata_location.removeprefix("file://")).write_text("{")
    with pytest.raises(CorruptFileError, match="films cannot be read"):
        iceberg_snapshot(folder)


def test_a_table_in_s3_is_read_with_the_credentials_of_each_process(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # the server ignores trailing checksums
    uri = s3.new_uri()
    bucket, _, query = uri.partition("?")
    access = {"s3.endpoint": s3.endpoint, "s3.region": "us-east-1"}
    table = new_table(lake_in(tmp_path, f"{bucket}/lake", **access), "films", ROWS)
    path = f"{table.metadata_location}?{query}"
    assert len(rows(path)) == 3
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    forget_clients()
    with pytest.raises(StorageError, match="credentials are not accepted"):
        rows(path)

"""Iceberg tables as pyiceberg and, for deletes beside the data, Spark write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
from pyiceberg.table import Table
from pyiceberg.typedef import Record

_DELETES = pa.schema(
    [
        pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
)


def lake_in(folder: Path, warehouse: str | None = None, **properties: str) -> SqlCatalog:
    """Create a catalogue in a folder. warehouse: where its tables are, by default beside it."""
    (folder / "lake").mkdir()
    place = warehouse or f"file://{folder}/lake"
    lake = SqlCatalog("lake", uri=f"sqlite:///{folder}/lake.db", warehouse=place, **properties)
    lake.create_namespace("shop")
    return lake


def new_table(lake: SqlCatalog, name: str, rows: pa.Table, **properties: str) -> Table:
    """Create a table with rows."""
    table = lake.create_table(f"shop.{name}", schema=rows.schema, properties=properties)
    table.append(rows)
    return table


def add_version_hint(table: Table) -> str:
    """Write the file by which a table is found by its folder, as catalogues of folders do; return the folder."""
    folder = Path(table.location().removeprefix("file://"))
    (folder / "metadata/version-hint.text").write_text(table.metadata_location.rpartition("/")[2])
    return str(folder)


def delete_beside(table: Table, positions: Sequence[int]) -> None:
    """Delete rows of the first data file without rewriting it: "merge on read", which only Iceberg's Java writes."""
    data = next(iter(table.scan().plan_files())).file
    path = f"{table.location()}/data/deletes-{len(table.snapshots())}.parquet"
    local = path.removeprefix("file://")
    pq.write_table(pa.table({"file_path": [data.file_path] * len(positions), "pos": positions}, _DELETES), local)
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=Path(local).stat().st_size,
    )
    deletes.spec_id = 0
    with (
        patch.object(ManifestWriterV2, "content", lambda _: ManifestContent.DELETES),
        patch.object(ManifestWriterV2, "_meta", property(_meta)),
        table.transaction() as transaction,
        transaction.update_snapshot().fast_append() as append,
    ):
        append.append_data_file(deletes)


def _meta(writer: Any) -> dict[str, str]:
    return {**super(ManifestWriterV2, writer)._meta, "content": "deletes"}

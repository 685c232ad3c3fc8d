"""Versions of state that depends on no context, such as the metadata of all videos."""

from __future__ import annotations

import uuid
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, NotInIndexError
from schemas.tables import refuse_hidden_nulls
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, to_micros
from snapshotter.storage import Storage, require_plain_name
from snapshotter.storage.parquet import read_parquet, write_parquet


def publish_global(
    table: pa.Table,
    element: DataKey,
    valid_from: datetime,
    storage: Storage,
    index: SnapshotIndex,
    version_id: str,
    *,
    if_changed: bool = False,
) -> bool:
    """Publish the whole table as it is from a moment on; False, changing nothing, if that is done already.

    if_changed: False, too, if the version that is valid at that moment holds the same rows
    table: the columns of the element's struct, in any order; the first field of the struct is the rows' key, which no
        two rows share

    Raises DataKeyError for a table that does not fit its element, NaiveTimeError for a moment without a zone, and
    ConfigError when the version of that id has other rows.
    """
    to_micros(valid_from)
    require_plain_name("version id", version_id)
    rows = _fitting(table, element)
    for version in index.global_versions(element.name, END_OF_TIME):
        if version.version_id == version_id:
            _refuse_other_rows(version, rows, storage)
            return False
    if if_changed:
        valid = index.global_versions(element.name, valid_from)
        if valid and read_global_version(valid[0], storage).equals(rows):
            return False
    path = f"globals/{element.name}/{version_id}/{uuid.uuid4().hex[:12]}.parquet"
    file = write_parquet(storage, path, rows, rows.schema)
    return index.publish_global(GlobalVersion(element, version_id, valid_from, (file,)))


def _refuse_other_rows(version: GlobalVersion, rows: pa.Table, storage: Storage) -> None:
    """Raise ConfigError unless these are the rows of a published version."""
    if not read_global_version(version, storage).equals(rows):
        raise ConfigError.because(
            f"version id '{version.version_id}' of global element '{version.element.name}' is taken, by other rows",
            "give this version another id",
        )


def read_global(element: str, at: datetime, storage: Storage, index: SnapshotIndex) -> pa.Table:
    """Read the version that is valid at a moment, sorted by its key. Raises NotInIndexError if there is none."""
    versions = index.global_versions(element, at)
    if not versions:
        raise NotInIndexError.because(f"global element '{element}' has no version valid at {at.isoformat()}")
    return read_global_version(versions[0], storage)


def read_global_version(version: GlobalVersion, storage: Storage) -> pa.Table:
    """Read one version, sorted by its key."""
    schema = pa.schema(list(version.element.type))
    return pa.concat_tables([schema.empty_table(), *(read_parquet(storage, file) for file in version.files)])


def _fitting(table: pa.Table, element: DataKey) -> pa.Table:
    """Give the table with the element's columns, sorted by its key."""
    if element.kind is not Kind.GLOBAL_ELEMENT:
        raise DataKeyError.because(f"'{element.name}' is a {element.kind}, expected a global element")
    fields = list(element.type)
    for field in fields:
        if field.name not in table.column_names:
            raise DataKeyError.unknown(f"column in global element '{element.name}'", field.name, table.column_names)
        found = table.schema.field(field.name).type
        if found != field.type:
            raise DataKeyError.because(f"'{element.name}.{field.name}' is {found}, expected {field.type}")
    extra = sorted(set(table.column_names) - {field.name for field in fields})
    if extra:
        raise DataKeyError.because(f"global element '{element.name}' has no field {', '.join(extra)}", "leave them out")
    key = table.column(fields[0].name)
    if key.null_count or pc.count_distinct(key).as_py() != len(key):
        raise DataKeyError.because(
            f"'{element.name}.{fields[0].name}' has nulls or repeats: it is the key of the table's rows",
            "leave one row for each",
        )
    rows = table.select([field.name for field in fields]).sort_by(fields[0].name).combine_chunks()
    for batch in rows.to_batches():
        refuse_hidden_nulls(element.name, batch.to_struct_array())
    return rows.cast(pa.schema(fields))

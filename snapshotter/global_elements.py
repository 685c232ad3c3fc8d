"""Publishes and reads versions of data that depends on no context, such as the metadata of all videos."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, UnreadableRecordError
from schemas.plain_types import plain_table, plain_type
from schemas.tables import refuse_hidden_nulls
from schemas.type_records import type_to_json
from snapshotter.index import SnapshotIndex
from snapshotter.records import GlobalVersion, record_text, to_micros
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
    """Publish a whole table as a version; False, changing nothing, if it is published already.

    table: the columns of the element's struct, in any order; the first field of the struct is the rows' unique key
    valid_from: the moment from which on the version is valid
    if_changed: return False, too, if the version valid at that moment has the same rows

    Raises DataKeyError for a table that does not match its element, NaiveTimeError for a moment without a zone, and
    ConfigError if the version with that id has other rows.
    """
    to_micros(valid_from)
    require_plain_name("global element", element.name)
    require_plain_name("version id", version_id)
    element = replace(element, type=_declarable_type(element))
    rows = _matching_rows(table, element)
    record_text(GlobalVersion(element, version_id, valid_from, ()))  # raises before anything is written
    existing = index.global_version(element.name, version_id)
    if existing is not None:
        _refuse_other_rows(existing, rows, storage)
        return False
    if if_changed and _is_valid_already(rows, element.name, valid_from, storage, index):
        return False
    path = f"globals/{element.name}/{version_id}/{uuid.uuid4().hex[:12]}.parquet"
    try:
        file = write_parquet(storage, path, rows, rows.schema)
    except pa.ArrowException as error:
        raise DataKeyError.because(f"global element '{element.name}' cannot be written as Parquet: {error}") from error
    return index.publish_global(GlobalVersion(element, version_id, valid_from, (file,)))


def _refuse_other_rows(version: GlobalVersion, rows: pa.Table, storage: Storage) -> None:
    """Raise ConfigError unless these are the rows of a published version."""
    if not read_global_version(version, storage).equals(rows):
        raise ConfigError.because(
            f"version id '{version.version_id}' of global element '{version.element.name}' is taken by other rows",
            "use another id for this version",
        )


def read_global_version(version: GlobalVersion, storage: Storage) -> pa.Table:
    """Read one version, sorted by its key."""
    schema = pa.schema(list(version.element.type))
    tables = [read_parquet(storage, file) for file in version.files]
    # Earlier releases published types that are not plain, whose records are read as the plain ones.
    plain = [table if table.schema.equals(schema) else plain_table(version.element.name, table) for table in tables]
    return pa.concat_tables([schema.empty_table(), *plain])


def _is_valid_already(rows: pa.Table, element: str, moment: datetime, storage: Storage, index: SnapshotIndex) -> bool:
    try:
        valid = index.global_version_at(element, moment)
    except UnreadableRecordError:  # so whether anything changed is unknown
        return False
    return valid is not None and read_global_version(valid, storage).equals(rows)


def _declarable_type(element: DataKey) -> pa.DataType:
    """Return an element's type if a configuration file can declare it, otherwise its plain type."""
    if "arrow" in type_to_json(element.type):
        return plain_type(element.name, element.type)
    return element.type


def _matching_rows(table: pa.Table, element: DataKey) -> pa.Table:
    """Return the table with the element's columns and types, sorted by its key."""
    if element.kind is not Kind.GLOBAL_ELEMENT:
        raise DataKeyError.because(f"'{element.name}' is a {element.kind}, expected a global element")
    fields = list(element.type)
    table = plain_table(element.name, table)
    for field in fields:
        if field.name not in table.column_names:
            raise DataKeyError.unknown(f"column in global element '{element.name}'", field.name, table.column_names)
        actual = table.schema.field(field.name).type
        if actual != plain_type(field.name, field.type):
            raise DataKeyError.because(f"'{element.name}.{field.name}' is {actual}, expected {field.type}")
    extra = sorted(set(table.column_names) - {field.name for field in fields})
    if extra:
        raise DataKeyError.because(f"global element '{element.name}' has no field {', '.join(extra)}", "leave them out")
    order = _order(f"{element.name}.{fields[0].name}", table.column(fields[0].name))
    rows = table.select([field.name for field in fields]).take(order).combine_chunks()
    for batch in rows.to_batches():
        refuse_hidden_nulls(element.name, batch.to_struct_array())
    return rows.cast(pa.schema(fields))


def _order(name: str, key: pa.ChunkedArray) -> pa.Array:
    """Return the order of a table's rows by their key. Raises DataKeyError unless the key is unique."""
    if pa.types.is_nested(key.type):
        raise DataKeyError.because(
            f"'{name}' is {key.type}, which cannot be the key of the table's rows",
            "put a column of numbers or text first",
        )
    if key.null_count or pc.count_distinct(key).as_py() != len(key):
        raise DataKeyError.because(
            f"'{name}' has nulls or repeats, but it is the key of the table's rows",
            "keep one row for each key, or put another column first",
        )
    return pc.sort_indices(key)

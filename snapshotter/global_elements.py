"""Publishes and reads versions of data that depends on no context, such as the metadata of all videos."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain

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
from snapshotter.storage.external_sort import SortedRows
from snapshotter.storage.parquet import ParquetReader, read_parquet, write_parquet

_BATCH_ROWS = 65_536


def publish_global(
    table: pa.Table | pa.RecordBatchReader,
    element: DataKey,
    valid_from: datetime,
    storage: Storage,
    index: SnapshotIndex,
    version_id: str,
    *,
    if_changed: bool = False,
) -> bool:
    """Publish a whole table as a version; False, changing nothing, if it is published already.

    table: the columns of the element's struct, in any order; the first field of the struct is the rows' unique key. A
        reader's batches are never all in memory
    valid_from: the moment from which on the version is valid
    if_changed: return False, too, if the version valid at that moment has the same rows

    Raises DataKeyError for a table that does not match its element, NaiveTimeError for a moment without a zone, and
    ConfigError if the version with that id has other rows.
    """
    to_micros(valid_from)
    require_plain_name("global element", element.name)
    require_plain_name("version id", version_id)
    element = replace(element, type=_declarable_type(element))
    record_text(GlobalVersion(element, version_id, valid_from, ()))  # raises before anything is written
    existing = index.global_version(element.name, version_id)
    with SortedRows(_matching_tables(table, element), element.type[0].name) as rows:
        distinct = _distinct(rows, element)  # the first rows are checked before anything is written
        if existing is not None:
            _refuse_other_rows(existing, rows, storage)
            return False
        if if_changed and _is_valid_already(rows, element.name, valid_from, storage, index):
            return False
        path = f"globals/{element.name}/{version_id}/{uuid.uuid4().hex[:12]}.parquet"
        try:
            file = write_parquet(storage, path, distinct, pa.schema(list(element.type)))
        except pa.ArrowException as error:
            problem = f"global element '{element.name}' cannot be written as Parquet: {error}"
            raise DataKeyError.because(problem) from error
    return index.publish_global(GlobalVersion(element, version_id, valid_from, (file,)))


def _refuse_other_rows(version: GlobalVersion, rows: SortedRows, storage: Storage) -> None:
    """Raise ConfigError unless these are the rows of a published version."""
    if not _has_rows(version, rows, storage):
        raise ConfigError.because(
            f"version id '{version.version_id}' of global element '{version.element.name}' is taken by other rows",
            "use another id for this version",
        )


def _has_rows(version: GlobalVersion, rows: SortedRows, storage: Storage) -> bool:
    """Compare a published version with rows, a row group at a time."""
    if sum(file.rows for file in version.files) != rows.rows:
        return False
    published, others = _row_groups(version, storage), rows.read()
    left = right = pa.table({})
    while True:
        left = left if left.num_rows else next(published, pa.table({}))
        right = right if right.num_rows else next(others, pa.table({}))
        rows_of_both = min(left.num_rows, right.num_rows)
        if not rows_of_both:
            return True
        if not left.slice(0, rows_of_both).equals(right.slice(0, rows_of_both)):
            return False
        left, right = left.slice(rows_of_both), right.slice(rows_of_both)


def _row_groups(version: GlobalVersion, storage: Storage) -> Iterator[pa.Table]:
    schema = pa.schema(list(version.element.type))
    for file in version.files:
        with ParquetReader(storage, file) as reader:
            for group in range(reader.metadata.num_row_groups):
                yield _of_schema(version, reader.read(row_groups=[group]), schema)


def read_global_version(version: GlobalVersion, storage: Storage) -> pa.Table:
    """Read one version, sorted by its key."""
    schema = pa.schema(list(version.element.type))
    tables = [_of_schema(version, read_parquet(storage, file), schema) for file in version.files]
    return pa.concat_tables([schema.empty_table(), *tables])


def _of_schema(version: GlobalVersion, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Earlier releases published types that are not plain, whose records are read as the plain ones."""
    return table if table.schema.equals(schema) else plain_table(version.element.name, table)


def _is_valid_already(rows: SortedRows, element: str, moment: datetime, storage: Storage, index: SnapshotIndex) -> bool:
    try:
        valid = index.global_version_at(element, moment)
    except UnreadableRecordError:  # so whether anything changed is unknown
        return False
    return valid is not None and _has_rows(valid, rows, storage)


def _declarable_type(element: DataKey) -> pa.DataType:
    """Return an element's type if a configuration file can declare it, otherwise its plain type."""
    if "arrow" in type_to_json(element.type):
        return plain_type(element.name, element.type)
    return element.type


def _matching_tables(table: pa.Table | pa.RecordBatchReader, element: DataKey) -> Iterator[pa.Table]:
    """Yield the rows with the element's columns and types. Raises DataKeyError for a table that does not match."""
    _require_columns(plain_table(element.name, table.schema.empty_table()).schema, element)
    fields = list(element.type)
    names, schema = [field.name for field in fields], pa.schema(fields)
    key, first = f"{element.name}.{names[0]}", 0
    for batch in table.to_batches(_BATCH_ROWS) if isinstance(table, pa.Table) else table:
        rows = plain_table(element.name, pa.Table.from_batches([batch])).select(names).combine_chunks()
        if rows.column(0).null_count:
            raise _not_a_key(key)
        for part in rows.to_batches():
            refuse_hidden_nulls(element.name, part.to_struct_array(), first)
            first += part.num_rows
        yield rows.cast(schema)


def _require_columns(schema: pa.Schema, element: DataKey) -> None:
    """Raise DataKeyError unless a table with plain types has exactly the element's columns, the first one a key."""
    if element.kind is not Kind.GLOBAL_ELEMENT:
        raise DataKeyError.because(f"'{element.name}' is a {element.kind}, expected a global element")
    fields = list(element.type)
    for field in fields:
        if field.name not in schema.names:
            raise DataKeyError.unknown(f"column in global element '{element.name}'", field.name, schema.names)
        actual = schema.field(field.name).type
        if actual != plain_type(field.name, field.type):
            raise DataKeyError.because(f"'{element.name}.{field.name}' is {actual}, expected {field.type}")
    extra = sorted(set(schema.names) - {field.name for field in fields})
    if extra:
        raise DataKeyError.because(f"global element '{element.name}' has no field {', '.join(extra)}", "leave them out")
    if pa.types.is_nested(fields[0].type):
        raise DataKeyError.because(
            f"'{element.name}.{fields[0].name}' is {fields[0].type}, which cannot be the key of the table's rows",
            "put a column of numbers or text first",
        )


def _distinct(rows: SortedRows, element: DataKey) -> Iterator[pa.RecordBatch]:
    """Return an iterator over sorted rows, which raises DataKeyError if a key repeats; its first rows are read now."""
    key = element.type[0].name

    def checked() -> Iterator[pa.Table]:
        before = pa.array([], element.type[0].type)
        for table in rows.read():
            keys = pa.chunked_array([before, *table.column(key).chunks])
            if pc.count_distinct(keys).as_py() != len(keys):
                raise _not_a_key(f"{element.name}.{key}")
            before = keys.slice(len(keys) - 1).combine_chunks()
            yield table

    tables = checked()
    first = next(tables, pa.schema(list(element.type)).empty_table())
    return (batch for table in chain([first], tables) for batch in table.to_batches())


def _not_a_key(name: str) -> DataKeyError:
    return DataKeyError.because(
        f"'{name}' has nulls or repeats, but it is the key of the table's rows",
        "keep one row for each key, or put another column first",
    )

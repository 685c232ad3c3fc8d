"""Iceberg tables, read without a JVM: pyiceberg plans a snapshot's files, which any process can then read.

Files with deleted rows and columns that were renamed, added or widened since are read as of the snapshot.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from schemas.errors import ConfigError, CorruptFileError, DeloreanError, MissingFileError, StorageError
from schemas.file_uri import path_of
from schemas.nested_types import is_list
from schemas.redaction import without_password
from snapshotter.storage.delta_location import require_reachable
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.table_source import ICEBERG_CATALOGUE

if TYPE_CHECKING:
    from pyiceberg.table import Table

_METADATA = ".metadata.json"
_HOW_TO_NAME = f"name a folder with metadata/version-hint.text, a file *{_METADATA}, or {ICEBERG_CATALOGUE}://catalogue/namespace.table"


@dataclass(frozen=True)
class IcebergSnapshot:
    """The files of one snapshot, by which other processes read it.

    path: of the table, as it was named
    metadata: the location of the table's metadata
    properties: of a catalogue's file access; empty: each process finds its own credentials
    snapshot: its id; None for a table without any, which has no rows
    schema: of the rows
    files: of each data file what pyiceberg needs to read it, serialised
    """

    path: str
    metadata: str
    properties: Mapping[str, str]
    snapshot: int | None
    schema: pa.Schema
    files: tuple[bytes, ...]

    def read(self, file: bytes) -> Iterator[pa.RecordBatch]:
        """Read the rows of a file, which is in memory meanwhile. file: one of `files`.

        Raises MissingFileError and CorruptFileError.
        """
        with _translated(self.path):
            for batch in self._scan.to_record_batches([pickle.loads(file)]):  # noqa: S301  # planned by `iceberg_snapshot`
                yield from pa.Table.from_batches([batch]).cast(self.schema).to_batches()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all files, one after the other."""
        for file in self.files:
            yield from self.read(file)

    @cached_property
    def _scan(self) -> Any:
        from pyiceberg.io.pyarrow import ArrowScan

        table = _static_table(self.path, self.metadata, self.properties)
        scan = table.scan(snapshot_id=self.snapshot)
        return ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter)


def iceberg_snapshot(path: str, snapshot: int | None = None) -> IcebergSnapshot:
    """List the files of a snapshot. snapshot: its id; None: the newest.

    path: see `TableSource`

    Raises MissingFileError if there is no such table or snapshot, CorruptFileError for one that cannot be read, and
    ConfigError for a catalogue that pyiceberg is not configured for, or deletes that it cannot read.
    """
    table, properties = _open(path)
    if snapshot is None:
        newest = table.metadata.current_snapshot_id
    elif table.snapshot_by_id(snapshot) is None:
        kept = ", ".join(str(each.snapshot_id) for each in table.snapshots()[-3:])
        raise MissingFileError.because(
            f"there is no snapshot {snapshot} of the Iceberg table at {path}", f"its latest are {kept}"
        )
    else:
        newest = snapshot
    with _translated(path):
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        scan = table.scan(snapshot_id=newest)
        schema = _plain(schema_to_pyarrow(scan.projection(), include_field_ids=False))
        files = () if newest is None else tuple(pickle.dumps(task) for task in scan.plan_files())
    return IcebergSnapshot(path, table.metadata_location, properties, newest, schema, files)


def newest_snapshot(path: str) -> int | None:
    """Return the id of the newest snapshot; None for a table without any. Raises what `iceberg_snapshot` does."""
    snapshot: int | None = _open(path)[0].metadata.current_snapshot_id
    return snapshot


def _open(path: str) -> tuple[Table, Mapping[str, str]]:
    """Open a table; return it with the properties by which other processes open its files."""
    parts = urlsplit(path)
    if parts.scheme == ICEBERG_CATALOGUE:
        return _table_of_catalogue(path, parts.netloc, parts.path.strip("/"))
    if parts.scheme == "s3":
        where = S3Location.of(path)
        return _static_table(path, f"s3://{where.bucket}/{where.prefix}".rstrip("/"), {}), {}
    return _static_table(path, str(path_of(path)) if parts.scheme == "file" else path, {}), {}


def _table_of_catalogue(path: str, catalogue: str, name: str) -> tuple[Table, Mapping[str, str]]:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        opened = load_catalog(catalogue)
    except Exception as error:  # pyiceberg raises ValueError, NotInstalledError and drivers' own errors
        raise ConfigError.because(
            f"the catalogue '{catalogue}' of {path} cannot be opened: {_one_line(error)}",
            f"configure it in .pyiceberg.yaml or PYICEBERG_CATALOG__{catalogue.upper()}__URI",
        ) from error
    try:
        table = opened.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise MissingFileError.because(
            f"there is no table '{name}' in the catalogue '{catalogue}'", _HOW_TO_NAME
        ) from error
    except Exception as error:  # as above
        raise StorageError.because(f"{path} cannot be opened: {_one_line(error)}", "check the catalogue") from error
    return table, {str(key): str(value) for key, value in table.io.properties.items()}


def _static_table(path: str, location: str, properties: Mapping[str, str]) -> Table:
    from pyiceberg.table import StaticTable

    with _translated(path):
        return StaticTable.from_metadata(location, {**(properties or _access(path))})


def _access(path: str) -> dict[str, str]:
    """Return how this process reaches a table in S3, with its credentials."""
    if urlsplit(path).scheme != "s3":
        return {}
    from snapshotter.storage.s3 import S3Storage

    options = S3Storage(path).delta_options()
    names = {
        "aws_access_key_id": "s3.access-key-id",
        "aws_secret_access_key": "s3.secret-access-key",
        "aws_session_token": "s3.session-token",
        "aws_region": "s3.region",
        "aws_endpoint_url": "s3.endpoint",
    }
    return {name: options[option] for option, name in names.items() if option in options}


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema with types that Spark and Arrow's readers share."""
    return pa.schema([(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(type: pa.DataType) -> pa.DataType:  # noqa: A002  # the field's own name
    if is_list(type):
        return pa.list_(_plain_type(type.value_type))
    if pa.types.is_struct(type):
        return pa.struct([(field.name, _plain_type(field.type)) for field in type])
    if pa.types.is_map(type):
        return pa.map_(_plain_type(type.key_type), _plain_type(type.item_type))
    return _PLAIN.get(type, type)


_PLAIN = {
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.timestamp("ns"): pa.timestamp("us"),
    pa.timestamp("ns", "UTC"): pa.timestamp("us", "UTC"),
}


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Raise errors of pyiceberg and Arrow as ours."""
    try:
        yield
    except (MemoryError, DeloreanError):
        raise
    except FileNotFoundError as error:
        raise MissingFileError.because(
            f"the Iceberg table at {path} cannot be opened: {_one_line(error)}", _HOW_TO_NAME
        ) from error
    except Exception as error:  # pyiceberg, pydantic and Arrow raise classes of their own
        if "equality delete" in str(error):
            raise ConfigError.because(
                f"the Iceberg table at {path} has equality deletes, which pyiceberg cannot read",
                "rewrite its data files, or read it by Spark's catalogue",
            ) from error
        require_reachable(path)
        raise CorruptFileError.because(
            f"the Iceberg table at {path} cannot be read: {_one_line(error)}", "restore its files from a copy"
        ) from error


def _one_line(error: Exception) -> str:
    return without_password(" ".join(str(error).split()))[:300]

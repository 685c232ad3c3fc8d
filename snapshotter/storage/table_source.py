"""The tables that queries name: a path, a URI or a catalogue's name, a format, and a version."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import ConfigError
from snapshotter.storage.s3_location import S3Location

CATALOGUE = "table"
"""The format of tables that Spark's catalogue knows."""
ICEBERG_CATALOGUE = "iceberg"
"""The scheme of tables in a catalogue that pyiceberg is configured for."""
KNOWN_FORMATS = ("parquet", "delta", "iceberg", CATALOGUE)
_VERSIONED = ("delta", "iceberg", CATALOGUE)
_PATTERN = re.compile(r"([\\{}\[\]*?])")
_NAME = re.compile(r"(\w+|`[^`]+`)(\.(\w+|`[^`]+`))*")


@dataclass(frozen=True)
class TableSource:
    """A table that a query names.

    path: or a URI, in S3 like a storage's: `s3://bucket/table?endpoint=…`. Of an Iceberg table: its folder, if it has a
        version hint, a metadata file, or `iceberg://catalogue/namespace.table`, a catalogue that pyiceberg is
        configured for. Of format table: a name in Spark's catalogue, `database.table` or `catalogue.database.table`
    format: parquet, delta, iceberg, table, or any other that Spark can load
    version: of a Delta table, also in the catalogue, or the id of an Iceberg table's snapshot; None: the newest

    >>> TableSource("shop.products", "table", 3).in_catalogue
    True
    """

    path: str
    format: str = "parquet"
    version: int | None = None

    def __post_init__(self) -> None:
        """Reject a version that no table can have, an invalid path in S3, and what is not the name of a table."""
        if self.version is not None and self.format not in _VERSIONED:
            raise ConfigError.because(
                f"version is {self.version}, but tables of format {self.format} have none", 'write format = "delta"'
            )
        if self.version is not None and self.version < 0:
            raise ConfigError.because(f"version is {self.version}, expected one >= 0")
        if self.in_catalogue and not _NAME.fullmatch(self.path):
            raise ConfigError.because(
                f"'{self.path}' is not the name of a table in Spark's catalogue",
                "write database.table or catalogue.database.table, unusual names in `…`, or name the files' format",
            )
        _ = self.options

    @property
    def in_catalogue(self) -> bool:
        """Whether it is a table of Spark's catalogue."""
        return self.format == CATALOGUE

    @property
    def in_s3(self) -> bool:
        """Whether Spark reads it by its S3 client; Iceberg tables are read by workers."""
        return self.format != "iceberg" and urlsplit(self.path).scheme in ("s3", "s3a")

    @property
    def location(self) -> str:
        """The path or URI that Spark loads."""
        if self._s3_location is not None:
            return self._s3_location.spark_uri
        return self.path if self.format == "delta" or urlsplit(self.path).scheme else _literal(self.path)

    @property
    def options(self) -> dict[str, str]:
        """The options of Spark's reader."""
        server = self._s3_location.spark_options if self._s3_location is not None else {}
        return server if self.version is None else {**server, "versionAsOf": str(self.version)}

    @property
    def _s3_location(self) -> S3Location | None:
        return S3Location.of(self.path) if urlsplit(self.path).scheme == "s3" else None

    def beside(self, file: str | Path) -> TableSource:
        """Return the source with a relative path resolved against a file's folder."""
        if self.in_catalogue or urlsplit(self.path).scheme:
            return self
        return replace(self, path=str(Path(file).resolve().parent / self.path))


def _literal(path: str) -> str:
    """Escape what Spark would read as a pattern, in the part of the path that exists: a folder named [x]."""
    parts = Path(path).parts
    existing = next((count for count in range(len(parts), 0, -1) if os.path.lexists(Path(*parts[:count]))), 0)
    return str(Path(*(_PATTERN.sub(r"\\\1", part) for part in parts[:existing]), *parts[existing:]))

"""The tables that queries name: a path or a URI, a format, and the version of a Delta table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import ConfigError
from snapshotter.storage.s3_location import S3Location

_PATTERN = re.compile(r"([\\{}\[\]*?])")


@dataclass(frozen=True)
class TableSource:
    """A table that a query names.

    path: or a URI, in S3 like a storage's: `s3://bucket/table?endpoint=…`
    format: any that Spark can load, such as parquet or delta
    version: of a Delta table; None: the newest
    """

    path: str
    format: str = "parquet"
    version: int | None = None

    def __post_init__(self) -> None:
        """Reject a version that no table can have, and an invalid path in S3."""
        if self.version is not None and self.format != "delta":
            raise ConfigError.because(
                f"version is {self.version}, but tables of format {self.format} have none", 'write format = "delta"'
            )
        if self.version is not None and self.version < 0:
            raise ConfigError.because(f"version is {self.version}, expected one >= 0")
        _ = self.options

    @property
    def in_s3(self) -> bool:
        """Whether Spark reads it by its S3 client."""
        return urlsplit(self.path).scheme in ("s3", "s3a")

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
        return self if urlsplit(self.path).scheme else replace(self, path=str(Path(file).resolve().parent / self.path))


def _literal(path: str) -> str:
    """Escape what Spark would read as a pattern, in the part of the path that exists: a folder named [x]."""
    parts = Path(path).parts
    existing = next((count for count in range(len(parts), 0, -1) if os.path.lexists(Path(*parts[:count]))), 0)
    return str(Path(*(_PATTERN.sub(r"\\\1", part) for part in parts[:existing]), *parts[existing:]))

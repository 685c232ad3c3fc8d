"""Where a table that a query names lies: a path or a URI, its format, and the version of a Delta table."""

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
    """Where a table that a query names lies.

    path: or a URI, in S3 as a storage's: `s3://bucket/table?endpoint=…`
    format: any that Spark can load, such as parquet or delta
    version: of a Delta table; None is the newest
    """

    path: str
    format: str = "parquet"
    version: int | None = None

    def __post_init__(self) -> None:
        """Refuse a version that no table has, and a path in S3 that is none."""
        if self.version is not None and self.format != "delta":
            raise ConfigError.because(
                f"version is {self.version}, but tables of format {self.format} have none", 'write format = "delta"'
            )
        if self.version is not None and self.version < 0:
            raise ConfigError.because(f"version is {self.version}, expected one >= 0")
        _ = self.options

    @property
    def in_s3(self) -> bool:
        """Whether it takes Spark's way to S3."""
        return urlsplit(self.path).scheme in ("s3", "s3a")

    @property
    def location(self) -> str:
        """Where Spark finds it."""
        if self._place is not None:
            return self._place.spark_uri
        return self.path if self.format == "delta" or urlsplit(self.path).scheme else _literal(self.path)

    @property
    def options(self) -> dict[str, str]:
        """What Spark's reader is told besides the format."""
        server = self._place.spark_options if self._place is not None else {}
        return server if self.version is None else {**server, "versionAsOf": str(self.version)}

    @property
    def _place(self) -> S3Location | None:
        return S3Location.of(self.path) if urlsplit(self.path).scheme == "s3" else None

    def beside(self, file: str | Path) -> TableSource:
        """Let a relative path begin at a file's folder."""
        return self if urlsplit(self.path).scheme else replace(self, path=str(Path(file).resolve().parent / self.path))


def _literal(path: str) -> str:
    """Escape what Spark would read as a pattern, as far as the path exists as it is written: a folder named [x]."""
    parts = Path(path).parts
    existing = next((count for count in range(len(parts), 0, -1) if os.path.lexists(Path(*parts[:count]))), 0)
    return str(Path(*(_PATTERN.sub(r"\\\1", part) for part in parts[:existing]), *parts[existing:]))

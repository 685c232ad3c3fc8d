"""Files at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from snapshotter.records.record_text import JsonRecord


@dataclass(frozen=True)
class DataFile(JsonRecord):
    """A Parquet file at rest.

    path: relative to the storage's root
    bucket: the bucket its rows belong to, 0 where nothing is bucketed
    checksum: xxh3-128 of the file's bytes, in hex
    segments: of each row group, and last of the footer, the number of bytes and their xxh3-64, in hex, so that parts of
        the file can be verified. Together they are the file. Empty in records of earlier releases
    """

    path: str
    rows: int
    bytes: int
    checksum: str
    bucket: int = 0
    segments: tuple[tuple[int, str], ...] = ()

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        segments = tuple((int(size), str(checksum)) for size, checksum in fields.get("segments", ()))
        return cls(**{**fields, "segments": segments})

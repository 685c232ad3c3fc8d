"""Files at rest."""

from __future__ import annotations

from dataclasses import dataclass

from snapshotter.records.record_text import JsonRecord


@dataclass(frozen=True)
class DataFile(JsonRecord):
    """A Parquet file at rest.

    path: relative to the storage's root
    bucket: the bucket its rows belong to, 0 where nothing is bucketed
    checksum: xxh3-128 of the file's bytes, in hex
    """

    path: str
    rows: int
    bytes: int
    checksum: str
    bucket: int = 0

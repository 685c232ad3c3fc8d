"""Files at rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class DataFile:
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

    def to_json(self) -> dict[str, Any]:
        """Return the file as plain fields."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**fields)

"""Versions of global elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.plain_types import plain_type
from schemas.times import from_micros
from schemas.type_records import type_to_json
from snapshotter.records.data_file import DataFile
from snapshotter.records.record_text import JsonRecord


@dataclass(frozen=True)
class GlobalVersion(JsonRecord):
    """One version of a global element: the whole table, valid from a moment on.

    element: its type is one row's struct
    files: Parquet with a column for each field of that struct, sorted by the first
    """

    element: DataKey
    version_id: str
    valid_from: datetime
    files: tuple[DataFile, ...]
    published_at: datetime | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned; a type that only earlier releases wrote becomes the plain one of its files."""
        published = fields["published_at"]
        return cls(
            _element(fields["element"]),
            fields["version_id"],
            from_micros(fields["valid_from"]),
            tuple(DataFile.from_json(file) for file in fields["files"]),
            None if published is None else from_micros(published),
        )


def _element(fields: Mapping[str, Any]) -> DataKey:
    """Read an element. Earlier releases published the types of any file."""
    element = DataKey.from_json(fields)
    if "arrow" in fields or "arrow" not in type_to_json(element.type):
        return element
    try:
        return replace(element, type=plain_type(element.name, element.type))
    except DataKeyError:  # published by an earlier release, though this one would reject it
        return element

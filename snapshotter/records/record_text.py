"""Records as text: what cannot be read back is never written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, Self

from schemas.errors import DataKeyError, DeloreanError


class JsonRecord(Protocol):
    """What the index keeps."""

    def to_json(self) -> dict[str, Any]:
        """Write it as plain fields."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""


def record_text(record: JsonRecord) -> str:
    """Write a record as JSON. Raises DataKeyError for one that would not be read back as it is."""
    text = json.dumps(record.to_json())
    try:
        problem = None if json.dumps(type(record).from_json(json.loads(text)).to_json()) == text else "differs"
    except (DeloreanError, KeyError, TypeError, ValueError) as error:
        problem = f"fails: {error}"
    if problem is not None:
        raise DataKeyError.because(
            f"{type(record).__name__} is not published, since reading its record back {problem}: {text[:200]}…",
            "see whether its names and types are supported",
        )
    return text

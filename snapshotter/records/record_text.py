"""Records as JSON text, which is verified to be readable before it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, Self

from schemas.errors import DataKeyError, DeloreanError


class JsonRecord(Protocol):
    """A record that can be converted to JSON and back."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain fields."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""


def record_text(record: JsonRecord) -> str:
    """Return a record as JSON. Raises DataKeyError if reading it back would give another record."""
    text = json.dumps(record.to_json())
    try:
        problem = None if json.dumps(type(record).from_json(json.loads(text)).to_json()) == text else "differs"
    except (DeloreanError, KeyError, TypeError, ValueError) as error:
        problem = f"fails: {error}"
    if problem is not None:
        raise DataKeyError.because(
            f"{type(record).__name__} is not published, because reading its record back {problem}: {text[:200]}…",
            "check whether its names and types are supported",
        )
    return text

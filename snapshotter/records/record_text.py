"""Records as JSON text, which is verified to be readable before it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Self

from schemas.data_keys import DataKey
from schemas.errors import DataKeyError, DeloreanError
from schemas.services import Service
from schemas.times import to_micros


class JsonRecord:
    """A dataclass that is kept as JSON: times as microseconds since the epoch, days as 2026-01-31."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain fields."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return value.to_json() if isinstance(value, JsonRecord | DataKey | Service) else value


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

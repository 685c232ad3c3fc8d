"""The proxy's log: events with fields, one line each, for machines or for people.

No event ever has a key, an answer or a token in it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

Field: TypeAlias = str | int | float | bool | None
LogFormat: TypeAlias = Literal["text", "json"]


def tell(log: logging.Logger, level: int, event: str, **fields: Field) -> None:
    """Log an event."""
    log.log(level, event, extra={"fields": fields})


class Seldom:
    """Logs an event that may come often: once in a while, with how many there were."""

    def __init__(self, log: logging.Logger, every_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every, self._now = log, every_seconds, now
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def tell(self, level: int, event: str, **fields: Field) -> None:
        """Log an event, if its last time is long ago."""
        now = self._now()
        if now - self._last.get(event, -self._every) < self._every:
            self._unsaid[event] = self._unsaid.get(event, 0) + 1
            return
        self._last[event] = now
        unsaid = self._unsaid.pop(event, 0)
        tell(self._log, level, event, **fields, **({"more_before": unsaid} if unsaid else {}))


def log_to_stderr(form: LogFormat, **always: Field) -> None:
    """Write what is logged from now on to stderr. always: fields of every event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(always) if form == "json" else TextLines(always))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("prana_proxy").setLevel(logging.INFO)


class _Lines(logging.Formatter):
    def __init__(self, always: Mapping[str, Field]) -> None:
        super().__init__()
        self._always = dict(always)

    def fields(self, record: logging.LogRecord) -> dict[str, Field]:
        """Give an event's fields."""
        return {**self._always, **_fields(record)}


class JsonLines(_Lines):
    """One JSON object for each event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps({**line, **self.fields(record)}, ensure_ascii=False)


class TextLines(_Lines):
    """One line for each event, as a person reads it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        fields = "".join(f" {name}={_spoken(value)}" for name, value in self.fields(record).items())
        return f"{_time(record)} {record.levelname.lower()} {record.getMessage()}{fields}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, Field]:
    """Give an event's fields; of an exception its class and where it was raised, since its text may hold a payload."""
    fields: dict[str, Field] = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        error, place = record.exc_info[1], record.exc_info[2]
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        fields["error"] = error.__class__.__name__
        if place is not None:
            fields["at"] = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    return fields


def _spoken(value: Field) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) or " " in value else value

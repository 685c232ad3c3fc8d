"""The proxy's log: events with fields, one line each, for machines or for people.

No event ever contains a key, an answer or a token.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from schemas.strict_json import json_text

LogValue: TypeAlias = str | int | float | bool | None
LogFormat: TypeAlias = Literal["text", "json"]


@dataclass(frozen=True)
class Event:
    """A log message with fields. As text it reads `name field=value …`, whatever logging is set up."""

    name: str
    fields: Mapping[str, LogValue]

    def __str__(self) -> str:
        """Write it as text."""
        return self.name + "".join(f" {name}={_as_text(value)}" for name, value in self.fields.items())


def log_event(log: logging.Logger, level: int, event: str, **fields: LogValue) -> None:
    """Log an event."""
    log.log(level, Event(event, fields))


class ThrottledLog:
    """Logs each event at most once per interval, with a count of what was suppressed since."""

    def __init__(self, log: logging.Logger, every_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._log, self._every, self._now = log, every_seconds, now
        self._logged_at: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def log_event(self, level: int, event: str, **fields: LogValue) -> None:
        """Log an event, or count it if it was logged within the interval."""
        now = self._now()
        if now - self._logged_at.get(event, -self._every) < self._every:
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            return
        self._logged_at[event] = now
        suppressed = self._suppressed.pop(event, 0)
        log_event(self._log, level, event, **fields, **({"suppressed": suppressed} if suppressed else {}))


def log_to_stderr(form: LogFormat, **always: LogValue) -> None:
    """Write all logs to stderr from now on. always: fields of every event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(always) if form == "json" else TextLines(always))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("prana_proxy").setLevel(logging.INFO)


class _Lines(logging.Formatter):
    def __init__(self, always: Mapping[str, LogValue]) -> None:
        super().__init__()
        self._always = always

    def event(self, record: logging.LogRecord) -> Event:
        """Return a record as an event, libraries' too; without an exception's text, which may contain a payload."""
        logged = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
        return Event(logged.name, {**self._always, **logged.fields, **_error(record)})


class JsonLines(_Lines):
    """One JSON object for each event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        event = self.event(record)
        line: dict[str, LogValue] = {"time": _time(record), "level": record.levelname.lower(), "event": event.name}
        line = {**line, **event.fields, **line}  # in this order; a field never overwrites these three
        return json_text(line)


class TextLines(_Lines):
    """One line of text for each event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        return f"{_time(record)} {record.levelname.lower()} {self.event(record)}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _error(record: logging.LogRecord) -> dict[str, LogValue]:
    """Return an exception's class and where it was raised."""
    if record.exc_info is None or record.exc_info[1] is None:
        return {}
    error, place = record.exc_info[1], record.exc_info[2]
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    at = {} if place is None else {"at": f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"}
    return {"error": error.__class__.__name__, **at}


def _as_text(value: LogValue) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set(' "=')
    return str(value) if plain else json_text(value)

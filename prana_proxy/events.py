"""The proxy's log: events with fields, one line each, for machines or for people.

No event ever has a key, an answer or a token in it.
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

Field: TypeAlias = str | int | float | bool | None
LogFormat: TypeAlias = Literal["text", "json"]


@dataclass(frozen=True)
class Event:
    """What is logged: to people it reads `name field=value …`, whatever logging is set up."""

    name: str
    fields: Mapping[str, Field]

    def __str__(self) -> str:
        """Write it for people."""
        return self.name + "".join(f" {name}={_spoken(value)}" for name, value in self.fields.items())


def tell(log: logging.Logger, level: int, event: str, **fields: Field) -> None:
    """Log an event."""
    log.log(level, Event(event, fields))


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
        self._always = always

    def event(self, record: logging.LogRecord) -> Event:
        """Give what was logged as an event, libraries' too; of exceptions not their text, which may hold a payload."""
        told = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
        return Event(told.name, {**self._always, **told.fields, **_error(record)})


class JsonLines(_Lines):
    """One JSON object for each event."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        event = self.event(record)
        line: dict[str, Field] = {"time": _time(record), "level": record.levelname.lower(), "event": event.name}
        line = {**line, **event.fields, **line}  # in this order, and no field goes by these names
        return json_text(line)


class TextLines(_Lines):
    """One line for each event, as a person reads it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an event."""
        return f"{_time(record)} {record.levelname.lower()} {self.event(record)}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _error(record: logging.LogRecord) -> dict[str, Field]:
    """Give an exception's class and where it was raised."""
    if record.exc_info is None or record.exc_info[1] is None:
        return {}
    error, place = record.exc_info[1], record.exc_info[2]
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    at = {} if place is None else {"at": f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"}
    return {"error": error.__class__.__name__, **at}


def _spoken(value: Field) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set(' "=')
    return str(value) if plain else json_text(value)

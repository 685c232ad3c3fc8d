"""The clock that stamps answers: the system's, or a timestamp in a file, for replays and demos."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from schemas.errors import ConfigError
from schemas.file_uri import path_of
from schemas.times import to_micros

Clock = Callable[[], int]
"""Returns the current time in microseconds since the epoch, UTC."""


def open_clock(uri: str | None) -> Clock:
    """Open the clock at a URI: `file:///path/to/clock`; the system's for None.

    Raises ConfigError unless the URI names a file that contains a timestamp.
    """
    if uri is None:
        return system_clock
    try:
        clock = FileClock(path_of(uri))
    except ConfigError as error:
        raise ConfigError(f"clock: {error}") from error
    clock()
    return clock


def system_clock() -> int:
    """Read the system's clock."""
    return time.time_ns() // 1000


class FileClock:
    """A clock that stands still until another timestamp is written to its file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> int:
        """Read the time. Raises ConfigError when the file is missing or contains no timestamp."""
        try:
            text = self.path.read_text(encoding="utf-8").strip()
            moment = datetime.fromisoformat(text)
        except OSError as error:
            raise ConfigError.because(f"clock {self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise self._no_timestamp() from error
        if moment.tzinfo is None:
            raise self._no_timestamp()
        return to_micros(moment)

    def set(self, moment: datetime) -> None:
        """Set the clock; readers see the old time or the new one, never half a text."""
        if moment.tzinfo is None:
            raise ConfigError.because(
                f"clock {self.path}: {moment.isoformat()} has no time zone", "use datetime(…, tzinfo=UTC)"
            )
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(moment.isoformat())
        os.replace(temporary, self.path)

    def _no_timestamp(self) -> ConfigError:
        return ConfigError.because(
            f"clock {self.path} contains no timestamp", "write an RFC 3339 time with a time zone: 2026-01-01T00:00:00Z"
        )

"""Times as integer microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.errors import DataKeyError, NaiveTimeError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Convert a time to microseconds since the epoch, exactly.

    >>> to_micros(datetime(2026, 1, 1, tzinfo=UTC))
    1767225600000000
    """
    if moment.tzinfo is None:
        raise NaiveTimeError.because(f"time {moment.isoformat()} has no zone", "add one: datetime(…, tzinfo=UTC)")
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Convert microseconds since the epoch to a time in UTC, exactly.

    Raises DataKeyError outside the years 1 to 9999, which Arrow supports and Python does not.
    """
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise DataKeyError.because(
            f"time {micros} (microseconds since 1970) is beyond the years 1 to 9999", "correct it or leave it out"
        ) from error


# The range of Python's times, and of most readers'.
FIRST_MICROS, LAST_MICROS = to_micros(datetime.min.replace(tzinfo=UTC)), to_micros(END_OF_TIME)

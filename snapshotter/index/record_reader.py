"""Records as indexes keep them: JSON that may be broken, and what is said then."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any, TypeVar

from schemas.errors import DeloreanError, NotInIndexError, UnreadableRecordError, WithdrawnError
from snapshotter.records import PublishedName, RecordKind, UnreadableRecord, Withdrawal

_Record = TypeVar("_Record")
_LOG = logging.getLogger(__name__)


class RecordReader:
    """Reads records of the index at a URI, and keeps count of those that were skipped because they cannot be read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._skipped: dict[PublishedName, UnreadableRecord] = {}

    @property
    def skipped(self) -> tuple[UnreadableRecord, ...]:
        """What was skipped so far."""
        return tuple(self._skipped.values())

    def forget(self, name: PublishedName) -> None:
        """Count it no more: it was withdrawn."""
        self._skipped.pop(name, None)

    def read(self, name: PublishedName, read: Callable[[Any], _Record], text: str) -> _Record:
        """Read the record, or a part of it, of what is called so. Raises UnreadableRecordError."""
        try:
            return read(json.loads(text))
        except (DeloreanError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UnreadableRecordError.because(
                f"{self.uri} holds a record that cannot be read, of {name}: {error!r} in {text[:80]}…",
                f"withdraw it: {name.withdraw_command}; or restore the index from a copy",
            ) from error

    @contextmanager
    def skipping(self, name: PublishedName, skip: bool = True) -> Iterator[None]:
        """Go on after what cannot be read, logging it once. skip: False: let the error out."""
        try:
            yield
        except UnreadableRecordError as error:
            if not skip:
                raise
            if name not in self._skipped:
                self._skipped[name] = UnreadableRecord(name, str(error))
                _LOG.warning("%s is left out: %s", name, error)


def run_name(run_id: str) -> PublishedName:
    """Name a run."""
    return PublishedName(RecordKind.RUN, run_id)


def context_set_name(day: date | str) -> PublishedName:
    """Name the context set of a date."""
    return PublishedName(RecordKind.CONTEXT_SET, str(day))


def version_name(element: str, version_id: str) -> PublishedName:
    """Name a version of a global element."""
    return PublishedName(RecordKind.GLOBAL_VERSION, version_id, element)


def missing(name: PublishedName, uri: str) -> NotInIndexError:
    """Build the error for what is not published."""
    chosen = name.kind is RecordKind.CONTEXT_SET
    what = f"context set of {name.id}" if chosen else str(name)
    return NotInIndexError.because(f"no {what} is published in {uri}", "select contexts first" if chosen else None)


def withdrawn(withdrawal: Withdrawal, uri: str) -> WithdrawnError:
    """Build the error for an id whose thing was withdrawn."""
    return WithdrawnError.because(
        f"{withdrawal.name} was withdrawn from {uri} by {withdrawal.by} at {withdrawal.withdrawn_at:%F %T} UTC: "
        f"{withdrawal.reason}",
        "publish it anew under another id",
    )

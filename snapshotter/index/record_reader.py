"""Reads records of an index, which may be corrupt, and names what is published."""

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
    """Reads records of the index at a URI, and remembers those that were skipped because they cannot be read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._skipped: dict[PublishedName, UnreadableRecord] = {}

    @property
    def skipped(self) -> tuple[UnreadableRecord, ...]:
        """The records skipped so far."""
        return tuple(self._skipped.values())

    def forget(self, name: PublishedName) -> None:
        """Remove a skipped record that was withdrawn."""
        self._skipped.pop(name, None)

    def read(self, name: PublishedName, read: Callable[[Any], _Record], text: str) -> _Record:
        """Read the record, or a part of it, with a name. Raises UnreadableRecordError."""
        try:
            return read(json.loads(text))
        except (DeloreanError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UnreadableRecordError.because(
                f"{self.uri} has a record that cannot be read, of {name}: {error!r} in {text[:80]}…",
                f"withdraw it: {name.withdraw_command}; or restore the index from a copy",
            ) from error

    @contextmanager
    def skipping(self, name: PublishedName, skip: bool = True) -> Iterator[None]:
        """Skip a record that cannot be read, logging it once. skip: False: raise the error."""
        try:
            yield
        except UnreadableRecordError as error:
            if not skip:
                raise
            if name not in self._skipped:
                self._skipped[name] = UnreadableRecord(name, str(error))
                _LOG.warning("%s is left out: %s", name, error)


def run_name(run_id: str) -> PublishedName:
    """Return the name of a run."""
    return PublishedName(RecordKind.RUN, run_id)


def after_revisions(day: date) -> str:
    """Return a text after the ids of all revisions of a date's context set, and before those of the next date."""
    return f"{day.isoformat()}~"


def version_name(element: str, version_id: str) -> PublishedName:
    """Return the name of a version of a global element."""
    return PublishedName(RecordKind.GLOBAL_VERSION, version_id, element)


def not_published(name: PublishedName, uri: str) -> NotInIndexError:
    """Return the error for a name under which nothing is published."""
    is_context_set = name.kind is RecordKind.CONTEXT_SET
    what = str(name).removeprefix("the ")
    return NotInIndexError.because(
        f"no {what} is published in {uri}", "select contexts first" if is_context_set else None
    )


def withdrawn(withdrawal: Withdrawal, uri: str) -> WithdrawnError:
    """Return the error for an id that was withdrawn."""
    return WithdrawnError.because(
        f"{withdrawal.name} was withdrawn from {uri} by {withdrawal.by} at {withdrawal.withdrawn_at:%F %T} UTC: "
        f"{withdrawal.reason}",
        "publish it again under another id",
    )

"""Service snapshots by time: only the months that a look-up is about are read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from snapshotter.index.cassandra import record_pieces
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement
from snapshotter.index.cassandra.published_entries import PublishedEntries, PublishedEntry
from snapshotter.records import ServiceSnapshot, from_micros, record_text, to_micros

_FEW = 3  # months: of more it is asked first which are there
_WRITE = (
    "INSERT INTO {keyspace}.snapshots"
    " (index_name, service, month, captured_to, captured_from, run_id, attempt, position, record) VALUES"
    " (:index_name, :service, :month, :captured_to, :captured_from, :run_id, :attempt, :position, :record)"
)
_WRITE_MONTH = "INSERT INTO {keyspace}.months (index_name, service, month) VALUES (:index_name, :service, :month)"
_MONTHS = "SELECT month FROM {keyspace}.months WHERE index_name = :index_name AND service = :service"
_MONTH = "FROM {keyspace}.snapshots WHERE index_name = :index_name AND service = :service AND month = :month"
# Filtering is within the partition: its rows are in order of captured_to.
_OVERLAPPING = (
    f"SELECT run_id, attempt, position, record {_MONTH}"
    " AND captured_to >= :earliest AND captured_from <= :latest ALLOW FILTERING"
)
_BY_CAPTURE = (
    f"SELECT captured_to, captured_from, run_id, attempt, position, record {_MONTH}"
    " AND captured_to >= :earliest AND captured_from <= :latest ALLOW FILTERING"
)
_PAGE = 32


class SnapshotsByTime:
    """Service snapshots in the months in which they captured. Those of runs that are not published are not seen."""

    def __init__(self, connection: CassandraSession, runs: PublishedEntries) -> None:
        self._connection = connection
        self._runs = runs

    def writes(self, attempt: uuid.UUID, position: int, snapshot: ServiceSnapshot) -> Iterator[Statement]:
        """Give what writes a snapshot of an attempt to publish its run."""
        text = record_text(snapshot)
        yield from record_pieces.writes(attempt, position, text)
        if snapshot.captured_from is None or snapshot.captured_to is None:
            return
        first, last = to_micros(snapshot.captured_from), to_micros(snapshot.captured_to)
        row = {
            "run_id": snapshot.run_id,
            "attempt": attempt,
            "position": position,
            "record": record_pieces.copy_of(text),
        }
        for ordinal in range(_ordinal(first), _ordinal(last) + 1):
            where = self._values(service=snapshot.service.name, month=_month(ordinal))
            yield _WRITE, {**where, "captured_from": first, "captured_to": last, **row}
            yield _WRITE_MONTH, where

    def within(self, service: str, earliest: int, latest: int) -> list[tuple[str, str]]:
        """Give run ids and records of what captured anything in [earliest, latest], the latest published first."""
        values = self._values(service=service, earliest=earliest, latest=latest)
        asked = [(_OVERLAPPING, {**values, "month": month}) for month in self._there(service, earliest, latest)]
        found = self._visible(row for rows in self._connection.ask(asked) for row in rows)
        found.sort(key=lambda pair: (pair[0].published_at, pair[1].position), reverse=True)
        return self._whole(found)

    def by_capture(self, service: str, earliest: int, latest: int) -> Iterator[tuple[str, str]]:
        """Yield what `within` gives, the greatest last capture first; no further back than it is consumed.

        A snapshot is in each month that it captured in, so in the months from the latest on, each is met first in the
        place that is its own.
        """
        values = self._values(service=service, earliest=earliest, latest=latest)
        seen: set[tuple[uuid.UUID, int]] = set()
        for month in sorted(self._there(service, earliest, latest), reverse=True):
            pages = self._connection.pages(_BY_CAPTURE, {**values, "month": month}, _PAGE)
            visible = (pair for page in pages for pair in self._visible(page))
            for _, group in groupby(visible, key=lambda pair: pair[1].captured_to):
                equal = [pair for pair in group if (pair[1].attempt, pair[1].position) not in seen]
                equal.sort(key=lambda pair: (pair[0].published_at, pair[1].position), reverse=True)
                for entry, row in equal:
                    if _month(_ordinal(row.captured_from)) != month:  # it is in the month before, too
                        seen.add((row.attempt, row.position))
                    yield from self._whole([(entry, row)])

    def _whole(self, found: Sequence[tuple[PublishedEntry, Any]]) -> list[tuple[str, str]]:
        texts = record_pieces.whole(self._connection, [(row.attempt, row.position, row.record) for _, row in found])
        return [(row.run_id, text) for (_, row), text in zip(found, texts, strict=True)]

    def _visible(self, rows: Iterable[Any]) -> list[tuple[PublishedEntry, Any]]:
        """Keep rows of the attempts that are visible, once each, with what is published of them."""
        rows = list(rows)
        published = self._runs.among(row.run_id for row in rows)
        return _once((published[row.attempt], row) for row in rows if row.attempt in published)

    def _there(self, service: str, earliest: int, latest: int) -> list[int]:
        """Give the months of a range to read."""
        first, last = _ordinal(earliest), _ordinal(latest)
        if last - first < _FEW:
            return [_month(ordinal) for ordinal in range(first, last + 1)]
        return [month for month in self._all_months(service) if _month(first) <= month <= _month(last)]

    def _all_months(self, service: str) -> list[int]:
        """Give the months that a service has, the latest first."""
        return [row.month for row in self._connection.one(_MONTHS, self._values(service=service))]

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"index_name": self._connection.address.index, **values}


def _once(found: Iterable[tuple[PublishedEntry, Any]]) -> list[tuple[PublishedEntry, Any]]:
    """Drop repetitions: a snapshot is in each month that it captured in."""
    return list({(row.attempt, row.position): (entry, row) for entry, row in found}.values())


def _ordinal(micros: int) -> int:
    moment = from_micros(micros)
    return moment.year * 12 + moment.month - 1


def _month(ordinal: int) -> int:
    """Write a month as people do: 202601."""
    return ordinal // 12 * 100 + ordinal % 12 + 1

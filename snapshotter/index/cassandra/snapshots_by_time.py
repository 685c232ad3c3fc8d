"""Looks service snapshots up by time, reading only the months of the range."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from snapshotter.index.cassandra import record_pieces
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement
from snapshotter.index.cassandra.published_entries import PublishedEntries, PublishedEntry
from snapshotter.records import ServiceSnapshot, from_micros, record_text, to_micros

_FEW_MONTHS = 3  # for more, the months that exist are read first
_WRITE = (
    "INSERT INTO {keyspace}.snapshots"
    " (index_name, service, month, captured_to, captured_from, run_id, attempt, position, record) VALUES"
    " (:index_name, :service, :month, :captured_to, :captured_from, :run_id, :attempt, :position, :record)"
)
_WRITE_MONTH = "INSERT INTO {keyspace}.months (index_name, service, month) VALUES (:index_name, :service, :month)"
_MONTHS = "SELECT month FROM {keyspace}.months WHERE index_name = :index_name AND service = :service"
_MONTH = "FROM {keyspace}.snapshots WHERE index_name = :index_name AND service = :service AND month = :month"
# ALLOW FILTERING filters within the partition, whose rows are in order of captured_to.
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
    """Published service snapshots, stored in each month in which they captured."""

    def __init__(self, session: CassandraSession, runs: PublishedEntries) -> None:
        self._session = session
        self._runs = runs

    def writes(self, attempt: uuid.UUID, position: int, snapshot: ServiceSnapshot) -> Iterator[Statement]:
        """Yield the statements that write a snapshot of an attempt to publish its run."""
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
        """Return run ids and records of snapshots that captured in [earliest, latest], the latest published first."""
        values = self._values(service=service, earliest=earliest, latest=latest)
        months = self._months(service, earliest, latest)
        statements = [(_OVERLAPPING, {**values, "month": month}) for month in months]
        matches = self._visible(row for rows in self._session.execute_all(statements) for row in rows)
        matches.sort(key=lambda pair: (pair[0].published_at, pair[1].position), reverse=True)
        return self._complete(matches)

    def by_capture(self, service: str, earliest: int, latest: int) -> Iterator[tuple[str, str]]:
        """Yield what `within` returns, the greatest last capture first, reading only as far as it is consumed.

        A snapshot is stored in each month that it captured in. In the months from the latest on, it first occurs in the
        one of its last capture, which is its place in the order.
        """
        values = self._values(service=service, earliest=earliest, latest=latest)
        seen: set[tuple[uuid.UUID, int]] = set()
        for month in sorted(self._months(service, earliest, latest), reverse=True):
            pages = self._session.pages(_BY_CAPTURE, {**values, "month": month}, _PAGE)
            visible = (pair for page in pages for pair in self._visible(page))
            for _, group in groupby(visible, key=lambda pair: pair[1].captured_to):
                equal = [pair for pair in group if (pair[1].attempt, pair[1].position) not in seen]
                equal.sort(key=lambda pair: (pair[0].published_at, pair[1].position), reverse=True)
                for entry, row in equal:
                    if _month(_ordinal(row.captured_from)) != month:  # it is stored in the month before, too
                        seen.add((row.attempt, row.position))
                    yield from self._complete([(entry, row)])

    def _complete(self, matches: Sequence[tuple[PublishedEntry, Any]]) -> list[tuple[str, str]]:
        texts = record_pieces.complete(self._session, [(row.attempt, row.position, row.record) for _, row in matches])
        return [(row.run_id, text) for (_, row), text in zip(matches, texts, strict=True)]

    def _visible(self, rows: Iterable[Any]) -> list[tuple[PublishedEntry, Any]]:
        """Return the rows of visible attempts, once each, with the entries that publish them."""
        rows = list(rows)
        published = self._runs.among(row.run_id for row in rows)
        return _once((published[row.attempt], row) for row in rows if row.attempt in published)

    def _months(self, service: str, earliest: int, latest: int) -> list[int]:
        """Return the months of a range to read."""
        first, last = _ordinal(earliest), _ordinal(latest)
        if last - first < _FEW_MONTHS:
            return [_month(ordinal) for ordinal in range(first, last + 1)]
        return [month for month in self._all_months(service) if _month(first) <= month <= _month(last)]

    def _all_months(self, service: str) -> list[int]:
        """Return the months in which a service has snapshots, the latest first."""
        return [row.month for row in self._session.execute(_MONTHS, self._values(service=service))]

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"index_name": self._session.address.index, **values}


def _once(matches: Iterable[tuple[PublishedEntry, Any]]) -> list[tuple[PublishedEntry, Any]]:
    """Remove repetitions: a snapshot is stored in each month that it captured in."""
    return list({(row.attempt, row.position): (entry, row) for entry, row in matches}.values())


def _ordinal(micros: int) -> int:
    moment = from_micros(micros)
    return moment.year * 12 + moment.month - 1


def _month(ordinal: int) -> int:
    """Return a month as year and month: 202601."""
    return ordinal // 12 * 100 + ordinal % 12 + 1

"""Service snapshots by time: only the months that a look-up is about are read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from snapshotter.index.cassandra import records
from snapshotter.index.cassandra.connection import Connection, Statement
from snapshotter.index.cassandra.published import Entry, Published
from snapshotter.records import ServiceSnapshot, from_micros, to_micros

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
_CAPTURED = f"SELECT captured_to, run_id, attempt, position {_MONTH}"


class Snapshots:
    """Service snapshots in the months in which they captured. Those of runs that are not published are not seen."""

    def __init__(self, connection: Connection, runs: Published) -> None:
        self._connection = connection
        self._runs = runs

    def writes(self, attempt: uuid.UUID, position: int, snapshot: ServiceSnapshot) -> Iterator[Statement]:
        """Give what writes a snapshot of an attempt to publish its run."""
        text = json.dumps(snapshot.to_json())
        yield from records.writes(attempt, position, text)
        if snapshot.captured_from is None or snapshot.captured_to is None:
            return
        first, last = to_micros(snapshot.captured_from), to_micros(snapshot.captured_to)
        row = {"run_id": snapshot.run_id, "attempt": attempt, "position": position, "record": records.copy_of(text)}
        for ordinal in range(_ordinal(first), _ordinal(last) + 1):
            where = self._values(service=snapshot.service.name, month=_month(ordinal))
            yield _WRITE, {**where, "captured_from": first, "captured_to": last, **row}
            yield _WRITE_MONTH, where

    def within(self, service: str, earliest: int, latest: int) -> list[str]:
        """Give the records of those that captured anything in [earliest, latest], the latest published first."""
        values = self._values(service=service, earliest=earliest, latest=latest)
        asked = [(_OVERLAPPING, {**values, "month": month}) for month in self._there(service, earliest, latest)]
        found = self._visible(row for rows in self._connection.ask(asked) for row in rows)
        found.sort(key=lambda pair: (pair[0].published_at, pair[1].position), reverse=True)
        return records.whole(self._connection, [(row.attempt, row.position, row.record) for _, row in found])

    def last(self, service: str, limit: int) -> list[str]:
        """Give the records of those that captured last, the last first. Reads no further back than it must."""
        found: list[tuple[Entry, Any]] = []
        months = iter(self._all_months(service))
        while len(found) < limit and (month := next(months, None)) is not None:
            rows = self._connection.one(_CAPTURED, self._values(service=service, month=month))
            found = _once([*found, *self._visible(rows)])
        found.sort(key=lambda pair: (pair[1].captured_to, pair[0].published_at, pair[1].position), reverse=True)
        return records.whole(self._connection, [(row.attempt, row.position, None) for _, row in found[:limit]])

    def _visible(self, rows: Iterable[Any]) -> list[tuple[Entry, Any]]:
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


def _once(found: Iterable[tuple[Entry, Any]]) -> list[tuple[Entry, Any]]:
    """Drop repetitions: a snapshot is in each month that it captured in."""
    return list({(row.attempt, row.position): (entry, row) for entry, row in found}.values())


def _ordinal(micros: int) -> int:
    moment = from_micros(micros)
    return moment.year * 12 + moment.month - 1


def _month(ordinal: int) -> int:
    """Write a month as people do: 202601."""
    return ordinal // 12 * 100 + ordinal % 12 + 1

"""The rows of snapshots, and the queries for those of a service that captured within a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snapshotter.records import ServiceSnapshot, to_micros

# The inner query reads the index `snapshots_by_capture` alone; without it SQLite reads the record of every later
# snapshot, too, before it looks at captured_from.
_SNAPSHOTS = (
    "SELECT run_id, record, captured_to, published_at, position FROM snapshots JOIN"
    " (SELECT run_id AS id, position AS place FROM snapshots"
    " WHERE service = ? AND captured_to >= ? AND captured_from <= ?{within}) AS page"
    " ON run_id = id AND position = place"
    " ORDER BY {order}"
)
_AFTER = " AND (captured_to, published_at, position) < (?, ?, ?)"
_CAPTURED_LAST = "captured_to DESC, published_at DESC, position DESC"
_LIMIT = f" ORDER BY {_CAPTURED_LAST} LIMIT ?"
OVERLAPPING = _SNAPSHOTS.format(within="", order="published_at DESC, position DESC")
FIRST_BY_CAPTURE = _SNAPSHOTS.format(within=_LIMIT, order=_CAPTURED_LAST)
NEXT_BY_CAPTURE = _SNAPSHOTS.format(within=_AFTER + _LIMIT, order=_CAPTURED_LAST)


def snapshot_row(run_id: str, position: int, snapshot: ServiceSnapshot, published_at: int, text: str) -> Sequence[Any]:
    """Return the row of a snapshot. published_at: microseconds; text: its record."""
    first, last = snapshot.captured_from, snapshot.captured_to
    captured_from, captured_to = (None if moment is None else to_micros(moment) for moment in (first, last))
    return (run_id, position, snapshot.service.name, captured_from, captured_to, published_at, text)

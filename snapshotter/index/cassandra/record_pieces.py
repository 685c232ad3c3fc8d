"""Records as attempts write them: JSON in pieces, so that no row is huge."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from schemas.errors import UnreadableRecordError
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement

_PIECE = 1 << 18  # characters
_SMALL = 1 << 14  # up to this, tables for look-ups have a copy
_WRITE = (
    "INSERT INTO {keyspace}.records (attempt, position, piece, record) VALUES (:attempt, :position, :piece, :record)"
)
_READ_ALL = "SELECT position, piece, record FROM {keyspace}.records WHERE attempt = :attempt"
_READ_ONE = f"{_READ_ALL} AND position = :position"


def writes(attempt: uuid.UUID, position: int, text: str) -> Iterator[Statement]:
    """Give what writes a record of an attempt."""
    for piece, start in enumerate(range(0, len(text), _PIECE)):
        record = text[start : start + _PIECE]
        yield _WRITE, {"attempt": attempt, "position": position, "piece": piece, "record": record}


def copy_of(text: str) -> str | None:
    """Give a record for a table of look-ups, or None if it is too large to be there twice."""
    return text if len(text) <= _SMALL else None


def read_attempts(connection: CassandraSession, attempts: Sequence[uuid.UUID]) -> list[list[str]]:
    """Read all records of attempts that are visible."""
    answers = connection.ask([(_READ_ALL, {"attempt": attempt}) for attempt in attempts])
    return [
        ["".join(row.record for row in pieces) for _, pieces in groupby(rows, lambda row: row.position)]
        for rows in answers
    ]


def require_all(connection: CassandraSession, attempt: uuid.UUID, found: Sequence[str], count: int) -> None:
    """Raise UnreadableRecordError unless an attempt has as many records as it wrote."""
    if len(found) != count:
        raise UnreadableRecordError.because(
            f"index {connection.address.uri} has {len(found)} of {count} records of attempt {attempt}",
            "repair the cluster (nodetool repair) or restore it; between datacenters, use consistency=QUORUM",
        )


def whole(connection: CassandraSession, found: Iterable[tuple[uuid.UUID, int, str | None]]) -> list[str]:
    """Complete records, of visible attempts, that look-ups found: (attempt, position, copy)."""
    found = list(found)
    large = [(attempt, position) for attempt, position, copy in found if copy is None]
    answers = connection.ask([(_READ_ONE, {"attempt": attempt, "position": at}) for attempt, at in large])
    read = {key: "".join(row.record for row in rows) for key, rows in zip(large, answers, strict=True)}
    return [read[attempt, position] if copy is None else copy for attempt, position, copy in found]

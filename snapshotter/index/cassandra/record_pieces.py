"""Records of attempts: JSON in pieces, so that rows stay small."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from schemas.errors import UnreadableRecordError
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement

_PIECE_CHARACTERS = 1 << 18
_SMALL_CHARACTERS = 1 << 14  # records up to this size are copied to the tables for look-ups
_WRITE = (
    "INSERT INTO {keyspace}.records (attempt, position, piece, record) VALUES (:attempt, :position, :piece, :record)"
)
_READ_ALL = "SELECT position, piece, record FROM {keyspace}.records WHERE attempt = :attempt"
_READ_ONE = f"{_READ_ALL} AND position = :position"


def writes(attempt: uuid.UUID, position: int, text: str) -> Iterator[Statement]:
    """Yield the statements that write a record of an attempt."""
    for piece, start in enumerate(range(0, len(text), _PIECE_CHARACTERS)):
        record = text[start : start + _PIECE_CHARACTERS]
        yield _WRITE, {"attempt": attempt, "position": position, "piece": piece, "record": record}


def copy_of(text: str) -> str | None:
    """Return a record for a table for look-ups, or None if it is too large to store twice."""
    return text if len(text) <= _SMALL_CHARACTERS else None


def read_attempts(session: CassandraSession, attempts: Sequence[uuid.UUID]) -> list[list[str]]:
    """Read all records of visible attempts."""
    answers = session.execute_all([(_READ_ALL, {"attempt": attempt}) for attempt in attempts])
    return [
        ["".join(row.record for row in pieces) for _, pieces in groupby(rows, lambda row: row.position)]
        for rows in answers
    ]


def require_all(session: CassandraSession, attempt: uuid.UUID, records: Sequence[str], count: int) -> None:
    """Raise UnreadableRecordError unless an attempt has as many records as it wrote."""
    if len(records) != count:
        raise UnreadableRecordError.because(
            f"index {session.address.uri} has {len(records)} of {count} records of attempt {attempt}",
            "repair the cluster (nodetool repair) or restore it; between datacenters, use consistency=QUORUM",
        )


def complete(session: CassandraSession, rows: Iterable[tuple[uuid.UUID, int, str | None]]) -> list[str]:
    """Return the records of rows from look-ups, reading those that are not copied: (attempt, position, copy)."""
    rows = list(rows)
    large = [(attempt, position) for attempt, position, copy in rows if copy is None]
    answers = session.execute_all([(_READ_ONE, {"attempt": attempt, "position": at}) for attempt, at in large])
    read = {key: "".join(row.record for row in pieces) for key, pieces in zip(large, answers, strict=True)}
    return [read[attempt, position] if copy is None else copy for attempt, position, copy in rows]

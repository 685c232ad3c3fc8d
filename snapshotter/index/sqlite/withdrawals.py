"""Withdrawals: a published thing's rows are moved to a table of their own, with who did it, when and why."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from snapshotter.index.record_reader import RecordReader, not_published, withdrawn
from snapshotter.index.sqlite.schema import declare_again
from snapshotter.records import PublishedName, RecordKind, Withdrawal, from_micros

_COLUMNS = "SELECT kind, element, id, withdrawn_at, published_at, withdrawn_by, reason FROM withdrawals"
# kind → its tables and the condition on their rows; the row of the last one makes it visible
_ROWS = {
    RecordKind.RUN: {"snapshots": "run_id = :id", "runs": "run_id = :id"},
    RecordKind.CONTEXT_SET: {"context_sets": "date = :id"},
    RecordKind.GLOBAL_VERSION: {"global_versions": "element = :element AND version_id = :id"},
}


def withdraw(
    connection: sqlite3.Connection, records: RecordReader, name: PublishedName, reason: str, by: str, moment: int
) -> bool:
    """Move a published thing to the withdrawals, in the caller's transaction; False if it was withdrawn before."""
    values = {"id": name.id, "element": name.element}
    content: dict[str, list[dict[str, Any]]] = {}
    for table, where in _ROWS[name.kind].items():
        result = connection.execute(f"SELECT * FROM {table} WHERE {where}", values)  # noqa: S608  # our text
        columns = [column[0] for column in result.description]
        content[table] = [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
    rows = content[list(content)[-1]]
    if not rows:
        if of_name(connection, name):
            return False
        raise not_published(name, records.uri)
    published_at = rows[0].get("published_at")  # not recorded for a context set
    connection.execute(
        "INSERT INTO withdrawals VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (name.kind, name.element, name.id, moment, published_at, by, reason, json.dumps(content, default=repr)),
    )
    for table, where in _ROWS[name.kind].items():
        connection.execute(f"DELETE FROM {table} WHERE {where}", values)  # noqa: S608
    if name.kind is RecordKind.RUN:
        declare_again(connection, records, rows[0]["published_at"])
    return True


def refuse_withdrawn(connection: sqlite3.Connection, name: PublishedName, uri: str) -> None:
    """Raise WithdrawnError for the id of something withdrawn: ids are never reused."""
    for withdrawal in of_name(connection, name):
        raise withdrawn(withdrawal, uri)


def of_name(connection: sqlite3.Connection, name: PublishedName) -> list[Withdrawal]:
    """Return the withdrawals of a name."""
    result = connection.execute(
        f"{_COLUMNS} WHERE kind = ? AND element = ? AND id = ?", (name.kind, name.element, name.id)
    )
    return [_withdrawal(row) for row in result.fetchall()]


def withdrawals(query: Callable[[str, Sequence[Any]], list[Any]]) -> list[Withdrawal]:
    """Return all, the latest withdrawn first."""
    return [_withdrawal(row) for row in query(f"{_COLUMNS} ORDER BY withdrawn_at DESC", ())]


def _withdrawal(row: Sequence[Any]) -> Withdrawal:
    kind, element, name, at, published_at, by, reason = row
    published = None if published_at is None else from_micros(published_at)
    return Withdrawal(PublishedName(RecordKind(kind), name, element), reason, by, from_micros(at), published)

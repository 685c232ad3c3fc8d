"""Withdrawals: one conditional write makes an entry invisible and records who did it, when and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.cluster_session import CassandraSession, RetryDeadline
from snapshotter.index.cassandra.published_entries import (
    WITHDRAWN,
    EntryRow,
    PublishedEntries,
    PublishedEntry,
    insert_rows,
    now,
)
from snapshotter.index.cassandra.run_timeline import DECLARATIONS, RUN_TIMES, RunTimeline, time_id
from snapshotter.records import PublishedName, RecordKind, Withdrawal, from_micros, to_micros

_KIND = "withdrawal"
_WHERE = "WHERE index_name = :index_name AND kind = :kind AND subject = :subject AND id = :id"
_CLOCK = "BEGIN BATCH UPDATE {keyspace}.published SET clock = :moment WHERE index_name = :index_name IF clock = :seen; "
# The row stays, so that its id is never reused; that of a context set is deleted, so that its date may have another.
_HIDE = f"UPDATE {{keyspace}}.published SET attempt = :hidden, header = :header {_WHERE} IF attempt = :attempt; "  # noqa: S608  # our text
_REMOVE = f"DELETE FROM {{keyspace}}.published {_WHERE} IF attempt = :attempt; "  # noqa: S608
_DELETE = (
    "DELETE FROM {keyspace}.published WHERE index_name = :index_name AND kind = :kind# AND subject = :subject#"
    " AND id = :id#; "
)
_DECLARE = (
    "UPDATE {keyspace}.published SET published_at = :published_at#, header = :header# WHERE index_name = :index_name"
    " AND kind = :kind# AND subject = :subject# AND id = :id#; "
)


class Withdrawals:
    """The withdrawals of an index."""

    def __init__(self, session: CassandraSession, timeline: RunTimeline) -> None:
        self._session = session
        self._timeline = timeline
        self._published = PublishedEntries(session, _KIND)

    def all(self) -> list[Withdrawal]:
        """Return them, the latest withdrawn first."""
        return [withdrawal_of(entry) for entry in reversed(self._published.of_kind())]

    def withdraw(self, published: PublishedEntries, name: PublishedName, reason: str, by: str) -> bool | None:
        """Withdraw an entry; False if it was withdrawn before, None if it never existed."""
        deadline = RetryDeadline(self._session.address.patience_seconds)
        while True:
            entry = published.entry(name.id, name.element)
            if entry is None:
                return None
            if entry.is_withdrawn:
                return False
            seen = published.clock()
            moment = max(now(), seen + 1)
            withdrawal = Withdrawal(name, reason, by, from_micros(moment), from_micros(entry.published_at))
            text, values = self._batch(published, entry, withdrawal)
            outcome = self._session.write_once(text, values | {"seen": seen, "moment": moment})
            if isinstance(outcome, SnapshotIndexError):
                if published.settled(name.id, name.element) != entry.attempt:
                    return True
                error = outcome
            elif outcome.applied:
                return True
            else:
                error = _busy(self._session.address.uri)
            if deadline.passed:
                raise error
            deadline.pause()

    def _batch(
        self, published: PublishedEntries, entry: PublishedEntry, withdrawal: Withdrawal
    ) -> tuple[str, dict[str, Any]]:
        """Return a conditional write, which is applied completely or not at all, if nothing was published meanwhile."""
        name, header = withdrawal.name, _header(withdrawal)
        frees_id = name.kind is RecordKind.CONTEXT_SET
        values = published.values(subject=entry.subject, id=entry.id, attempt=entry.attempt)
        values |= {} if frees_id else {"hidden": WITHDRAWN, "header": header}
        row = EntryRow(
            _KIND, "", f"{to_micros(withdrawal.withdrawn_at):020d} {name.kind} {name.element} {name.id}", header
        )
        recorded, others = insert_rows([row])
        text, number = _CLOCK + (_REMOVE if frees_id else _HIDE) + recorded, 1
        values |= others
        for statement, changed in self._changes(entry) if name.kind is RecordKind.RUN else ():
            text += statement.replace("#", str(number))
            values |= {f"{key}{number}": value for key, value in changed.items()}
            number += 1
        return f"{text}APPLY BATCH", values

    def _changes(self, entry: PublishedEntry) -> Sequence[tuple[str, dict[str, Any]]]:
        """Return the other changes for a run: of its timeline row, and of when its services were last published."""
        place = {"kind": RUN_TIMES, "subject": "", "id": time_id(entry.id, entry.published_at)}
        changes: list[tuple[str, dict[str, Any]]] = [(_DELETE, place)]
        for declared, before in self._timeline.declared_only_by(entry.id, entry.published_at):
            where = {"kind": DECLARATIONS, "subject": declared.subject, "id": declared.id}
            if before is None:
                changes.append((_DELETE, where))
            else:
                changes.append((_DECLARE, {**where, "published_at": before[0], "header": before[1]}))
        return changes


def withdrawal_of(entry: PublishedEntry) -> Withdrawal:
    """Return the withdrawal in the header of a withdrawn entry."""
    fields = json.loads(entry.header)
    return Withdrawal(
        PublishedName(RecordKind(fields["kind"]), fields["id"], fields["element"]),
        fields["reason"],
        fields["by"],
        from_micros(fields["withdrawn_at"]),
        from_micros(fields["published_at"]),
    )


def _header(withdrawal: Withdrawal) -> str:
    published_at = withdrawal.published_at
    return json.dumps(
        {
            **vars(withdrawal.name),
            "reason": withdrawal.reason,
            "by": withdrawal.by,
            "withdrawn_at": to_micros(withdrawal.withdrawn_at),
            "published_at": None if published_at is None else to_micros(published_at),
        }
    )


def _busy(uri: str) -> SnapshotIndexError:
    return SnapshotIndexError.because(f"index {uri} was published to during every try", "try again")

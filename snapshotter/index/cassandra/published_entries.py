"""The visible entries of an index. One conditional write makes an entry and advances the index's clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.cluster_session import CassandraSession, RetryDeadline
from snapshotter.records import to_micros

WITHDRAWN = uuid.UUID(int=0)  # the attempt of an entry that was withdrawn
_IDS_PER_QUERY = 100
_NO_LIMIT = 2**31 - 1
_COLUMNS = "subject, id, published_at, attempt, header"
_WHERE = "WHERE index_name = :index_name AND kind = :kind"
_KIND = f"SELECT {_COLUMNS} FROM {{keyspace}}.published {_WHERE}"  # noqa: S608  # our text
_ALL = f"{_KIND} AND subject = :subject"
_SOME = f"{_ALL} AND id IN :ids"
_ONE = f"{_ALL} AND id = :id"
_NEWEST = f"{_ALL} AND id < :before ORDER BY kind DESC, subject DESC, id DESC LIMIT :most"
_BETWEEN = f"{_ALL} AND id >= :first AND id < :before"
CLOCK = "SELECT clock FROM {keyspace}.published WHERE index_name = :index_name LIMIT 1"
_INSERT = (  # of the row with a number
    "INSERT INTO {keyspace}.published (index_name, kind, subject, id, published_at, attempt, header)"
    " VALUES (:index_name, :kind#, :subject#, :id#, :moment, :attempt, :header#)"
)
# One round of Paxos decides all of it, so entries become visible in the clock's order.
_TICK = "UPDATE {keyspace}.published SET clock = :moment WHERE index_name = :index_name IF clock < :moment; "
_PUBLISH = f"BEGIN BATCH {_TICK}{_INSERT.replace('#', '')} IF NOT EXISTS; "


@dataclass(frozen=True)
class EntryRow:
    """An entry to write, without its time and its attempt."""

    kind: str
    subject: str
    id: str
    header: str


@dataclass(frozen=True)
class PublishedEntry:
    """A visible entry. attempt: the one whose records are visible; those of other attempts never are."""

    subject: str
    id: str
    published_at: int
    attempt: uuid.UUID
    header: str

    @property
    def is_withdrawn(self) -> bool:
        """Whether it was withdrawn: then it is not visible any more, and its header has the reason."""
        return self.attempt == WITHDRAWN


@dataclass(frozen=True)
class PublishedEntries:
    """The visible entries of one kind. A subject groups the entries of a kind, such as versions of an element.

    index_name: None: that of the session
    """

    session: CassandraSession
    kind: str
    index_name: str | None = None

    def entry(self, entry_id: str, subject: str = "") -> PublishedEntry | None:
        """Return an entry, also one that was withdrawn; None if there is none."""
        matches = self.session.execute(_ONE, self.values(subject=subject, id=entry_id))
        return PublishedEntry(*matches[0]) if matches else None

    def entries(self) -> list[PublishedEntry]:
        """Return the entries without a subject, the latest published first."""
        matches = [PublishedEntry(*row) for row in self.session.execute(_ALL, self.values(subject=""))]
        return sorted((entry for entry in matches if not entry.is_withdrawn), key=lambda entry: -entry.published_at)

    def of_kind(self) -> list[PublishedEntry]:
        """Return all entries, in order of subject and id."""
        return [PublishedEntry(*row) for row in self.session.execute(_KIND, self.values())]

    def before(self, entry_id: str, limit: int | None) -> list[PublishedEntry]:
        """Return those without a subject whose ids are less than one, the last first, at most so many."""
        values = self.values(subject="", before=entry_id, most=_NO_LIMIT if limit is None else limit)
        return [PublishedEntry(*row) for row in self.session.execute(_NEWEST, values)]

    def between(self, first: str, before: str) -> list[PublishedEntry]:
        """Return those without a subject whose ids are in [first, before), in order."""
        values = self.values(subject="", first=first, before=before)
        return [PublishedEntry(*row) for row in self.session.execute(_BETWEEN, values)]

    def among(self, ids: Iterable[str], subject: str = "") -> dict[uuid.UUID, PublishedEntry]:
        """Return the visible entries with these ids, by their attempts."""
        distinct = sorted(set(ids))
        chunks = [distinct[i : i + _IDS_PER_QUERY] for i in range(0, len(distinct), _IDS_PER_QUERY)]
        answers = self.session.execute_all([(_SOME, self.values(subject=subject, ids=chunk)) for chunk in chunks])
        matches = [PublishedEntry(*row) for rows in answers for row in rows]
        return {entry.attempt: entry for entry in matches if not entry.is_withdrawn}

    def subjects(self) -> list[str]:
        """Return the subjects that have an entry, sorted."""
        return sorted({entry.subject for entry in self.of_kind() if not entry.is_withdrawn})

    def clock(self) -> int:
        """Return the time of the last publication. Raises SnapshotIndexError for an index that was emptied."""
        matches = self.session.execute(CLOCK, self.values())
        if not matches or matches[0].clock is None:
            raise self.emptied()
        return int(matches[0].clock)

    def publish(
        self,
        entry_id: str,
        attempt: uuid.UUID,
        header: str,
        subject: str = "",
        extra_rows: Callable[[int], Sequence[EntryRow]] = lambda moment: (),  # noqa: ARG005
    ) -> bool:
        """Make an attempt visible, at a later time than all before it; False if another one is, or one was withdrawn.

        extra_rows: returns the rows to write with the entry, for the time that it gets

        Raises SnapshotIndexError if the outcome stays unknown: the entry may be visible, or become so.
        """
        deadline, moment = RetryDeadline(self.session.address.patience_seconds), now()
        values = self.values(subject=subject, id=entry_id, attempt=attempt, header=header)
        while True:
            inserts, others = insert_rows(extra_rows(moment))
            text = f"{_PUBLISH}{inserts}APPLY BATCH"
            outcome = self.session.write_once(text, values | others | {"moment": moment})
            if isinstance(outcome, SnapshotIndexError):
                visible = self.settled(entry_id, subject)
                if visible is None and deadline.passed:
                    raise self._unknown(entry_id, outcome) from outcome
                if visible is None:
                    deadline.pause()
                    continue
                return visible == attempt
            if outcome.applied:
                return True
            visible, clock = getattr(outcome, "attempt", None), getattr(outcome, "clock", None)
            if visible is not None:
                return bool(visible == attempt)  # ours: an earlier write whose outcome was unknown
            if clock is None:
                raise self.emptied()
            moment = max(now(), clock + 1)

    def settled(self, entry_id: str, subject: str) -> uuid.UUID | None:
        """Return the visible attempt, read at the serial consistency, which completes writes in progress."""
        matches = self.session.read_serial(_ONE, self.values(subject=subject, id=entry_id))
        return None if matches is None or isinstance(matches, SnapshotIndexError) else matches.attempt

    def emptied(self) -> SnapshotIndexError:
        """Return the error for an index whose clock is missing."""
        uri = self.session.address.uri
        return SnapshotIndexError.because(f"index {uri} was emptied meanwhile", "restore it, or prepare it again")

    def values(self, **values: Any) -> dict[str, Any]:
        """Return a statement's values, with those that each statement needs."""
        name = self.session.address.index if self.index_name is None else self.index_name
        return {"index_name": name, "kind": self.kind, **values}

    def _unknown(self, entry_id: str, error: SnapshotIndexError) -> SnapshotIndexError:
        return SnapshotIndexError.because(
            f"whether {self.kind} '{entry_id}' is published is unknown: {str(error).partition(' → ')[0]}",
            "once the index answers, run the same id again: a published one stays as it is",
        )


def insert_rows(rows: Sequence[EntryRow]) -> tuple[str, dict[str, str]]:
    """Return the statements that write rows within a batch, and their values."""
    text = "".join(f"{_INSERT.replace('#', str(n))}; " for n in range(len(rows)))
    values = [{f"{name}{n}": value for name, value in vars(row).items()} for n, row in enumerate(rows)]
    return text, {name: value for each in values for name, value in each.items()}


def now() -> int:
    """Return this machine's time in microseconds."""
    return to_micros(datetime.now(UTC))

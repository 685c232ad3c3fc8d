"""What is visible: entries that one conditional write each makes, under the index's clock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.cluster_session import CassandraSession, Patience
from snapshotter.records import to_micros

WITHDRAWN = uuid.UUID(int=0)  # the attempt of an entry that was withdrawn: nobody's
_IDS_AT_ONCE = 100
_ALL_OF_THEM = 2**31 - 1
_COLUMNS = "subject, id, published_at, attempt, header"
_WHERE = "WHERE index_name = :index_name AND kind = :kind"
_KIND = f"SELECT {_COLUMNS} FROM {{keyspace}}.published {_WHERE}"  # noqa: S608  # our text
_ALL = f"{_KIND} AND subject = :subject"
_SOME = f"{_ALL} AND id IN :ids"
_ONE = f"{_ALL} AND id = :id"
_NEWEST = f"{_ALL} AND id < :before ORDER BY kind DESC, subject DESC, id DESC LIMIT :most"
_CLOCK = "SELECT clock FROM {keyspace}.published WHERE index_name = :index_name LIMIT 1"
_INSERT = (  # of the row of a number
    "INSERT INTO {keyspace}.published (index_name, kind, subject, id, published_at, attempt, header)"
    " VALUES (:index_name, :kind#, :subject#, :id#, :moment, :attempt, :header#)"
)
# All or nothing, decided in one round of Paxos: so the clock's order is the order of becoming visible.
_TICK = "UPDATE {keyspace}.published SET clock = :moment WHERE index_name = :index_name IF clock < :moment; "
_PUBLISH = f"BEGIN BATCH {_TICK}{_INSERT.replace('#', '')} IF NOT EXISTS; "


@dataclass(frozen=True)
class EntryRow:
    """An entry to write. What it says beside this is when and by which attempt."""

    kind: str
    subject: str
    id: str
    header: str


@dataclass(frozen=True)
class PublishedEntry:
    """Something visible. attempt: who of those that tried to publish it did; what the others wrote is never seen."""

    subject: str
    id: str
    published_at: int
    attempt: uuid.UUID
    header: str

    @property
    def is_withdrawn(self) -> bool:
        """Whether it was withdrawn: then it is visible no more, and its header says why."""
        return self.attempt == WITHDRAWN


@dataclass(frozen=True)
class PublishedEntries:
    """The visible entries of one kind. subject: what they are of, where a kind has several.

    index_name: None: that of the connection
    """

    connection: CassandraSession
    kind: str
    index_name: str | None = None

    def entry(self, entry_id: str, subject: str = "") -> PublishedEntry | None:
        """Give an entry, if it is there; one that was withdrawn, too."""
        found = self.connection.one(_ONE, self.values(subject=subject, id=entry_id))
        return PublishedEntry(*found[0]) if found else None

    def entries(self, subject: str = "") -> list[PublishedEntry]:
        """Give all of a subject, the latest published first."""
        found = [PublishedEntry(*row) for row in self.connection.one(_ALL, self.values(subject=subject))]
        return sorted((entry for entry in found if not entry.is_withdrawn), key=lambda entry: -entry.published_at)

    def of_kind(self) -> list[PublishedEntry]:
        """Give all, in order of subject and id."""
        return [PublishedEntry(*row) for row in self.connection.one(_KIND, self.values())]

    def before(self, entry_id: str, limit: int | None) -> list[PublishedEntry]:
        """Give those without a subject whose ids come before one, the last first, at most so many."""
        values = self.values(subject="", before=entry_id, most=_ALL_OF_THEM if limit is None else limit)
        return [PublishedEntry(*row) for row in self.connection.one(_NEWEST, values)]

    def among(self, ids: Iterable[str], subject: str = "") -> dict[uuid.UUID, PublishedEntry]:
        """Give those of these ids that are there, by their attempts."""
        wanted = sorted(set(ids))
        chunks = [wanted[i : i + _IDS_AT_ONCE] for i in range(0, len(wanted), _IDS_AT_ONCE)]
        answers = self.connection.ask([(_SOME, self.values(subject=subject, ids=chunk)) for chunk in chunks])
        found = [PublishedEntry(*row) for rows in answers for row in rows]
        return {entry.attempt: entry for entry in found if not entry.is_withdrawn}

    def subjects(self) -> list[str]:
        """Name the subjects that have an entry, sorted."""
        return sorted({entry.subject for entry in self.of_kind() if not entry.is_withdrawn})

    def clock(self) -> int:
        """Give the moment of what was published last. Raises SnapshotIndexError for an index that was emptied."""
        found = self.connection.one(_CLOCK, self.values())
        if not found or found[0].clock is None:
            raise self.emptied()
        return int(found[0].clock)

    def publish(
        self,
        entry_id: str,
        attempt: uuid.UUID,
        header: str,
        subject: str = "",
        beside: Callable[[int], Sequence[EntryRow]] = lambda moment: (),  # noqa: ARG005
    ) -> bool:
        """Make an attempt visible, stamped later than all before it; False if another one is, or one was withdrawn.

        beside: gives what is written with it, for the moment that it gets
        Raises SnapshotIndexError when that cannot be found out; then the entry may be there, or come to be.
        """
        patience, moment = Patience(self.connection.address.patience_seconds), now()
        values = self.values(subject=subject, id=entry_id, attempt=attempt, header=header)
        while True:
            inserts, others = insert_rows(beside(moment))
            text = f"{_PUBLISH}{inserts}APPLY BATCH"
            done = self.connection.decide(text, values | others | {"moment": moment})
            if isinstance(done, SnapshotIndexError):
                visible = self.settled(entry_id, subject)
                if visible is None and not patience.left:
                    raise self._unknown(entry_id, done) from done
                if visible is None:
                    patience.pause()
                    continue
                return visible == attempt
            if done.applied:
                return True
            visible, clock = getattr(done, "attempt", None), getattr(done, "clock", None)
            if visible is not None:
                return bool(visible == attempt)  # ours: an earlier try that seemed to fail
            if clock is None:
                raise self.emptied()
            moment = max(now(), clock + 1)

    def settled(self, entry_id: str, subject: str) -> uuid.UUID | None:
        """Read which attempt is visible after all, at the serial consistency: that ends what is half decided."""
        found = self.connection.decided(_ONE, self.values(subject=subject, id=entry_id))
        return None if found is None or isinstance(found, SnapshotIndexError) else found.attempt

    def emptied(self) -> SnapshotIndexError:
        """Build the error for an index whose clock is gone."""
        uri = self.connection.address.uri
        return SnapshotIndexError.because(f"index {uri} was emptied meanwhile", "restore it, or prepare it anew")

    def values(self, **values: Any) -> dict[str, Any]:
        """Give a statement's values, with those that each needs."""
        name = self.connection.address.index if self.index_name is None else self.index_name
        return {"index_name": name, "kind": self.kind, **values}

    def _unknown(self, entry_id: str, error: SnapshotIndexError) -> SnapshotIndexError:
        return SnapshotIndexError.because(
            f"whether {self.kind} '{entry_id}' is published is not known: {str(error).partition(' → ')[0]}",
            "once the index answers, run the same id again: what is published stays as it is",
        )


def insert_rows(rows: Sequence[EntryRow]) -> tuple[str, dict[str, str]]:
    """Give what writes rows within a batch, and its values beside those of the batch."""
    text = "".join(f"{_INSERT.replace('#', str(n))}; " for n in range(len(rows)))
    values = [{f"{name}{n}": value for name, value in vars(row).items()} for n, row in enumerate(rows)]
    return text, {name: value for each in values for name, value in each.items()}


def now() -> int:
    """Give the time by this machine's clock, in microseconds."""
    return to_micros(datetime.now(UTC))

"""What is visible: entries that one conditional write each makes, under the index's clock."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.connection import Connection, Patience
from snapshotter.records import to_micros

_IDS_AT_ONCE = 100
_COLUMNS = "subject, id, published_at, attempt, header"
_WHERE = "WHERE index_name = :index_name AND kind = :kind"
_ALL = f"SELECT {_COLUMNS} FROM {{keyspace}}.published {_WHERE} AND subject = :subject"  # noqa: S608  # our text
_SOME = f"{_ALL} AND id IN :ids"
_ONE = f"{_ALL} AND id = :id"
_SUBJECTS = f"SELECT subject FROM {{keyspace}}.published {_WHERE} GROUP BY index_name, kind, subject"  # noqa: S608
# Both or neither, decided in one round of Paxos: so the clock's order is the order of becoming visible.
_PUBLISH = """
BEGIN BATCH
UPDATE {keyspace}.published SET clock = :moment WHERE index_name = :index_name IF clock < :moment;
INSERT INTO {keyspace}.published (index_name, kind, subject, id, published_at, attempt, header)
VALUES (:index_name, :kind, :subject, :id, :moment, :attempt, :header) IF NOT EXISTS;
APPLY BATCH
"""


@dataclass(frozen=True)
class Entry:
    """Something visible. attempt: who of those that tried to publish it did; what the others wrote is never seen."""

    subject: str
    id: str
    published_at: int
    attempt: uuid.UUID
    header: str


@dataclass(frozen=True)
class Published:
    """The visible entries of one kind. subject: what they are of, where a kind has several."""

    connection: Connection
    kind: str

    def entry(self, entry_id: str, subject: str = "") -> Entry | None:
        """Give an entry, if it is there."""
        found = self.connection.one(_ONE, self._values(subject=subject, id=entry_id))
        return Entry(*found[0]) if found else None

    def entries(self, subject: str = "") -> list[Entry]:
        """Give all of a subject, the latest published first."""
        found = [Entry(*row) for row in self.connection.one(_ALL, self._values(subject=subject))]
        return sorted(found, key=lambda entry: -entry.published_at)

    def among(self, ids: Iterable[str]) -> dict[uuid.UUID, Entry]:
        """Give those of these ids that are there, by their attempts."""
        wanted = sorted(set(ids))
        chunks = [wanted[i : i + _IDS_AT_ONCE] for i in range(0, len(wanted), _IDS_AT_ONCE)]
        answers = self.connection.ask([(_SOME, self._values(subject="", ids=chunk)) for chunk in chunks])
        return {row.attempt: Entry(*row) for rows in answers for row in rows}

    def subjects(self) -> list[str]:
        """Name the subjects that have an entry, sorted."""
        return sorted(row.subject for row in self.connection.one(_SUBJECTS, self._values()))

    def publish(self, entry_id: str, attempt: uuid.UUID, header: str, subject: str = "") -> bool:
        """Make an attempt visible, stamped later than all before it; False if another one is.

        Raises SnapshotIndexError when that cannot be found out; then the entry may be there, or come to be.
        """
        patience, moment = Patience(self.connection.address.patience_seconds), _now()
        values = self._values(subject=subject, id=entry_id, attempt=attempt, header=header)
        while True:
            done = self.connection.decide(_PUBLISH, values | {"moment": moment})
            if isinstance(done, SnapshotIndexError):
                visible = self._settled(entry_id, subject)
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
                uri = self.connection.address.uri
                raise SnapshotIndexError.because(f"index {uri} was emptied meanwhile", "restore it, or prepare it anew")
            moment = max(_now(), clock + 1)

    def _settled(self, entry_id: str, subject: str) -> uuid.UUID | None:
        """Read which attempt is visible after all, at the serial consistency: that ends what is half decided."""
        found = self.connection.decided(_ONE, self._values(subject=subject, id=entry_id))
        return None if found is None or isinstance(found, SnapshotIndexError) else found.attempt

    def _unknown(self, entry_id: str, error: SnapshotIndexError) -> SnapshotIndexError:
        return SnapshotIndexError.because(
            f"whether {self.kind} '{entry_id}' is published is not known: {str(error).partition(' → ')[0]}",
            "once the index answers, run the same id again: what is published stays as it is",
        )

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"index_name": self.connection.address.index, "kind": self.kind, **values}


def _now() -> int:
    return to_micros(datetime.now(UTC))

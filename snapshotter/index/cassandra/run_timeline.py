"""What is written with each run, in the same conditional write: its place in time, and which services it has.

So the newest runs, and the services that there are, are found without reading the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from schemas.services import Service
from snapshotter.index.cassandra.cluster_session import CassandraSession
from snapshotter.index.cassandra.published_entries import EntryRow, PublishedEntries, PublishedEntry
from snapshotter.records import ServiceSnapshot, SnapshotRun, record_text

RUN_TIMES, DECLARATIONS = "run by time", "declaration"
_PAGE = 100
_LAST = "~"  # after all digits


@dataclass(frozen=True)
class RunHeader:
    """What an entry says of its run.

    run: without its services; services: how many there are
    declarations: ids of how each was declared, in their order; None in what earlier releases wrote
    """

    run: SnapshotRun
    services: int
    declarations: tuple[str, ...] | None = None

    @classmethod
    def of(cls, run: SnapshotRun) -> RunHeader:
        """Give a run's."""
        ids = tuple(declaration_id(snapshot.service) for snapshot in run.services)
        return cls(replace(run, services=()), len(run.services), ids)

    def text(self) -> str:
        """Write it as JSON."""
        run = json.loads(record_text(self.run))
        return json.dumps({"run": run, "services": self.services, "declarations": self.declarations})

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RunHeader:
        """Read what `text` wrote."""
        ids = fields.get("declarations")
        run = SnapshotRun.from_json(fields["run"])
        return cls(run, int(fields["services"]), None if ids is None else tuple(ids))


class RunTimeline:
    """Runs in order of publication, and the declarations of their services."""

    def __init__(self, connection: CassandraSession, index_name: str | None = None) -> None:
        self.times = PublishedEntries(connection, RUN_TIMES, index_name)
        self.declarations = PublishedEntries(connection, DECLARATIONS, index_name)

    def page(self, before: int | None, limit: int | None) -> list[tuple[str, PublishedEntry]]:
        """Give the ids and entries of runs published before a moment, the latest first, at most so many."""
        found = self.times.before(_LAST if before is None else _moment_text(before), limit)
        return [(entry.id.partition(" ")[2], entry) for entry in found]

    def services(self) -> list[Service]:
        """Give the declarations, the latest published first."""
        found = [(entry.published_at, *json.loads(entry.header)) for entry in self.declarations.of_kind()]
        found.sort(key=lambda one: one[:2], reverse=True)
        return [Service.from_json(fields) for _, _, fields in found]

    def declared_only_by(
        self, run_id: str, published_at: int
    ) -> Iterator[tuple[PublishedEntry, tuple[int, str] | None]]:
        """Give the declarations that a run published last, each with when one before it did, if any, and its header."""
        for entry in self.declarations.of_kind():
            if entry.published_at == published_at:
                yield entry, self._before(run_id, published_at, entry)

    def _before(self, run_id: str, published_at: int, declared: PublishedEntry) -> tuple[int, str] | None:
        moment: int | None = published_at
        while page := self.page(moment, _PAGE):
            for other, entry in page:
                ids = json.loads(entry.header).get("declarations") or ()
                if declared.id in ids and other != run_id:
                    position = len(ids) - 1 - list(ids)[::-1].index(declared.id)
                    return entry.published_at, json.dumps([position, json.loads(declared.header)[1]])
            moment = page[-1][1].published_at
        return None


def rows_beside(run_id: str, header: str, snapshots: Sequence[ServiceSnapshot], moment: int) -> list[EntryRow]:
    """Give what is written with a run."""
    times = EntryRow(RUN_TIMES, "", f"{_moment_text(moment)} {run_id}", header)
    declared = {declaration_id(one.service): (position, one.service) for position, one in enumerate(snapshots)}
    return [times, *(declaration_row(service, position) for position, service in declared.values())]


def declaration_row(service: Service, position: int) -> EntryRow:
    """Give the row that says that a service, declared so, has a published snapshot."""
    return EntryRow(DECLARATIONS, service.name, declaration_id(service), json.dumps([position, service.to_json()]))


def declaration_id(service: Service) -> str:
    """Give the same id for the same declaration, and for no other."""
    return hashlib.sha256(json.dumps(service.to_json(), sort_keys=True).encode()).hexdigest()[:32]


def time_id(run_id: str, published_at: int) -> str:
    """Give the id of the row that says when a run was published."""
    return f"{_moment_text(published_at)} {run_id}"


def _moment_text(moment: int) -> str:
    """Write a moment so that texts are in the order of moments."""
    return f"{moment:020d}"

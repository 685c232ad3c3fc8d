"""Rows that the conditional write of a run adds: its place in the order of runs, and its services' declarations.

By them the newest runs, and the declared services, are read without reading the other runs.
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
    """The header of a run's entry.

    run: without its services; services: how many it has
    declarations: the ids of their declarations, in order; None in entries of earlier releases
    """

    run: SnapshotRun
    services: int
    declarations: tuple[str, ...] | None = None

    @classmethod
    def of(cls, run: SnapshotRun) -> RunHeader:
        """Return the header of a run."""
        ids = tuple(declaration_id(snapshot.service) for snapshot in run.services)
        return cls(replace(run, services=()), len(run.services), ids)

    def text(self) -> str:
        """Return it as JSON."""
        run = json.loads(record_text(self.run))
        return json.dumps({"run": run, "services": self.services, "declarations": self.declarations})

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RunHeader:
        """Read what `text` returned."""
        ids = fields.get("declarations")
        run = SnapshotRun.from_json(fields["run"])
        return cls(run, int(fields["services"]), None if ids is None else tuple(ids))


class RunTimeline:
    """Runs in order of publication, and the declarations of their services."""

    def __init__(self, session: CassandraSession, index_name: str | None = None) -> None:
        self.times = PublishedEntries(session, RUN_TIMES, index_name)
        self.declarations = PublishedEntries(session, DECLARATIONS, index_name)

    def page(self, before: int | None, limit: int | None) -> list[tuple[str, PublishedEntry]]:
        """Return the ids and entries of runs published before a time, the latest first, at most so many."""
        matches = self.times.before(_LAST if before is None else _moment_text(before), limit)
        return [(entry.id.partition(" ")[2], entry) for entry in matches]

    def services(self) -> list[Service]:
        """Return the declarations, the latest published first."""
        rows = [(entry.published_at, *json.loads(entry.header)) for entry in self.declarations.of_kind()]
        rows.sort(key=lambda row: row[:2], reverse=True)
        return [Service.from_json(fields) for _, _, fields in rows]

    def declared_only_by(
        self, run_id: str, published_at: int
    ) -> Iterator[tuple[PublishedEntry, tuple[int, str] | None]]:
        """Yield the declarations that a run published last, with the time and header of the run before, if any."""
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


def rows_of_run(run_id: str, header: str, snapshots: Sequence[ServiceSnapshot], moment: int) -> list[EntryRow]:
    """Return the rows that are written with a run."""
    times = EntryRow(RUN_TIMES, "", f"{_moment_text(moment)} {run_id}", header)
    declared = {declaration_id(one.service): (position, one.service) for position, one in enumerate(snapshots)}
    return [times, *(declaration_row(service, position) for position, service in declared.values())]


def declaration_row(service: Service, position: int) -> EntryRow:
    """Return the row that records that a service with this declaration has a published snapshot."""
    return EntryRow(DECLARATIONS, service.name, declaration_id(service), json.dumps([position, service.to_json()]))


def declaration_id(service: Service) -> str:
    """Return a digest that identifies a declaration."""
    return hashlib.sha256(json.dumps(service.to_json(), sort_keys=True).encode()).hexdigest()[:32]


def time_id(run_id: str, published_at: int) -> str:
    """Return the id of the row that orders a run by its time of publication."""
    return f"{_moment_text(published_at)} {run_id}"


def _moment_text(moment: int) -> str:
    """Return a time as text that sorts in the order of times."""
    return f"{moment:020d}"

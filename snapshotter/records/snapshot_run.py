"""Snapshot runs: the answers of several services, captured together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Self

from schemas.plain_text import plain_text
from schemas.services import Service, Status
from schemas.times import from_micros
from snapshotter.records.data_file import DataFile
from snapshotter.records.record_text import JsonRecord


@lru_cache(maxsize=1024)
def _service(text: str) -> Service:
    """Read a declaration once: many snapshots have the same, and parsing its types takes as long as all the rest."""
    return Service.from_json(json.loads(text))


@dataclass(frozen=True)
class ServiceSnapshot(JsonRecord):
    """One service's answers for one context set, captured in one run.

    bucket_variable: the variable of the service's key that its files are bucketed by; None: one bucket
    counts: status → how many of the requested distinct keys
    captured_from, captured_to: the first and last capture among the successes, None without any
    reasons: for each status except ok, an example of the reason
    profile: measure → number, see `snapshotter.capture.value_profile`; empty: not measured
    defaulted: path of a field → answers that lacked it and have its default, without those of attempts before the last
    """

    run_id: str
    service: Service
    bucket_variable: str | None
    buckets: int
    counts: Mapping[Status, int]
    captured_from: datetime | None
    captured_to: datetime | None
    files: tuple[DataFile, ...]
    reasons: Mapping[Status, str]
    profile: Mapping[str, float] = field(default_factory=dict)
    defaulted: Mapping[str, int] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """The number of distinct keys requested from the service."""
        return sum(self.counts.values())

    @property
    def confidence(self) -> float:
        """Answers, without fallbacks, as a share of the keys requested; 0 if none were."""
        return self.counts.get(Status.OK, 0) / self.asked if self.asked else 0.0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        first, last = fields["captured_from"], fields["captured_to"]
        return cls(
            **{
                **fields,
                "service": _service(json.dumps(fields["service"])),
                "counts": {Status(status): n for status, n in fields["counts"].items()},
                "captured_from": None if first is None else from_micros(first),
                "captured_to": None if last is None else from_micros(last),
                "files": tuple(DataFile.from_json(file) for file in fields["files"]),
                "reasons": {Status(status): reason for status, reason in fields["reasons"].items()},
            }
        )


@dataclass(frozen=True, repr=False)
class SnapshotRun(JsonRecord):
    """One run of the snapshot job: the services' snapshots that become visible together.

    not_applicable: service → the experiments whose contexts lack a variable of its key, so that it was not asked for
        them; none: no experiment needs it
    published_at: set by the index; of captures at the same time that of the later published run is used
    """

    run_id: str
    context_set_id: str
    started_at: datetime
    services: tuple[ServiceSnapshot, ...]
    published_at: datetime | None = None
    not_applicable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line for people."""
        answered = sum(service.counts.get(Status.OK, 0) for service in self.services)
        asked = sum(service.asked for service in self.services)
        services = f"{len(self.services)} service{'' if len(self.services) == 1 else 's'}"
        return plain_text(f"snapshot run {self.run_id}: {services}, {answered:,} of {asked:,} contexts really answered")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        published = fields["published_at"]
        return cls(
            fields["run_id"],
            fields["context_set_id"],
            from_micros(fields["started_at"]),
            tuple(ServiceSnapshot.from_json(service) for service in fields["services"]),
            None if published is None else from_micros(published),
            {service: tuple(names) for service, names in fields.get("not_applicable", {}).items()},
        )

"""What the index keeps: context sets, snapshot runs and versions of global elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from schemas.data_keys import DataKey
from schemas.display import MOST_ROWS, Displayed, Facts, Headline, Note, Part, Table
from schemas.drawing import Share, bytes_text
from schemas.errors import NaiveTimeError
from schemas.services import Service, Status

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Turn an instant into microseconds since the epoch, exactly.

    >>> to_micros(datetime(2026, 1, 1, tzinfo=UTC))
    1767225600000000
    """
    if moment.tzinfo is None:
        raise NaiveTimeError.because(f"time {moment.isoformat()} has no zone", "give it one: datetime(…, tzinfo=UTC)")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """Turn microseconds since the epoch into an instant in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


@dataclass(frozen=True)
class DataFile:
    """A Parquet file at rest.

    path: relative to the storage's root
    bucket: the bucket its rows belong to, 0 where nothing is bucketed
    checksum: xxh3-128 of the file's bytes, in hex
    """

    path: str
    rows: int
    bytes: int
    checksum: str
    bucket: int = 0

    def to_json(self) -> dict[str, Any]:
        """Write the file as plain fields."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**fields)


@dataclass(frozen=True)
class ServiceSnapshot:
    """One service's answers for one context set, captured in one run.

    bucket_variable: the variable of the service's key that its files are bucketed by; None: one bucket
    counts: how many of the distinct keys asked came to each status; the sum is what was asked
    captured_from, captured_to: the first and last capture among the successes, None without any
    reasons: for each status but ok, an example of why
    profile: what the values look like in sum: measure → number, see `snapshotter.profile`; empty: not measured
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

    @property
    def asked(self) -> int:
        """How many distinct keys the service was asked for."""
        return sum(self.counts.values())

    @property
    def confidence(self) -> float:
        """Real successes / asked; 0 when nothing was asked."""
        return self.counts.get(Status.OK, 0) / self.asked if self.asked else 0.0

    def shown(self) -> dict[str, Any]:
        """Give what people want to know of it, as a table's row."""
        others = {status: count for status, count in self.counts.items() if count and status is not Status.OK}
        return {
            "service": self.service.name,
            "element": self.service.element.name,
            "asked": self.asked,
            "answered": self.counts.get(Status.OK, 0),
            "confidence": Share(self.confidence if self.asked else None),
            "others": ", ".join(f"{count:,} {status.value}" for status, count in others.items()) or None,
            "captured_from": self.captured_from,
            "to": self.captured_to,
            "files": len(self.files),
            "size": bytes_text(sum(file.bytes for file in self.files)),
        }

    def to_json(self) -> dict[str, Any]:
        """Write the snapshot as plain fields."""
        return {
            **vars(self),
            "service": self.service.to_json(),
            "counts": {status.value: n for status, n in self.counts.items()},
            "captured_from": None if self.captured_from is None else to_micros(self.captured_from),
            "captured_to": None if self.captured_to is None else to_micros(self.captured_to),
            "files": [file.to_json() for file in self.files],
            "reasons": {status.value: reason for status, reason in self.reasons.items()},
            "profile": dict(self.profile),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        first, last = fields["captured_from"], fields["captured_to"]
        return cls(
            **{
                **fields,
                "service": Service.from_json(fields["service"]),
                "counts": {Status(status): n for status, n in fields["counts"].items()},
                "captured_from": None if first is None else from_micros(first),
                "captured_to": None if last is None else from_micros(last),
                "files": tuple(DataFile.from_json(file) for file in fields["files"]),
                "reasons": {Status(status): reason for status, reason in fields["reasons"].items()},
            }
        )


@dataclass(frozen=True, repr=False)
class SnapshotRun(Displayed):
    """One run of the snapshot job: the services' snapshots that become visible together.

    published_at: set by the index when it publishes; of equal captures the later published wins
    """

    run_id: str
    context_set_id: str
    started_at: datetime
    services: tuple[ServiceSnapshot, ...]
    published_at: datetime | None = None

    def _headline(self) -> Headline:
        answered = sum(service.counts.get(Status.OK, 0) for service in self.services)
        asked = sum(service.asked for service in self.services)
        said = f"{len(self.services)} services, {answered:,} of {asked:,} contexts really answered"
        return Headline("snapshot run", self.run_id, said)

    def _parts(self) -> Iterator[Part]:
        yield Facts(
            {
                "context set": self.context_set_id,
                "started": self.started_at,
                "published": self.published_at or "not yet",
            }
        )
        yield Table([service.shown() for service in self.services])
        why = [
            {
                "service": service.service.name,
                "status": status.value,
                "contexts": service.counts[status],
                "such_as": said,
            }
            for service in self.services
            for status, said in service.reasons.items()
        ]
        yield Table(why, "why contexts have no answer")

    def to_json(self) -> dict[str, Any]:
        """Write the run as plain fields."""
        return {
            "run_id": self.run_id,
            "context_set_id": self.context_set_id,
            "started_at": to_micros(self.started_at),
            "services": [service.to_json() for service in self.services],
            "published_at": None if self.published_at is None else to_micros(self.published_at),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        published = fields["published_at"]
        return cls(
            fields["run_id"],
            fields["context_set_id"],
            from_micros(fields["started_at"]),
            tuple(ServiceSnapshot.from_json(service) for service in fields["services"]),
            None if published is None else from_micros(published),
        )


@dataclass(frozen=True)
class StratumReport:
    """What an experiment asked of one stratum and what it got.

    population: distinct contexts in the stratum
    asked: contexts wanted of it (a fraction is turned into a count, rounded up)
    """

    experiment: str
    stratum: str
    population: int
    asked: int
    taken: int

    @property
    def probability(self) -> float | None:
        """How probably a context of the stratum was taken; None where the stratum has none."""
        return self.taken / self.population if self.population else None

    @property
    def filled(self) -> bool:
        """Whether the stratum had as many contexts as were asked of it."""
        return self.taken >= self.asked


@dataclass(frozen=True, repr=False)
class ContextSet(Displayed):
    """A stratified sample of contexts chosen for a date.

    key: the variables that make a context's key
    files: Parquet with one row for each context: its key, and `experiments`, a
        list<struct<experiment: string, stratum: string, probability: double>>
    """

    context_set_id: str
    date: date
    experiments: tuple[str, ...]
    key: tuple[DataKey, ...]
    files: tuple[DataFile, ...]
    report: tuple[StratumReport, ...]

    @property
    def table(self) -> str:
        """Where its Delta table lies, which names the same files, relative to the storage's root."""
        return self.files[0].path.rpartition("/")[0]

    @property
    def rows(self) -> int:
        """Number of contexts."""
        return sum(file.rows for file in self.files)

    def _headline(self) -> Headline:
        said = f"{self.rows:,} contexts for {', '.join(self.experiments) or 'nobody'}, in {len(self.report)} strata"
        return Headline("context set", self.context_set_id, said)

    def _parts(self) -> Iterator[Part]:
        key = ", ".join(f"{variable.name}: {variable.type}" for variable in self.key)
        yield Facts({"date": self.date, "key": key, "files": len(self.files)})
        rows = [
            {
                "experiment": row.experiment,
                "stratum": row.stratum,
                "population": row.population,
                "asked": row.asked,
                "taken": row.taken,
                "inclusion_probability": Share(row.probability),
                "filled": row.filled,
            }
            for row in self.report[:MOST_ROWS]
        ]
        yield Table(rows, "strata", of=len(self.report))
        short = sum(not row.filled for row in self.report)
        if short:
            yield Note(f"{short:,} of {len(self.report):,} strata have fewer contexts than were asked of them")

    def to_json(self) -> dict[str, Any]:
        """Write the context set as plain fields."""
        return {
            "context_set_id": self.context_set_id,
            "date": self.date.isoformat(),
            "experiments": list(self.experiments),
            "key": [key.to_json() for key in self.key],
            "files": [file.to_json() for file in self.files],
            "report": [dict(vars(row)) for row in self.report],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            fields["context_set_id"],
            date.fromisoformat(fields["date"]),
            tuple(fields["experiments"]),
            tuple(DataKey.from_json(key) for key in fields["key"]),
            tuple(DataFile.from_json(file) for file in fields["files"]),
            tuple(StratumReport(**row) for row in fields["report"]),
        )


@dataclass(frozen=True)
class GlobalVersion:
    """One version of a global element: the whole table as it was from a moment on.

    element: its type is one row's struct
    files: Parquet with a column for each field of that struct, sorted by the first
    """

    element: DataKey
    version_id: str
    valid_from: datetime
    files: tuple[DataFile, ...]
    published_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Write the version as plain fields."""
        return {
            "element": self.element.to_json(),
            "version_id": self.version_id,
            "valid_from": to_micros(self.valid_from),
            "files": [file.to_json() for file in self.files],
            "published_at": None if self.published_at is None else to_micros(self.published_at),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        published = fields["published_at"]
        return cls(
            DataKey.from_json(fields["element"]),
            fields["version_id"],
            from_micros(fields["valid_from"]),
            tuple(DataFile.from_json(file) for file in fields["files"]),
            None if published is None else from_micros(published),
        )

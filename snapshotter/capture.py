"""What a worker does with its share of a snapshot: asks the proxy page by page and writes the successes."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from prana_proxy.client import PranaClient
from schemas.errors import ServiceError
from schemas.services import Service, Status
from schemas.tables import snapshot_schema
from snapshotter.records import DataFile, from_micros, to_micros
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet_if_any

BUCKET = "_bucket"  # no data key's name starts with _


@dataclass(frozen=True)
class Capture:
    """How a worker asks a service and where it writes: plain data, shipped to every task.

    folder: relative to the storage's root
    page, budget: contexts for each call of the proxy, and the time for it
    """

    service: Service
    proxies: tuple[str, ...]
    storage_uri: str
    folder: str
    page: int
    budget: timedelta


@dataclass
class Captured:
    """What became of a worker's contexts, or of all workers' together."""

    files: list[DataFile] = field(default_factory=list)
    counts: Counter[Status] = field(default_factory=Counter)
    reasons: dict[Status, str] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None

    def add(self, other: Captured) -> None:
        """Take another worker's results in."""
        self.files += other.files
        self.counts += other.counts
        self.reasons = {**other.reasons, **self.reasons}
        self.first = min((time for time in (self.first, other.first) if time), default=None)
        self.last = max((time for time in (self.last, other.last) if time), default=None)

    def to_json(self) -> dict[str, Any]:
        """Write the results as plain fields."""
        return {
            "files": [file.to_json() for file in self.files],
            "counts": dict(self.counts),
            "reasons": self.reasons,
            "first": None if self.first is None else to_micros(self.first),
            "last": None if self.last is None else to_micros(self.last),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        first, last = fields["first"], fields["last"]
        return cls(
            [DataFile.from_json(file) for file in fields["files"]],
            Counter({Status(status): count for status, count in fields["counts"].items()}),
            {Status(status): reason for status, reason in fields["reasons"].items()},
            None if first is None else from_micros(first),
            None if last is None else from_micros(last),
        )


def capture(task: Capture, batches: Iterable[pa.RecordBatch], asked: Callable[[int], None]) -> Captured:
    """Ask for every context of one bucket and write one file of the successes, as they come.

    batches: `_bucket`, the same in all rows, and the service's key; distinct contexts, sorted
    asked: called with the number of contexts after each page

    A file of another name for each attempt: of attempts that Spark repeats, one is published and the rest are orphans.
    """
    pages = _pages(batches, task.page)
    first = next(pages, None)
    captured = Captured()
    if first is None:
        return captured
    bucket = first.column(BUCKET)[0].as_py()

    def successes(client: PranaClient) -> Iterator[pa.RecordBatch]:
        page: pa.RecordBatch | None = first
        while page is not None:
            contexts = page.select([variable.name for variable in task.service.key])
            answers = client.fetch(task.service, contexts, task.budget)
            _count(captured, task.service, answers)
            asked(page.num_rows)
            found = _successes(task.service, contexts, answers)
            _extend(captured, found.column("captured_at"))
            yield found
            page = next(pages, None)

    path = f"{task.folder}/{bucket:05d}-{uuid.uuid4().hex[:12]}.parquet"
    schema = snapshot_schema(task.service)
    with PranaClient(task.proxies) as client:
        file = write_parquet_if_any(open_storage(task.storage_uri), path, successes(client), schema, bucket)
    captured.files = [] if file is None else [file]
    return captured


def _pages(batches: Iterable[pa.RecordBatch], page: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, page):
            yield batch.slice(start, page)


def _count(captured: Captured, service: Service, answers: pa.RecordBatch) -> None:
    status = answers.column("status")
    for count in pc.value_counts(status).to_pylist():
        try:
            became = Status(count["values"])
        except ValueError as error:
            raise ServiceError.unknown(f"status from service '{service.name}'", str(count["values"]), Status) from error
        captured.counts[became] += count["counts"]
        if became is not Status.OK and became not in captured.reasons:
            row = pc.index(status, became.value).as_py()
            captured.reasons[became] = answers.column("reason")[row].as_py() or "no reason given"


def _extend(captured: Captured, times: pa.Array) -> None:
    if len(times):
        range_ = pc.min_max(times.cast(pa.int64())).as_py()
        captured.add(Captured(first=from_micros(range_["min"]), last=from_micros(range_["max"])))


def _successes(service: Service, contexts: pa.RecordBatch, answers: pa.RecordBatch) -> pa.RecordBatch:
    columns = [*contexts.columns, answers.column("captured_at"), answers.column("value")]
    found = pa.RecordBatch.from_arrays(columns, schema=snapshot_schema(service))
    ok = pc.equal(answers.column("status"), Status.OK.value)
    found = found if pc.all(ok).as_py() else found.filter(ok)
    if found.column("captured_at").null_count:
        raise ServiceError.because(f"the proxy gave a success of service '{service.name}' without captured_at")
    return found

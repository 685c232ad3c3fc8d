"""What a worker does with its share of a snapshot: asks the proxy page by page and keeps the successes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prana_proxy.client import PranaClient
from schemas.errors import ServiceError
from schemas.services import Service, Status
from schemas.tables import snapshot_schema
from snapshotter.pace import Pace
from snapshotter.parts import Parts, Written
from snapshotter.profile import Sums
from snapshotter.records import DataFile, from_micros, to_micros
from snapshotter.storage import open_storage

BUCKET = "_bucket"  # no data key's name starts with _
ASKED_AGAIN = frozenset(Status) - {Status.OK, Status.INVALID}  # an answer of the wrong type would be so again
# Seconds until asking again makes sense: a breaker sleeps for 5, a queue has emptied a little.
_PAUSES = {Status.SHORT_CIRCUITED: 6.0, Status.REJECTED: 1.0, Status.TIMEOUT: 1.0}


@dataclass(frozen=True)
class Proxies:
    """How to reach the proxies: plain data. addresses: "host:port" of each."""

    addresses: tuple[str, ...]

    def client(self) -> PranaClient:
        """Open a client: the one place where it is done."""
        return PranaClient(self.addresses)


@dataclass(frozen=True)
class Capture:
    """How a worker asks a service and where it writes: plain data, shipped to every task.

    folder: relative to the storage's root
    page, budget: the most contexts for each call of the proxy, and the time for it
    keep_seconds: for how long an answer may wait in memory
    second_pass: whether what failed is asked for once more
    """

    service: Service
    proxies: Proxies
    storage_uri: str
    folder: str
    page: int
    budget: timedelta
    keep_seconds: float
    second_pass: bool


@dataclass
class Captured:
    """What became of a worker's contexts, or of all workers' together."""

    files: list[DataFile] = field(default_factory=list)
    counts: Counter[Status] = field(default_factory=Counter)
    reasons: dict[Status, str] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    sums: Sums = field(default_factory=Sums)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Captured) -> None:
        """Take another worker's results in."""
        self.files += other.files
        self.counts += other.counts
        self.reasons = {**other.reasons, **self.reasons}
        self.first = min((time for time in (self.first, other.first) if time), default=None)
        self.last = max((time for time in (self.last, other.last) if time), default=None)
        self.sums.add(other.sums)
        self.notes += other.notes

    def to_json(self) -> dict[str, Any]:
        """Write the results as plain fields."""
        return {
            "files": [file.to_json() for file in self.files],
            "counts": dict(self.counts),
            "reasons": self.reasons,
            "first": None if self.first is None else to_micros(self.first),
            "last": None if self.last is None else to_micros(self.last),
            "sums": self.sums.to_json(),
            "notes": self.notes,
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
            Sums.from_json(fields["sums"]),
            fields["notes"],
        )


def capture(task: Capture, batches: Iterable[pa.RecordBatch], tell: Callable[[int, int], None]) -> Captured:
    """Ask for every context of one bucket that no earlier attempt has captured, and write one file of all successes.

    batches: `_bucket`, the same in all rows, and the service's key; distinct contexts, sorted
    tell: called with the contexts done and all of them, when these are counted and after each page

    Whatever ends it early, what was captured till then is kept for the next attempt.
    """
    filled = [batch for batch in batches if batch.num_rows]
    if not filled:
        tell(0, 0)
        return Captured()
    bucket = filled[0].column(BUCKET)[0].as_py()
    keys = pa.Table.from_batches(filled).select([variable.name for variable in task.service.key]).combine_chunks()
    parts = Parts(open_storage(task.storage_uri), task.folder, task.service, bucket, keys, task.keep_seconds)
    missing = parts.recover()
    with task.proxies.client() as client:
        asking = _Asking(task, client, parts, tell, len(missing))
        try:
            asking.ask(missing, final=not task.second_pass)
            if task.second_pass:
                asking.ask_again()
        except BaseException:  # an interrupt too must not lose what was captured
            parts.keep()
            raise
    return _captured(asking, parts.finish(), parts.notes)


class _Asking:
    """What has become of each context of a bucket so far: those that nobody asks for have been captured before.

    missing: how many contexts have no final status yet
    """

    def __init__(
        self, task: Capture, client: PranaClient, parts: Parts, tell: Callable[[int, int], None], missing: int
    ) -> None:
        self._task, self._client, self._parts, self._tell, self._missing = task, client, parts, tell, missing
        self._pace = Pace(task.page, task.budget)
        self.status = np.full(parts.keys.num_rows, Status.OK, dtype=object)
        self.reasons: dict[Status, str] = {}

    def ask(self, positions: NDArray[np.int64], *, final: bool) -> None:
        """Ask for the contexts at these positions, page by page. final: what fails has failed."""
        at = 0
        while True:
            self._tell(len(self.status) - self._missing, len(self.status))
            if at == len(positions):
                return
            page = positions[at : at + self._pace.size]
            contexts = self._parts.keys.take(page)
            started = time.monotonic()
            answers = self._client.fetch(self._task.service, contexts, self._task.budget)
            seconds = time.monotonic() - started
            became = self._note(page, answers)
            self._pace.took(seconds, len(page), became[Status.REJECTED])
            ok, rows = _successes(self._task.service, contexts, answers)
            self._parts.add(page[ok], rows)
            self._missing -= sum(count for status, count in became.items() if final or status not in ASKED_AGAIN)
            at += len(page)

    def ask_again(self) -> None:
        """Ask once more for what failed, but not for all of it when the service gives nothing at all."""
        failed = np.flatnonzero([status in ASKED_AGAIN for status in self.status])
        if not len(failed):
            return
        time.sleep(max(_PAUSES.get(status, 0.0) for status in set(self.status[failed])))
        self.ask(failed[:1], final=True)  # alone: a breaker that has slept lets one call through, then all or none
        down = ASKED_AGAIN - {Status.SHORT_CIRCUITED}  # which says only that another task's call is the one
        if len(failed) < len(self.status) or self.status[failed[0]] not in down:
            self.ask(failed[1:], final=True)

    def _note(self, page: NDArray[np.int64], answers: pa.RecordBatch) -> Counter[Status]:
        texts = answers.column("status")
        became: Counter[Status] = Counter()
        for text in texts.unique().to_pylist():
            status = self._status(text)
            here = pc.equal(texts, text).to_numpy(zero_copy_only=False)
            self.status[page[here]] = status
            became[status] = int(here.sum())
            if status is not Status.OK and status not in self.reasons:
                self.reasons[status] = answers.column("reason")[int(here.argmax())].as_py() or "no reason given"
        return became

    def _status(self, text: str) -> Status:
        try:
            return Status(text)
        except ValueError as error:
            name = self._task.service.name
            raise ServiceError.unknown(f"status from service '{name}'", str(text), Status) from error


def _captured(asking: _Asking, written: Written | None, notes: list[str]) -> Captured:
    counts: Counter[Status] = Counter(asking.status)
    reasons = {status: reason for status, reason in asking.reasons.items() if status in counts}
    if written is None:
        return Captured([], counts, reasons, notes=notes)
    times = from_micros(written.first), from_micros(written.last)
    return Captured([written.file], counts, reasons, *times, written.sums, notes)


def _successes(
    service: Service, contexts: pa.Table, answers: pa.RecordBatch
) -> tuple[NDArray[np.bool_], pa.RecordBatch]:
    """Give which contexts have an answer, and the rows of these."""
    [asked] = contexts.combine_chunks().to_batches()
    columns = [*asked.columns, answers.column("captured_at"), answers.column("value")]
    found = pa.RecordBatch.from_arrays(columns, schema=snapshot_schema(service))
    ok = pc.equal(answers.column("status"), Status.OK.value)
    found = found if pc.all(ok).as_py() else found.filter(ok)
    if found.column("captured_at").null_count:
        raise ServiceError.because(f"the proxy gave a success of service '{service.name}' without captured_at")
    return ok.to_numpy(zero_copy_only=False), found

"""What a worker does with its share of a snapshot: asks the proxy page by page and keeps the successes."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prana_proxy.client import PranaClient
from prana_proxy.config.credentials import ProxyCredentials
from schemas.errors import ServiceError
from schemas.services import OnFallback, Service, Status
from schemas.tables import snapshot_schema
from snapshotter.capture.pace import Pace
from snapshotter.capture.parts import Parts, Written
from snapshotter.capture.profile import Sums
from snapshotter.records import DataFile, from_micros, to_micros
from snapshotter.storage import open_storage

ASKED_AGAIN = frozenset(Status) - {Status.OK, Status.INVALID}  # an answer of the wrong type would be so again
# Seconds until asking again makes sense: a breaker sleeps for 5, a queue has emptied a little.
_PAUSES = {Status.SHORT_CIRCUITED: 6.0, Status.REJECTED: 1.0, Status.TIMEOUT: 1.0}


@dataclass(frozen=True)
class Proxies:
    """How to reach the proxies: plain data. addresses: "host:port" of each; access: what they demand to see."""

    addresses: tuple[str, ...]
    access: ProxyCredentials | None = None

    def client(self) -> PranaClient:
        """Open a client: the one place where it is done."""
        return PranaClient(self.addresses, self.access)


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


class Capturing:
    """Asks one service for the contexts of one bucket, and writes one file of all successes.

    Contexts that an earlier attempt has captured are not asked for. The rest is put off by another thread, or by itself
    when the service's breaker is open, since asking on would only be refused. Whatever ends it early, what was captured
    till then is kept for the next attempt.

    keys: of the bucket, distinct, sorted
    tell: called with the contexts done and all of them, when these are counted and after each page
    patience_seconds: for a page with an answer in it; inf: nothing is ever put off
    """

    def __init__(
        self,
        task: Capture,
        bucket: int,
        keys: pa.Table,
        tell: Callable[[int, int], None],
        *,
        patience_seconds: float = math.inf,
    ) -> None:
        self._task, self._tell, self._patience_seconds = task, tell, patience_seconds
        storage = open_storage(task.storage_uri)
        self._parts = Parts(storage, task.folder, task.service, bucket, keys, task.keep_seconds)
        self._pace = Pace(task.page, task.budget)
        self._missing = 0  # how many contexts have no final status yet: what was captured before has one
        self._status = np.empty(keys.num_rows, dtype=object)
        self._status.fill(Status.OK)  # np.full would turn it into a plain string
        self._reasons: dict[Status, str] = {}
        self._fallbacks: list[tuple[NDArray[np.int64], pa.RecordBatch]] = []  # kept at the end, if no answer has come
        self._lock = threading.Lock()  # what is noted and what is put off must not cross
        self._put_off = False
        self._failing = True  # the last page gave nothing, or none has come yet
        self._began: float | None = None

    def run(self) -> Captured | None:
        """Ask for all that nobody has captured yet; None when the rest was put off meanwhile."""
        with closing(self._parts):
            return self._run()

    def _run(self) -> Captured | None:
        missing = self._parts.recover()
        self._missing, self._began = len(missing), time.monotonic()
        with self._task.proxies.client() as client:
            try:
                self._ask(client, missing, final=not self._task.second_pass)
                if self._task.second_pass:
                    self._ask_again(client)
            except _PutOffError:
                return None
            except BaseException:  # an interrupt too must not lose what was captured
                with self._lock:
                    self._parts.keep()
                raise
        with self._lock:
            if self._put_off:
                return None
            self._keep_fallbacks()
            return self._captured(self._parts.finish())

    @property
    def gives_nothing(self) -> bool:
        """Whether the last page had no answer in it, or none has come at all, and patience is over."""
        began = self._began
        return self._failing and began is not None and time.monotonic() - began > self._patience_seconds

    def put_off(self) -> None:
        """Leave the rest for later: what is captured is kept, what comes from now on is not."""
        with self._lock:
            if not self._put_off:
                self._put_off = True
                self._parts.keep()
                self._tell(0, len(self._status))

    def _ask(self, client: PranaClient, positions: NDArray[np.int64], *, final: bool) -> None:
        """Ask for the contexts at these positions, page by page. final: what fails has failed."""
        at = 0
        while True:
            with self._unless_put_off():
                self._tell(len(self._status) - self._missing, len(self._status))
            if at == len(positions):
                return
            page = positions[at : at + self._pace.size]
            contexts = self._parts.keys.take(page)
            started = time.monotonic()
            answers = client.fetch(self._task.service, contexts, self._task.budget)
            seconds = time.monotonic() - started
            with self._unless_put_off():
                became = self._note(page, answers)
                ok, rows = _with_status(Status.OK, self._task.service, contexts, answers)
                self._parts.add(page[ok], rows)
                if self._task.service.on_fallback is OnFallback.VALUE and became[Status.FALLBACK]:
                    instead, rows = _with_status(Status.FALLBACK, self._task.service, contexts, answers)
                    self._fallbacks.append((page[instead], rows))
                self._missing -= sum(count for status, count in became.items() if final or status not in ASKED_AGAIN)
                self._failing = not became[Status.OK]
            if self._failing and became[Status.SHORT_CIRCUITED] and self._patience_seconds < math.inf:
                self.put_off()
            self._pace.took(seconds, len(page), became[Status.REJECTED])
            at += len(page)

    @contextmanager
    def _unless_put_off(self) -> Iterator[None]:
        with self._lock:
            if self._put_off:
                raise _PutOffError
            yield

    def _ask_again(self, client: PranaClient) -> None:
        """Ask once more for what failed, but not for all of it when the service gives nothing at all."""
        failed = np.flatnonzero([status in ASKED_AGAIN for status in self._status])
        if not len(failed):
            return
        time.sleep(max(_PAUSES.get(status, 0.0) for status in set(self._status[failed])))
        # One alone: a breaker that has slept lets one call through, then all or none.
        self._ask(client, failed[:1], final=True)
        down = ASKED_AGAIN - {Status.SHORT_CIRCUITED}  # which says only that another task's call is the one
        if len(failed) < len(self._status) or self._status[failed[0]] not in down:
            self._ask(client, failed[1:], final=True)

    def _keep_fallbacks(self) -> None:
        """Keep the last fallback for each context that has no answer in the end."""
        missing = self._status == Status.FALLBACK
        for page, rows in reversed(self._fallbacks):
            here = missing[page]
            self._parts.add(page[here], rows.filter(pa.array(here)))
            missing[page] = False
        self._fallbacks.clear()

    def _note(self, page: NDArray[np.int64], answers: pa.RecordBatch) -> Counter[Status]:
        texts = answers.column("status")
        became: Counter[Status] = Counter()
        for text in texts.unique().to_pylist():
            status = self._status_of(text)
            here = pc.equal(texts, text).to_numpy(zero_copy_only=False)
            self._status[page[here]] = status
            became[status] = int(here.sum())
            if status is not Status.OK and status not in self._reasons:
                self._reasons[status] = answers.column("reason")[int(here.argmax())].as_py() or "no reason given"
        return became

    def _captured(self, written: Written | None) -> Captured:
        counts: Counter[Status] = Counter(self._status)
        reasons = {status: reason for status, reason in self._reasons.items() if status in counts}
        if written is None:
            return Captured([], counts, reasons, notes=self._parts.notes)
        times = from_micros(written.first), from_micros(written.last)
        return Captured([written.file], counts, reasons, *times, written.sums, self._parts.notes)

    def _status_of(self, text: str) -> Status:
        try:
            return Status(text)
        except ValueError as error:
            name = self._task.service.name
            raise ServiceError.unknown(f"status from service '{name}'", str(text), Status) from error


class _PutOffError(Exception):
    """The rest of a bucket is left for later."""


def _with_status(
    status: Status, service: Service, contexts: pa.Table, answers: pa.RecordBatch
) -> tuple[NDArray[np.bool_], pa.RecordBatch]:
    """Give which contexts have an answer of this status, and the rows of these."""
    [asked] = contexts.combine_chunks().to_batches()
    columns = [*asked.columns, answers.column("captured_at"), answers.column("value")]
    if service.on_fallback is OnFallback.VALUE:
        columns.append(pa.repeat(pa.scalar(status is Status.FALLBACK), len(asked)))
    found = pa.RecordBatch.from_arrays(columns, schema=snapshot_schema(service))
    here = pc.equal(answers.column("status"), status.value)
    found = found if pc.all(here).as_py() else found.filter(here)
    if found.column("captured_at").null_count:
        raise ServiceError.because(f"the proxy gave a value of service '{service.name}' without captured_at")
    return here.to_numpy(zero_copy_only=False), found

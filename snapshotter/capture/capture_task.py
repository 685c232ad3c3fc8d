"""What a worker needs to capture one service, and what it reports back: plain data that travels with Spark's tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prana_proxy.client import ProxyCredentials
from prana_proxy.client.client import PranaClient
from schemas.services import Service, Status
from snapshotter.capture.answered_keys import AnsweredKeys
from snapshotter.capture.value_profile import MeasureSums
from snapshotter.records import DataFile


@dataclass(frozen=True)
class ProxyAddresses:
    """How to reach the proxies. addresses: "host:port" of each; access: the credentials that they require."""

    addresses: tuple[str, ...]
    access: ProxyCredentials | None = None

    def client(self) -> PranaClient:
        """Open a client."""
        return PranaClient(self.addresses, self.access)


@dataclass(frozen=True)
class CaptureTask:
    """How to capture one service, and where to write its answers.

    folder: relative to the storage's root
    page, budget: the most contexts for each call of the proxy, and the time for it
    keep_seconds: how long an answer may wait in memory before it is written
    second_pass: whether contexts that failed are requested once more
    buckets: of the service's files
    answered: keys that are not requested, because earlier runs of the day have answers for them
    """

    service: Service
    proxies: ProxyAddresses
    storage_uri: str
    folder: str
    page: int
    budget: timedelta
    keep_seconds: float
    second_pass: bool
    buckets: int = 1
    answered: tuple[AnsweredKeys, ...] = ()


@dataclass
class CaptureResult:
    """What became of the contexts of one task, or of several together.

    counts, reasons: by status
    defaulted: path of a field → answers that lacked it, and so have its default
    first, last: the earliest and latest capture
    notes: files of earlier attempts that could not be used, and why
    """

    files: list[DataFile] = field(default_factory=list)
    counts: Counter[Status] = field(default_factory=Counter)
    reasons: dict[Status, str] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    sums: MeasureSums = field(default_factory=MeasureSums)
    notes: list[str] = field(default_factory=list)
    defaulted: Counter[str] = field(default_factory=Counter)

    def add(self, other: CaptureResult) -> None:
        """Add the result of another task."""
        self.files += other.files
        self.counts += other.counts
        self.reasons = {**other.reasons, **self.reasons}
        self.defaulted += other.defaulted
        self.first = min((time for time in (self.first, other.first) if time), default=None)
        self.last = max((time for time in (self.last, other.last) if time), default=None)
        self.sums.add(other.sums)
        self.notes += other.notes

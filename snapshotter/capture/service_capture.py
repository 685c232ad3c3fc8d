"""Captures one service for the contexts of one bucket: requests them from the proxy page by page, keeps the answers."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prana_proxy.client.client import PranaClient
from schemas.errors import ServiceError
from schemas.services import OnFallback, Service, Status
from schemas.tables import lacking_fields, snapshot_schema
from snapshotter.capture.answer_files import AnswerFile, AnswerFiles
from snapshotter.capture.capture_task import CaptureResult, CaptureTask
from snapshotter.capture.page_size import PageSize
from snapshotter.records import from_micros
from snapshotter.storage import open_storage

RETRYABLE = frozenset(Status) - {Status.OK, Status.INVALID}  # an answer of the wrong type would be so again
# Seconds until another request makes sense: a breaker stays open for 5, a queue has become shorter.
_PAUSES = {Status.SHORT_CIRCUITED: 6.0, Status.REJECTED: 1.0, Status.TIMEOUT: 1.0}


class ServiceCapture:
    """Requests the contexts of one bucket from one service, and writes one file of all successful answers.

    Contexts that an earlier attempt has captured are not requested. The rest is postponed by another thread, or by the
    capture itself when the service's breaker is open, since further requests would only be rejected. However it ends,
    the answers received until then are kept for the next attempt.

    keys: of the bucket, distinct, sorted
    report: called with the contexts done and those in all, at the start and after each page
    patience_seconds: for a page with an answer in it; inf: nothing is ever postponed
    """

    def __init__(
        self,
        task: CaptureTask,
        bucket: int,
        keys: pa.Table,
        report: Callable[[int, int], None],
        *,
        patience_seconds: float = math.inf,
    ) -> None:
        self._task, self._report, self._patience_seconds = task, report, patience_seconds
        storage = open_storage(task.storage_uri)
        self._files = AnswerFiles(storage, task.folder, task.service, bucket, keys, task.keep_seconds)
        self._page_size = PageSize(task.page, task.budget)
        self._missing = 0  # contexts without a final status; those captured earlier have one
        self._status = np.array([Status.OK] * keys.num_rows, dtype=object)  # np.full would store plain strings
        self._reasons: dict[Status, str] = {}
        self._defaulted = Counter[str]()
        self._fallbacks: list[tuple[NDArray[np.int64], pa.RecordBatch]] = []  # kept at the end where no answer came
        self._lock = threading.Lock()  # a page is either taken whole before the rest is postponed, or not at all
        self._postponed = False
        self._failing = True  # the last page had no answer, or none has come yet
        self._began: float | None = None

    def run(self) -> CaptureResult | None:
        """Request all contexts that no attempt has captured; None if the rest was postponed."""
        with closing(self._files):
            return self._run()

    def _run(self) -> CaptureResult | None:
        missing = self._files.recover()
        self._missing, self._began = len(missing), time.monotonic()
        with self._task.proxies.client() as client:
            try:
                self._request(client, missing, final=not self._task.second_pass)
                if self._task.second_pass:
                    self._retry(client)
            except _PostponedError:
                return None
            except BaseException:  # an interrupt too must not lose what was captured
                with self._lock:
                    self._files.flush()
                raise
        with self._lock:
            if self._postponed:
                return None
            self._keep_fallbacks()
            return self._result(self._files.finish())

    @property
    def is_failing(self) -> bool:
        """Whether the last page had no answer in it, or none has come at all, for longer than the patience allows."""
        began = self._began
        return self._failing and began is not None and time.monotonic() - began > self._patience_seconds

    def postpone(self) -> None:
        """Stop: keep what is captured, and ignore answers that arrive later."""
        with self._lock:
            if not self._postponed:
                self._postponed = True
                self._files.flush()
                self._report(0, len(self._status))

    def _request(self, client: PranaClient, positions: NDArray[np.int64], *, final: bool) -> None:
        """Request the contexts at these positions, page by page. final: whether failures are final."""
        at = 0
        while True:
            with self._unless_postponed():
                self._report(len(self._status) - self._missing, len(self._status))
            if at == len(positions):
                return
            page = positions[at : at + self._page_size.size]
            contexts = self._files.keys.take(page)
            started = time.monotonic()
            answers = client.fetch(self._task.service, contexts, self._task.budget)
            seconds = time.monotonic() - started
            with self._unless_postponed():
                counts = self._take(page, contexts, answers)
                self._missing -= sum(count for status, count in counts.items() if final or status not in RETRYABLE)
                self._failing = not counts[Status.OK]
            if self._failing and counts[Status.SHORT_CIRCUITED] and self._patience_seconds < math.inf:
                self.postpone()
            self._page_size.adapt(seconds, len(page), counts[Status.REJECTED])
            at += len(page)

    @contextmanager
    def _unless_postponed(self) -> Iterator[None]:
        with self._lock:
            if self._postponed:
                raise _PostponedError
            yield

    def _retry(self, client: PranaClient) -> None:
        """Request what failed once more, but only one context of it if the service answers nothing at all."""
        failed = np.flatnonzero([status in RETRYABLE for status in self._status])
        if not len(failed):
            return
        time.sleep(max(_PAUSES.get(status, 0.0) for status in set(self._status[failed])))
        # One alone first: a breaker that was open lets one call through, then all or none.
        self._request(client, failed[:1], final=True)
        down = RETRYABLE - {Status.SHORT_CIRCUITED}  # which says only that another task's call is the one let through
        if len(failed) < len(self._status) or self._status[failed[0]] not in down:
            self._request(client, failed[1:], final=True)

    def _take(self, page: NDArray[np.int64], contexts: pa.Table, answers: pa.RecordBatch) -> Counter[Status]:
        """Take the answers to a page, and count them by status."""
        counts = self._note_statuses(page, answers)
        service = self._task.service
        ok, rows = _with_status(Status.OK, service, contexts, answers)
        self._files.add(page[ok], rows)
        if service.on_fallback is OnFallback.VALUE and counts[Status.FALLBACK]:
            instead, rows = _with_status(Status.FALLBACK, service, contexts, answers)
            self._fallbacks.append((page[instead], rows))
        return counts

    def _keep_fallbacks(self) -> None:
        """Keep the last fallback of each context that has no answer in the end."""
        missing = self._status == Status.FALLBACK
        for page, rows in reversed(self._fallbacks):
            here = missing[page]
            self._files.add(page[here], rows.filter(pa.array(here)))
            missing[page] = False
        self._fallbacks.clear()

    def _note_statuses(self, page: NDArray[np.int64], answers: pa.RecordBatch) -> Counter[Status]:
        texts = answers.column("status")
        counts: Counter[Status] = Counter()
        for text in texts.unique().to_pylist():
            status = self._status_of(text)
            here = pc.equal(texts, text).to_numpy(zero_copy_only=False)
            self._status[page[here]] = status
            counts[status] = int(here.sum())
            if status is Status.OK:
                self._note_defaults(answers.column("reason").filter(pc.equal(texts, text)))
            elif status not in self._reasons:
                self._reasons[status] = answers.column("reason")[int(here.argmax())].as_py() or "no reason given"
        return counts

    def _note_defaults(self, reasons: pa.Array) -> None:
        """Count the fields that answers lacked. reasons: of answers, null for most."""
        for each in reasons.drop_null().value_counts().to_pylist():
            self._defaulted.update(dict.fromkeys(lacking_fields(each["values"]), each["counts"]))

    def _result(self, file: AnswerFile | None) -> CaptureResult:
        counts: Counter[Status] = Counter(self._status)
        reasons = {status: reason for status, reason in self._reasons.items() if status in counts}
        if file is None:
            return CaptureResult([], counts, reasons, notes=self._files.notes)
        times = from_micros(file.first), from_micros(file.last)
        return CaptureResult([file.file], counts, reasons, *times, file.sums, self._files.notes, self._defaulted)

    def _status_of(self, text: str) -> Status:
        try:
            return Status(text)
        except ValueError as error:
            name = self._task.service.name
            raise ServiceError.unknown(f"status from service '{name}'", str(text), Status) from error


class _PostponedError(Exception):
    """The rest of the bucket is left for later."""


def _with_status(
    status: Status, service: Service, contexts: pa.Table, answers: pa.RecordBatch
) -> tuple[NDArray[np.bool_], pa.RecordBatch]:
    """Return which contexts have an answer of this status, and the rows of these."""
    [keys] = contexts.combine_chunks().to_batches()
    columns = [*keys.columns, answers.column("captured_at"), answers.column("value")]
    if service.on_fallback is OnFallback.VALUE:
        columns.append(pa.repeat(pa.scalar(status is Status.FALLBACK), len(keys)))
    rows = pa.RecordBatch.from_arrays(columns, schema=snapshot_schema(service))
    here = pc.equal(answers.column("status"), status.value)
    rows = rows if pc.all(here).as_py() else rows.filter(here)
    if rows.column("captured_at").null_count:
        raise ServiceError.because(f"the proxy returned a value of service '{service.name}' without captured_at")
    return here.to_numpy(zero_copy_only=False), rows

"""Writes the exposure log in the background, so that logging never delays a ranking.

A ranking is appended to a bounded queue, and a thread writes the queue's rows as Parquet files. A storage that fails or
hangs costs rows of the log and nothing else: writing is tried again, and rows that find the queue full are counted, in
`/health`, in the process's log and in the next file.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa

from delorean.exposures.exposure import Exposure, exposure_table
from delorean.exposures.table_format import exposures_schema, file_path, with_record
from prana_proxy.events import ThrottledLog, log_event
from prana_proxy.supervised import SupervisedThread
from schemas.closeable import Closeable
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from snapshotter.records import from_micros
from snapshotter.storage import Storage
from snapshotter.storage.parquet import write_parquet

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_STUCK_SECONDS = 60.0
_LOGGED_EVERY_SECONDS = 60.0
_Group = tuple[str | None, date]


@dataclass(frozen=True)
class ExposureLimits:
    """Limits of the exposure log.

    rows, items: maximum of rows, and of shown items, that wait in memory for the writing thread
    file_rows, file_bytes: rows, and bytes in Arrow, after which files are written
    file_seconds: age of the oldest row after which files are written; a process that is killed loses at most these rows
    closing_seconds: how long `close` tries to write what is left
    """

    rows: int = 20_000
    items: int = 1 << 20
    file_rows: int = 50_000
    file_bytes: int = 64 << 20
    file_seconds: float = 300.0
    closing_seconds: float = 10.0


class ExposureLog(Closeable):
    """Appends exposures to the log of a project. Use it as a context manager; it is thread-safe.

    context, items: the variables of contexts and items
    written, dropped: numbers of rows so far

    Many processes write to one storage side by side: no two files ever have the same name.
    """

    def __init__(
        self,
        storage: Storage,
        context: Iterable[DataKey],
        items: Iterable[DataKey],
        limits: ExposureLimits | None = None,
    ) -> None:
        self._storage, self._schema = storage, exposures_schema(context, items)
        self._limits = limits or ExposureLimits()
        self.written = self.dropped = 0
        self._lock = threading.Lock()  # guards the queue and the counts of dropped rows
        self._queue: deque[Exposure] = deque()
        self._queued_items = 0
        self._unreported: Counter[str | None] = Counter()  # dropped rows by test, until a file states them
        self._closed = False
        self._throttled = ThrottledLog(_log, _LOGGED_EVERY_SECONDS)
        self._writing = threading.Lock()  # held during a step; guards what follows
        self._tables: defaultdict[_Group, list[pa.Table]] = defaultdict(list)
        self._oldest: float | None = None  # by the monotonic clock, when the first row of `_tables` was taken
        self._step_began: float | None = None
        self._writer, self._files = uuid.uuid4().hex[:12], 0
        self._thread = SupervisedThread("exposure log", self._work).start()

    def append(self, exposure: Exposure) -> None:
        """Add a row; never waits for the storage. A row is dropped, and counted, where the queue is full."""
        with self._lock:
            full = len(self._queue) >= self._limits.rows or self._queued_items + len(exposure) > self._limits.items
            if not (full or self._closed):
                self._queue.append(exposure)
                self._queued_items += len(exposure)
                return
            self._drop({exposure.test: 1})
        self._throttled.log_event(logging.WARNING, "exposures_dropped", rows=self.dropped)

    @property
    def waiting(self) -> int:
        """The number of rows in memory."""
        return len(self._queue) + sum(len(table) for tables in list(self._tables.values()) for table in tables)

    @property
    def problem(self) -> str | None:
        """What is wrong, for people; None if nothing is. Failed writes are among `prana_proxy.supervised.problems`."""
        began = self._step_began
        running = 0.0 if began is None else time.monotonic() - began
        return None if running <= _STUCK_SECONDS else f"the exposure log waits for its storage for {running:,.0f} s"

    def health(self) -> dict[str, Any]:
        """Return the counts for the health endpoint."""
        return {"written": self.written, "waiting": self.waiting, "dropped": self.dropped}

    def close(self) -> None:
        """Write what is left, for a limited time; what cannot be written is dropped and counted."""
        with self._lock:
            self._closed = True
        until = time.monotonic() + self._limits.closing_seconds
        self._thread.close(self._limits.closing_seconds)
        last = threading.Thread(target=self._write_rest, args=(until,), name="exposure log, last rows", daemon=True)
        last.start()
        last.join(max(until - time.monotonic(), 0) + _TICK_SECONDS)
        if lost := self.waiting:
            with self._lock:
                self._drop({None: lost})
            log_event(_log, logging.WARNING, "exposures_lost", rows=lost)

    def _work(self, thread: SupervisedThread) -> None:
        pause = _TICK_SECONDS
        while not thread.stopping.wait(pause):
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # of a driver or library too: the rows are written later
                pause = min(thread.failed(error), _RETRY_SECONDS)
            else:
                thread.works()
                pause = _TICK_SECONDS

    def _write_rest(self, until: float) -> None:
        """Write everything, trying again until a time by the monotonic clock."""
        while self.waiting:
            try:
                self._step(everything=True)
            except Exception as error:  # noqa: BLE001  # of a driver or library too
                if time.monotonic() + _TICK_SECONDS > until:
                    log_event(_log, logging.WARNING, "exposures_not_written", reason=type(error).__name__)
                    return
                time.sleep(_TICK_SECONDS)

    def _step(self, *, everything: bool = False) -> None:
        """Take rows from the queue, and write files if it is time for them."""
        with self._writing:
            self._step_began = time.monotonic()
            try:
                if not self._is_full():
                    self._take()
                age = 0.0 if self._oldest is None else time.monotonic() - self._oldest
                if everything or self._is_full() or age >= self._limits.file_seconds:
                    for group in list(self._tables):
                        self._write(group)
                    self._oldest = None
            finally:
                self._step_began = None

    def _is_full(self) -> bool:
        """Whether files are due for their size; while they cannot be written, the queue keeps its rows."""
        tables = [table for group in self._tables.values() for table in group]
        return sum(map(len, tables)) >= self._limits.file_rows or (
            sum(table.nbytes for table in tables) >= self._limits.file_bytes
        )

    def _take(self) -> None:
        """Convert queued rows to Arrow, which takes less memory."""
        with self._lock:
            rows = [self._queue.popleft() for _ in range(min(self._limits.file_rows, len(self._queue)))]
            self._queued_items -= sum(map(len, rows))
        groups: defaultdict[_Group, list[Exposure]] = defaultdict(list)
        for row in rows:
            groups[row.test, from_micros(row.time).date()].append(row)
        try:
            for group in list(groups):
                table = exposure_table(groups[group], self._schema)
                self._tables[group].append(table)
                del groups[group]
        except Exception:  # noqa: BLE001  # of any kind: these rows would fail again
            problem = f"some of {len(rows)} exposures do not fit the variables of the log"
            raise DataKeyError.because(problem, "report this: it is a defect") from None  # its message has values
        finally:
            if self._tables and self._oldest is None:
                self._oldest = time.monotonic()
            with self._lock:
                self._drop({test: len(inside) for (test, _), inside in groups.items()})

    def _write(self, group: _Group) -> None:
        test, _ = group
        table = pa.concat_tables(self._tables[group]).sort_by("time")
        self._files += 1  # also for a failed write: it may have created the file
        path = file_path(test, table["time"][0].as_py(), self._writer, self._files, self._schema)
        with self._lock:
            dropped = self._unreported[test]
        write_parquet(self._storage, path, table, with_record(self._schema, dropped))
        with self._lock:
            self._unreported[test] -= dropped
        self.written += len(table)
        del self._tables[group]

    def _drop(self, rows: Mapping[str | None, int]) -> None:
        """Count dropped rows of tests; the caller holds the lock."""
        self.dropped += sum(rows.values())
        self._unreported.update(rows)

"""Asks the services of a run in this process, one bucket after the other, without a JVM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.hashing import bucket_of
from schemas.services import Service
from schemas.tables import contexts_schema
from snapshotter.capture.asking import Asking, Progress
from snapshotter.capture.bucket import BUCKET, Tell, capture_bucket
from snapshotter.capture.capture import Captured
from snapshotter.records import ServiceSnapshot
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet


def ask_in_process(asking: Asking, services: Sequence[Service], progress: Progress | None) -> list[ServiceSnapshot]:
    """Ask services for all contexts of a run, and give the snapshot of each, as `ask_all` does on Spark."""
    run = _Run(asking, services, progress)
    for group in asking.groups(services):
        if late := run.ask(group, patient=False):
            asking.warn_of_late([services[number].name for number in late])
            for number in late:  # the buckets that it has completed are read again from their files
                run.captured[number], run.done[number] = Captured(), 0
            run.ask(late, patient=True)
    snapshots = [asking.snapshot(service, one) for service, one in zip(services, run.captured, strict=True)]
    if progress is not None:
        for snapshot in snapshots:
            progress(snapshot.service.name, snapshot.asked, snapshot.asked)
    return snapshots


class _Run:
    """A run in progress. captured, done: what is captured of each service, and how many of its contexts are done."""

    def __init__(self, asking: Asking, services: Sequence[Service], progress: Progress | None) -> None:
        self.asking, self.services, self.progress = asking, services, progress
        self.captured = [Captured() for _ in services]
        self.done = [0] * len(services)
        self._lock = threading.Lock()  # each service reports from a thread of its own

    def ask(self, group: Sequence[int], *, patient: bool) -> list[int]:
        """Ask some services together, bucket by bucket; give the numbers of those that were put off."""
        tasks = {number: self.asking.task(self.services[number]) for number in group}
        late: set[int] = set()
        for bucket in _buckets(self.asking, [self.services[number] for number in group]):
            answers = capture_bucket(tasks, bucket.to_batches(), self._reporter, patient=patient)
            for number, captured in answers.items():
                if captured is None:
                    late.add(number)
                else:
                    self.captured[number].add(captured)
        return sorted(late)

    def _reporter(self, number: int) -> Tell:
        """Give the function that reports how far a service is in a bucket."""
        before, contexts = self.done[number], self.asking.context_set.rows

        def report(done: int, _: int) -> None:
            self.done[number] = before + done
            if self.progress is not None:
                with self._lock:
                    self.progress(self.services[number].name, before + done, max(before + done, contexts))

        return report


def _buckets(asking: Asking, services: Sequence[Service]) -> Iterator[pa.Table]:
    """Give the contexts of each bucket, with the variables of all these services' keys; rows may be equal."""
    names = {variable.name for service in services for variable in service.key}
    schema = contexts_schema([variable for variable in asking.context_set.key if variable.name in names])
    storage, plan = open_storage(asking.storage_uri), asking.plan
    files = [read_parquet(storage, file, schema.names).cast(schema) for file in asking.context_set.files]
    contexts = pa.concat_tables(files)
    if plan.bucket_variable is None or not plan.buckets_by(services[0]):
        yield _numbered(contexts, 0)
        return
    buckets = pa.array(bucket_of(contexts.column(plan.bucket_variable), plan.buckets))
    for number in range(plan.buckets):
        yield _numbered(contexts.filter(pc.equal(buckets, number)), number)


def _numbered(contexts: pa.Table, bucket: int) -> pa.Table:
    return contexts.append_column(BUCKET, pa.repeat(pa.scalar(bucket, pa.int32()), len(contexts)))

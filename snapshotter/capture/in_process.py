"""Asks the services of a run in this process, one bucket after the other, without a JVM."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

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
    done = [0] * len(services)
    lock = threading.Lock()  # services are asked by threads of their own

    def reporter(number: int) -> Tell:
        before, contexts = done[number], asking.context_set.rows

        def report(here: int, _: int) -> None:
            done[number] = before + here
            if progress is not None:
                with lock:
                    progress(services[number].name, done[number], max(done[number], contexts))

        return report

    captured = [Captured() for _ in services]
    for group in asking.groups(services):
        late: list[int] = []
        for bucket in _buckets(asking, [services[number] for number in group]):
            late += _capture(asking, services, group, bucket, captured, reporter, patient=False)
        if late := sorted(set(late)):
            asking.warn_of_late([services[number].name for number in late])
            for number in late:  # its buckets that are complete are read again from their files
                captured[number], done[number] = Captured(), 0
            for bucket in _buckets(asking, [services[number] for number in late]):
                _capture(asking, services, late, bucket, captured, reporter, patient=True)
    snapshots = [asking.snapshot(service, one) for service, one in zip(services, captured, strict=True)]
    for snapshot in snapshots if progress is not None else ():
        progress(snapshot.service.name, snapshot.asked, snapshot.asked)
    return snapshots


def _capture(
    asking: Asking,
    services: Sequence[Service],
    group: Sequence[int],
    bucket: pa.Table,
    captured: Sequence[Captured],
    reporter: Callable[[int], Tell],
    *,
    patient: bool,
) -> list[int]:
    """Add to `captured` what services of a group answer for one bucket; give the numbers of those that were put off."""
    tasks = {number: asking.task(services[number]) for number in group}
    answers = capture_bucket(tasks, bucket.to_batches(), reporter, patient=patient)
    for number, one in answers.items():
        if one is not None:
            captured[number].add(one)
    return [number for number, one in answers.items() if one is None]


def _buckets(asking: Asking, services: Sequence[Service]) -> Iterator[pa.Table]:
    """Give the contexts of each bucket, with the variables of all these services' keys; rows may be equal."""
    names = {variable.name for service in services for variable in service.key}
    schema = contexts_schema([variable for variable in asking.context_set.key if variable.name in names])
    storage, plan = open_storage(asking.storage_uri), asking.plan
    files = [read_parquet(storage, file, schema.names).cast(schema) for file in asking.context_set.files]
    contexts = pa.concat_tables(files)
    if not plan.buckets_by(services[0]):
        yield _numbered(contexts, 0)
        return
    buckets = pa.array(bucket_of(contexts.column(plan.bucket_variable), plan.buckets))
    for number in range(plan.buckets):
        yield _numbered(contexts.filter(pc.equal(buckets, number)), number)


def _numbered(contexts: pa.Table, bucket: int) -> pa.Table:
    return contexts.append_column(BUCKET, pa.repeat(pa.scalar(bucket, pa.int32()), len(contexts)))

"""Runs the asking of services as Spark jobs, tells how far they are, and gathers what became of each service."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa
from pyspark import TaskContext
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession

from schemas.errors import ServiceError
from schemas.services import Service, Status
from snapshotter.capture.bucket import capture_bucket
from snapshotter.capture.capture import Capture, Captured, Proxies
from snapshotter.capture.plan import RunPlan
from snapshotter.capture.spreading import in_buckets, in_parts
from snapshotter.records import ContextSet, ServiceSnapshot
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.progress import Board, Ear, Tellers, driver_host

Progress = Callable[[str, int, int], None]
_log = logging.getLogger(__name__)
_JOBS_AT_ONCE = 4
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Asking:
    """How one run asks: everything its services have in common.

    page, budget: the most contexts for each call of the proxy, and the time for it
    keep_seconds: for how long an answer may wait in a worker's memory
    second_pass: whether what failed is asked for once more
    """

    plan: RunPlan
    context_set: ContextSet
    proxies: Proxies
    storage_uri: str
    page: int
    budget: timedelta
    keep_seconds: float
    second_pass: bool

    def groups(self, services: Sequence[Service]) -> list[list[int]]:
        """Give the numbers of the services that share a pass over the contexts: all in buckets, and each other one."""
        bucketed = [number for number, service in enumerate(services) if self.plan.buckets_by(service)]
        others = [[number] for number in range(len(services)) if number not in bucketed]
        return [bucketed, *others] if bucketed else others

    def task(self, service: Service) -> Capture:
        """Give what a worker needs to capture a service."""
        return Capture(
            *(service, self.proxies, self.storage_uri, f"snapshots/{service.name}/{self.plan.run_id}"),
            *(self.page, self.budget, self.keep_seconds, self.second_pass),
        )

    def snapshot(self, service: Service, captured: Captured) -> ServiceSnapshot:
        """Give the record of what all workers together captured of a service, and log their notes."""
        for note in captured.notes:
            _log.warning("run '%s', service '%s': %s", self.plan.run_id, service.name, note)
        bucketed = self.plan.buckets_by(service)
        taken = ServiceSnapshot(
            self.plan.run_id,
            service,
            self.plan.bucket_variable if bucketed else None,
            self.plan.buckets if bucketed else 1,
            captured.counts,
            captured.first,
            captured.last,
            tuple(sorted(captured.files, key=lambda file: file.path)),
            captured.reasons,
        )
        rows = float(captured.counts[Status.OK])
        return replace(taken, profile={"rows": rows, "confidence": taken.confidence, **captured.sums.profile()})

    def warn_of_late(self, names: Sequence[str]) -> None:
        """Log which services gave nothing and are asked again at the end."""
        _log.warning("run '%s': nothing comes from %s: asked again at the end", self.plan.run_id, ", ".join(names))


def ask_all(
    spark: SparkSession, asking: Asking, services: Sequence[Service], progress: Progress | None
) -> list[ServiceSnapshot]:
    """Ask services at the same time: those in buckets together, bucket by bucket, each other one by itself."""
    run = _Run(spark, asking, services, [spark.sparkContext.accumulator(0) for _ in services])
    host = None if progress is None else driver_host(spark)
    with Board(host, [asking.plan.buckets] * len(services)) as board, ThreadPoolExecutor(_JOBS_AT_ONCE) as threads:
        futures = [threads.submit(run.ask, numbers, board.ear) for numbers in run.groups]
        try:
            _watch(run, futures, board, progress)
            found = {number: snapshot for future in futures for number, snapshot in future.result().items()}
            return [found[number] for number in range(len(services))]
        except BaseException:  # an interrupt too must not leave jobs behind
            for future in futures:
                future.cancel()
            spark.interruptTag(run.tag)
            raise


class _Run:
    """One run's jobs. Services go by their numbers; counters: of contexts done, one for each service."""

    def __init__(
        self, spark: SparkSession, asking: Asking, services: Sequence[Service], counters: Sequence[Accumulator[int]]
    ) -> None:
        self.spark, self.asking, self.services, self.counters = spark, asking, services, counters
        self.tag = f"snapshot-{asking.plan.run_id}"
        self.groups = asking.groups(services)

    def ask(self, numbers: Sequence[int], ear: Ear | None) -> dict[int, ServiceSnapshot]:
        """Ask some services together; those that were put off are asked again, by themselves and with patience."""
        self.spark.addTag(self.tag)
        captured, late = self._round(numbers, ear, patient=False)
        if late:
            self.asking.warn_of_late([self.services[number].name for number in late])
            captured |= self._round(late, ear, patient=True)[0]
        return {number: self.asking.snapshot(self.services[number], captured[number]) for number in numbers}

    def _round(
        self, numbers: Sequence[int], ear: Ear | None, *, patient: bool
    ) -> tuple[dict[int, Captured], list[int]]:
        """Ask in one job; give what was captured, and the services of which a bucket was put off."""
        tasks = {number: self.asking.task(self.services[number]) for number in numbers}
        counters = {number: self.counters[number] for number in numbers}

        def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            assert context is not None
            with Tellers(ear, context.partitionId(), {n: counter.add for n, counter in counters.items()}) as tellers:
                captured = capture_bucket(tasks, batches, tellers.of, patient=patient)
            for number, one in captured.items():
                yield pa.RecordBatch.from_pylist([{"became": json.dumps([number, one and one.to_json()])}])

        names = ", ".join(self.services[number].name for number in numbers)
        what = f"snapshot '{self.asking.plan.run_id}': ask {names}"
        with described(self.spark, what), spark_errors_as(ServiceError, f"run '{self.asking.plan.run_id}', {names}"):
            rows = self._contexts(numbers).mapInArrow(work, "became STRING").collect()
        captured = {number: Captured() for number in numbers}
        late: list[int] = []
        for row in rows:
            number, fields = json.loads(row["became"])
            if fields is not None:
                captured[number].add(Captured.from_json(fields))
            elif number not in late:
                late.append(number)
        return captured, late

    def _contexts(self, numbers: Sequence[int]) -> DataFrame:
        where = self.spark, self.asking.context_set, self.asking.storage_uri, self.asking.plan
        services = [self.services[number] for number in numbers]
        return (
            in_buckets(*where, services) if self.asking.plan.buckets_by(services[0]) else in_parts(*where, services[0])
        )


def _watch(
    run: _Run, futures: Sequence[Future[dict[int, ServiceSnapshot]]], board: Board, progress: Progress | None
) -> None:
    """Report progress until all is done or something has failed."""
    shown: dict[int, tuple[int, int]] = {}
    most = run.asking.context_set.rows
    while True:
        _, waiting = wait(futures, _POLL_SECONDS, FIRST_EXCEPTION)
        if any(future.done() and future.exception() for future in futures):
            return
        board.listen()
        for future, numbers in zip(futures, run.groups, strict=True):
            for number in numbers if progress is not None else ():
                before, _ = shown.get(number, (0, 0))
                if future.done():
                    done = total = future.result()[number].asked
                else:
                    heard, total = board.heard(number, most)
                    done = min(max(heard, run.counters[number].value, before), most)
                if shown.get(number) != (state := (done, max(done, total))) and progress is not None:
                    shown[number] = state
                    progress(run.services[number].name, *state)
        if not waiting:
            return

"""Captures the services of a run, as Spark jobs or in this process, reporting progress meanwhile.

Bucketed services are captured together, bucket by bucket; each other one by itself.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ServiceError
from schemas.services import Status
from snapshotter.capture.bucket_capture import capture_bucket
from snapshotter.capture.capture_task import CaptureResult, CaptureTask
from snapshotter.capture.context_partitions import local_partitions, spark_partitions
from snapshotter.capture.progress_reports import EndpointAddress, ProgressEndpoint, ProgressReporter, driver_host
from snapshotter.capture.run_plan import RunPlan
from snapshotter.records import ContextSet, ServiceSnapshot
from snapshotter.spark.connect import is_remote, require_workers
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.progress import Progress

if TYPE_CHECKING:
    from pyspark.accumulators import Accumulator
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_CONCURRENT_JOBS = 4
_POLL_SECONDS = 0.2
_Outcome = tuple[int, CaptureResult | None]  # of a service in a bucket: its number, and None if it was postponed
_Results = dict[int, CaptureResult]


@dataclass(frozen=True)
class RunCapture:
    """What one run captures. tasks: one for each service, which is identified by its place among them."""

    plan: RunPlan
    context_set: ContextSet
    tasks: tuple[CaptureTask, ...]

    def over_spark(self, spark: SparkSession, progress: Progress) -> list[ServiceSnapshot]:
        """Capture all services, with a Spark job for each group of them, several at the same time."""
        require_workers(spark)
        # Of contexts done. A client of a Spark Connect server has none: it only learns when a group is captured.
        counters = [] if is_remote(spark) else [spark.sparkContext.accumulator(0) for _ in self.tasks]
        endpoint = ProgressEndpoint(driver_host(spark), len(self.tasks), self.plan.buckets)
        tag = f"snapshot-{self.plan.run_id}"

        def capture(group: Sequence[int]) -> _Results:
            spark.addTag(tag)
            return self._with_retry(group, partial(self._spark_job, spark, endpoint.address, counters))

        with endpoint, ThreadPoolExecutor(_CONCURRENT_JOBS) as threads:
            jobs = {threads.submit(capture, group): group for group in self._groups()}
            try:
                self._report(jobs, endpoint, counters, progress)
                results = {number: result for job in jobs for number, result in job.result().items()}
                return [self._snapshot(number, results[number]) for number in range(len(self.tasks))]
            except BaseException:  # an interrupt too must not leave jobs running
                for job in jobs:
                    job.cancel()
                spark.interruptTag(tag)
                raise

    def in_process(self, progress: Progress) -> list[ServiceSnapshot]:
        """Capture all services here, one bucket after the other, without a JVM."""
        endpoint, lock = ProgressEndpoint(None, len(self.tasks), self.plan.buckets), threading.Lock()

        def report(bucket: int, number: int, done: int, planned: int) -> None:
            with lock:  # services are captured by threads of their own
                endpoint.take(number, bucket, done, planned)
                progress(self.tasks[number].service.name, *endpoint.progress(number, self.context_set.rows))

        def capture(group: Sequence[int], patient: bool) -> Iterator[_Outcome]:
            services = [self.tasks[number].service for number in group]
            tasks = {number: self.tasks[number] for number in group}
            for bucket, contexts in enumerate(
                local_partitions(self.context_set, self._storage_uri, self.plan, services)
            ):
                report_of = partial(partial, report, bucket)
                yield from capture_bucket(tasks, contexts.to_batches(), report_of, patient=patient).items()

        results: _Results = {}
        for group in self._groups():
            results |= self._with_retry(group, capture)
            for number in group:
                count = sum(results[number].counts.values())
                progress(self.tasks[number].service.name, count, count)
        return [self._snapshot(number, results[number]) for number in range(len(self.tasks))]

    @property
    def _storage_uri(self) -> str:
        return self.tasks[0].storage_uri

    def _groups(self) -> list[list[int]]:
        bucketed = [number for number, task in enumerate(self.tasks) if self.plan.buckets_by(task.service)]
        others = [[number] for number in range(len(self.tasks)) if number not in bucketed]
        return [bucketed, *others] if bucketed else others

    def _with_retry(
        self, group: Sequence[int], capture: Callable[[Sequence[int], bool], Iterable[_Outcome]]
    ) -> _Results:
        """Capture a group; then its services that were postponed, waiting for them.

        capture: takes services and whether to wait for those that answer nothing
        """
        results, postponed = _collected(group, capture(group, False))
        if postponed:
            names = ", ".join(self.tasks[number].service.name for number in postponed)
            _log.warning("run '%s': no answers from %s: requested again at the end", self.plan.run_id, names)
            results |= _collected(postponed, capture(postponed, True))[0]  # of all their buckets: files are recovered
        return results

    def _spark_job(
        self,
        spark: SparkSession,
        address: EndpointAddress | None,
        counters: Sequence[Accumulator[int]],
        group: Sequence[int],
        patient: bool,
    ) -> list[_Outcome]:
        """Capture services in one job."""
        tasks = {number: self.tasks[number] for number in group}
        adders = {number: counters[number].add if counters else _ignore for number in group}

        def capture(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            with ProgressReporter(address, context.partitionId(), adders) as reporter:
                outcomes = capture_bucket(tasks, batches, reporter.of, patient=patient)
            yield pa.RecordBatch.from_pydict({"outcome": [pickle.dumps(outcome) for outcome in outcomes.items()]})

        services = [task.service for task in tasks.values()]
        names = ", ".join(service.name for service in services)
        doing = f"run '{self.plan.run_id}', {names}"
        with described(spark, f"snapshot '{self.plan.run_id}': capture {names}"), spark_errors_as(ServiceError, doing):
            contexts = spark_partitions(spark, self.context_set, self._storage_uri, self.plan, services)
            rows = contexts.mapInArrow(capture, "outcome BINARY").collect()
        return [pickle.loads(row["outcome"]) for row in rows]  # noqa: S301  # of our own tasks, as Spark's results are

    def _report(
        self,
        jobs: dict[Future[_Results], list[int]],
        endpoint: ProgressEndpoint,
        counters: Sequence[Accumulator[int]],
        progress: Progress,
    ) -> None:
        """Report progress until all jobs are done or one has failed."""
        reported: dict[int, tuple[int, int]] = {}
        most = self.context_set.rows
        while True:
            _, waiting = wait(jobs, _POLL_SECONDS, FIRST_EXCEPTION)
            if any(job.done() and job.exception() for job in jobs):
                return
            endpoint.receive()
            for job, number in ((job, number) for job, group in jobs.items() for number in group):
                before, _ = reported.get(number, (0, 0))
                if job.done():
                    done = total = sum(job.result()[number].counts.values())
                else:
                    received, total = endpoint.progress(number, most)
                    counted = counters[number].value if counters else 0
                    done = min(max(received, counted, before), most)
                if reported.get(number) != (state := (done, max(done, total))):
                    reported[number] = state
                    progress(self.tasks[number].service.name, *state)
            if not waiting:
                return

    def _snapshot(self, number: int, result: CaptureResult) -> ServiceSnapshot:
        plan, service = self.plan, self.tasks[number].service
        for note in result.notes:
            _log.warning("run '%s', service '%s': %s", plan.run_id, service.name, note)
        bucketed = plan.buckets_by(service)
        snapshot = ServiceSnapshot(
            plan.run_id,
            service,
            plan.bucket_variable if bucketed else None,
            plan.buckets if bucketed else 1,
            result.counts,
            result.first,
            result.last,
            tuple(sorted(result.files, key=lambda file: file.path)),
            result.reasons,
            defaulted=dict(result.defaulted),
        )
        if self.context_set.revision > 1:  # of a few contexts of the day, which say nothing about drift
            return snapshot
        rows = float(result.counts[Status.OK])
        return replace(snapshot, profile={"rows": rows, "confidence": snapshot.confidence, **result.sums.profile()})


def _ignore(_: int) -> None:
    """Count nothing."""


def _collected(group: Sequence[int], outcomes: Iterable[_Outcome]) -> tuple[_Results, list[int]]:
    """Add up the results of each service's buckets, and list the services of which a bucket was postponed."""
    results = {number: CaptureResult() for number in group}
    postponed: dict[int, None] = {}
    for number, result in outcomes:
        if result is None:
            postponed[number] = None
        else:
            results[number].add(result)
    return results, list(postponed)

"""The snapshot job: captures what online services answer for a context set, and publishes it in one write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from prana_proxy.client import ProxyCredentials
from schemas.errors import ConfigError, NotInIndexError
from schemas.services import Service
from snapshotter.capture.answered_keys import answered_keys
from snapshotter.capture.capture_task import CaptureTask, ProxyAddresses
from snapshotter.capture.run_checks import (
    DriftAction,
    Floor,
    check_quality,
    refuse_other_day,
    refuse_other_run,
    services_to_capture,
)
from snapshotter.capture.run_plan import begin_run, make_plan
from snapshotter.capture.service_jobs import RunCapture
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, SnapshotRun
from snapshotter.spark.jobs import parallelism
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import open_storage, require_plain_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotOptions:
    """How a snapshot run captures, and which answers it publishes.

    buckets: a power of two; None: chosen by the number of contexts and the cores
    bucket_variable: None: the variable that most of the services' keys share
    page, budget: the most contexts for each call of the proxy, and the time for it; pages are smaller for slow services
    keep_every: answers are on disk after so long, and a run that dies loses no more
    second_pass: whether contexts that failed are requested once more; the second answer counts. Off by default: the
        proxy retries by itself, and what fails nonetheless mostly does because the service is overloaded
    drift: what happens if a service's snapshot is outside the range predicted from its last runs: "warn", "hold" (do
        not publish), or "off"
    floor: how complete each service's answers must be; None: whatever was answered is published
    late: how long after the context set's day it may still be captured, since services answer with their state now;
        None: at any time
    """

    buckets: int | None = None
    bucket_variable: str | None = None
    page: int = 1_000
    budget: timedelta = timedelta(seconds=60)
    keep_every: timedelta = timedelta(seconds=10)
    second_pass: bool = False
    drift: DriftAction = "warn"
    floor: Floor | None = None
    late: timedelta | None = None

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if self.page < 1 or self.budget <= timedelta():
            raise ConfigError.because(f"page is {self.page} and budget {self.budget}, expected both > 0")
        if self.drift not in get_args(DriftAction):
            raise ConfigError.unknown("drift action", self.drift, get_args(DriftAction))


_DEFAULTS = SnapshotOptions()


def take_snapshot(
    spark: SparkSession | None,
    context_set: ContextSet,
    services: Sequence[str] | None,
    proxies: Sequence[str],
    storage_uri: str,
    index: SnapshotIndex,
    run_id: str,
    options: SnapshotOptions = _DEFAULTS,
    *,
    access: ProxyCredentials | None = None,
    progress: Progress | None = None,
) -> SnapshotRun:
    """Capture services' answers for a context set, each distinct key once, and publish them as a run.

    A run that is published already is returned; one that was begun is continued: only contexts without an answer are
    requested, in the buckets that it began with. Failures lower the confidence of a service.

    spark: None: captured in this process, without a JVM
    services: names; None: all that the proxy has and that the contexts have the variables for
    proxies: "host:port" of each; access: the credentials that they require, in files that every executor has
    progress: called with (service, contexts done, contexts in all, which is an estimate until all tasks have begun)

    Raises ConfigError for an id of another run, ProxyUnavailableError, ServiceError if nothing was answered,
    DataKeyError, and QualityError if drift or the floor holds the run back; then nothing is published.
    """
    addresses = ProxyAddresses(tuple(proxies), access)
    job = _SnapshotJob(context_set, services, addresses, storage_uri, index, run_id, options)
    return job.published() or job.run(spark, progress)


def take_snapshots(
    spark: SparkSession | None,
    context_sets: Sequence[ContextSet],
    services: Sequence[str] | None,
    proxies: Sequence[str],
    storage_uri: str,
    index: SnapshotIndex,
    run_id: str,
    options: SnapshotOptions = _DEFAULTS,
    *,
    access: ProxyCredentials | None = None,
    progress: Progress | None = None,
) -> list[SnapshotRun]:
    """Capture a day: each revision of its context set in order, as a run of its own.

    context_sets: all revisions, as `index.context_sets_of` returns them
    services: names; each is asked for the revisions whose contexts have its variables; None: all that the proxy has
    run_id: of the first revision; the run of the second is `<run_id>.r2`

    A key that an earlier of these runs has an answer for is not requested again, so that a later run counts only what
    it requested. It is published even if that is nothing: then the day is known to be captured. The first error ends
    it, since a later run would request what an earlier one lacks.

    Other arguments and errors are those of `take_snapshot`.
    """
    addresses, done = ProxyAddresses(tuple(proxies), access), list[SnapshotRun]()
    for context_set in context_sets:
        own_id = f"{run_id}.r{context_set.revision}" if context_set.revision > 1 else run_id
        revisions = tuple(context_sets)
        job = _SnapshotJob(
            context_set, services, addresses, storage_uri, index, own_id, options, tuple(done), revisions
        )
        done.append(job.published() or job.run(spark, progress))
    return done


@dataclass(frozen=True)
class _SnapshotJob:
    """The arguments of `take_snapshot`.

    earlier: runs of the same day, whose answers are not requested again
    of_day: all revisions of the day's context set
    """

    context_set: ContextSet
    services: Sequence[str] | None
    proxies: ProxyAddresses
    storage_uri: str
    index: SnapshotIndex
    run_id: str
    options: SnapshotOptions
    earlier: tuple[SnapshotRun, ...] = ()
    of_day: tuple[ContextSet, ...] = ()

    def published(self) -> SnapshotRun | None:
        """Return the run that is published under the id, if any. Raises ConfigError if it is another one."""
        require_plain_name("run id", self.run_id)
        try:
            run = self.index.run(self.run_id)
        except NotInIndexError:
            return None
        refuse_other_run(run, self.context_set, self.services)
        _log.warning("run '%s' is published already: nothing is requested", self.run_id)
        return run

    def run(self, spark: SparkSession | None, progress: Progress | None) -> SnapshotRun:
        """Capture, check and publish."""
        if self.options.late is not None:
            refuse_other_day(self.context_set.date, self.options.late, datetime.now(UTC))
        asked = services_to_capture(self.context_set, self.services, self.proxies, self.of_day)
        capture = self._begin(asked.services, 1 if spark is None else parallelism(spark))
        with shown_progress(progress) as report:
            snapshots = capture.in_process(report) if spark is None else capture.over_spark(spark, report)
        check_quality(self.index, self.run_id, snapshots, self.options.floor, self.options.drift)
        started_at = capture.plan.started_at
        run = SnapshotRun(
            self.run_id, self.context_set.context_set_id, started_at, tuple(snapshots), None, asked.not_applicable
        )
        new = self.index.publish_run(run)
        published = self.index.run(self.run_id)
        if not new:
            refuse_other_run(published, self.context_set, self.services)
            _log.warning("run '%s' was published by another job meanwhile: that one is used", self.run_id)
        return published

    def _begin(self, services: Sequence[Service], cores: int) -> RunCapture:
        """Store the run's plan, unless the run has begun, and return what to capture."""
        options = self.options
        plan = make_plan(self.run_id, self.context_set, services, cores, options.buckets, options.bucket_variable)
        plan = begin_run(open_storage(self.storage_uri), plan)
        tasks = tuple(
            CaptureTask(
                service,
                self.proxies,
                self.storage_uri,
                f"snapshots/{service.name}/{self.run_id}",
                options.page,
                options.budget,
                options.keep_every.total_seconds(),
                options.second_pass,
                plan.buckets if plan.buckets_by(service) else 1,
                answered_keys(self.earlier, service, plan.bucket_variable if plan.buckets_by(service) else None),
            )
            for service in services
        )
        return RunCapture(plan, self.context_set, tasks)

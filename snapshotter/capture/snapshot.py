"""The snapshot job: asks online services for a context set's state and publishes what they answered, in one write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, get_args

import pyarrow as pa
from pyspark.sql import SparkSession

from prana_proxy.config.credentials import ProxyCredentials
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, NotInIndexError, QualityError, ServiceError
from schemas.services import Service, Status
from snapshotter.capture.asking import Asking, Progress, ask_all
from snapshotter.capture.capture import Proxies
from snapshotter.capture.drift import judge, last_profiles
from snapshotter.capture.in_process import ask_in_process
from snapshotter.capture.plan import begin, make_plan
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.spark.progress_bars import watched
from snapshotter.storage import open_storage, require_plain_name

Drift = Literal["warn", "hold", "off"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Floor:
    """The confidence that each service of a run must have, and whether less holds the run back or is only told."""

    confidence: float
    below: Literal["fail", "warn"] = "fail"


def take_snapshot(
    spark: SparkSession | None,
    context_set: ContextSet,
    services: Sequence[str] | None,
    proxies: Sequence[str],
    storage_uri: str,
    index: SnapshotIndex,
    run_id: str,
    *,
    buckets: int | None = None,
    bucket_variable: str | None = None,
    page: int = 1_000,
    budget: timedelta = timedelta(seconds=60),
    keep_every: timedelta = timedelta(seconds=10),
    second_pass: bool = False,
    drift: Drift = "warn",
    floor: Floor | None = None,
    late: timedelta | None = None,
    access: ProxyCredentials | None = None,
    progress: Progress | None = None,
) -> SnapshotRun:
    """Ask services for the state of each context of a set, once for each distinct key, and publish the answers.

    A run id that is published already is given as it is, without asking anything, if the run asked the same services
    for the same contexts. One that was begun and not published
    goes on: what it has captured is kept, and only the rest is asked for, in the buckets that it began with. A service
    that fails, for some contexts or for all, shows in its confidence; when no service gave a single success there is
    nothing to publish: that is an error, and the same run id may be tried again.

    spark: spreads the buckets over its executors; None: this process asks for one bucket after the other, without a JVM
    services: names; None: all that the proxy has
    proxies: "host:port" of each proxy
    buckets: a power of two; None: chosen by the number of contexts
    bucket_variable: None: the variable that most of the services' keys share
    page, budget: the most contexts for each call of the proxy, and the time for it; pages are smaller for slow services
    keep_every: answers are on disk after so long, and a run that dies loses no more
    second_pass: whether contexts that failed are asked for once more; the second answer counts. Not by default: the
        proxy retries by itself, and what fails nonetheless mostly does since the service has too much to do already
    drift: what happens when a service's snapshot is not as its last runs let one expect: "warn", "hold" back
        publishing, or "off"
    floor: how complete the answers of each service must be; None: what is there is published
    late: how long after the context set's day it may still be asked for, since state is captured as it is now;
        None: at any time
    access: what the proxies demand to see; its files must be there on every executor
    progress: called with (service, contexts done, contexts in all); the last is an estimate until all tasks have begun;
        None: bars in a notebook or at a prompt

    Raises ConfigError for a run id that another run has, ProxyUnavailableError, ServiceError, DataKeyError and, when
    drift or too little confidence holds it back, QualityError; nothing is published then.
    """
    _refuse_unusable(run_id, page, budget, drift)
    if (published := _published(index, run_id)) is not None:
        _refuse_another(published, context_set, services)
        _log.warning("run '%s' is published already: nothing is asked", run_id)
        return published
    if late is not None:
        _refuse_another_day(context_set.date, late, datetime.now(UTC))
    reached = Proxies(tuple(proxies), access)
    asked = _services(context_set, services, reached)
    cores = 1 if spark is None else spark.sparkContext.defaultParallelism
    plan = begin(open_storage(storage_uri), make_plan(run_id, context_set, asked, cores, buckets, bucket_variable))
    asking = Asking(plan, context_set, reached, storage_uri, page, budget, keep_every.total_seconds(), second_pass)
    with watched(progress) as told:
        snapshots = ask_in_process(asking, asked, told) if spark is None else ask_all(spark, asking, asked, told)
    _refuse_nothing(run_id, snapshots)
    if floor is not None:
        _look_for_failures(run_id, snapshots, floor)
    _look_for_drift(index, run_id, snapshots, drift)
    new = index.publish_run(SnapshotRun(run_id, context_set.context_set_id, plan.started_at, tuple(snapshots)))
    published = index.run(run_id)
    if not new:
        _refuse_another(published, context_set, services)
        _log.warning("run '%s' was published by another job meanwhile: that one stands", run_id)
    return published


def _published(index: SnapshotIndex, run_id: str) -> SnapshotRun | None:
    try:
        return index.run(run_id)
    except NotInIndexError:
        return None


def _refuse_another(published: SnapshotRun, context_set: ContextSet, services: Sequence[str] | None) -> None:
    """Raise ConfigError if the run that has the id is another one than is asked for."""
    hint = "give this one another run id"
    if published.context_set_id != context_set.context_set_id:
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run captured context set '{published.context_set_id}',"
            f" not '{context_set.context_set_id}'",
            hint,
        )
    captured = sorted(snapshot.service.name for snapshot in published.services)
    if services is not None and captured != sorted(set(services)):
        raise ConfigError.because(
            f"run id '{published.run_id}' is taken: that run asked {', '.join(captured)},"
            f" not {', '.join(sorted(set(services)))}",
            hint,
        )


def _refuse_unusable(run_id: str, page: int, budget: timedelta, drift: str) -> None:
    require_plain_name("run id", run_id)
    if page < 1 or budget <= timedelta():
        raise ConfigError.because(f"page is {page} and budget {budget}, expected both > 0")
    if drift not in get_args(Drift):
        raise ConfigError.unknown("way to treat drift", drift, get_args(Drift))


def _refuse_another_day(day: date, late: timedelta, now: datetime) -> None:
    """A snapshot captures what is now, whatever day is asked for."""
    begins = datetime.combine(day, time(), UTC)
    if now < begins:
        raise ConfigError.because(f"{day} has not begun: a snapshot captures now, {now:%F %R} UTC", "wait for it")
    over = now - begins - timedelta(days=1)
    if over > late:
        raise ConfigError.because(
            f"{day} is past: a snapshot captures now, {now:%F %R} UTC, never the state of another day",
            "take the snapshot of today, or allow the set of services to be `late`",
        )


def _services(context_set: ContextSet, names: Sequence[str] | None, proxies: Proxies) -> list[Service]:
    with proxies.client() as client:
        known = client.services()
    wanted = sorted(known) if names is None else list(dict.fromkeys(names))
    if not wanted:
        raise ConfigError.because("no service to ask", "name one, or declare one to the proxy")
    for name in wanted:
        if name not in known:
            raise ConfigError.unknown("service", name, known)
        require_plain_name("service", name)
        for variable in known[name].key:
            _check_variable(context_set, name, variable)
    return [known[name] for name in wanted]


def _check_variable(context_set: ContextSet, service: str, variable: DataKey) -> None:
    """Refuse a service that the context set cannot ask; an integer may be asked as a wider one."""
    has = {given.name: given.type for given in context_set.key}
    if variable.name not in has:
        raise DataKeyError.unknown(f"variable of context set {context_set.context_set_id}", variable.name, has)
    given = has[variable.name]
    widens = (
        pa.types.is_signed_integer(given)
        and pa.types.is_signed_integer(variable.type)
        and given.bit_width <= variable.type.bit_width
    )
    if given != variable.type and not widens:
        raise DataKeyError.because(
            f"service '{service}' is asked by {variable.name}: {variable.type},"
            f" context set {context_set.context_set_id} has {given}",
            "cast the column in the experiments' queries",
        )


def _refuse_nothing(run_id: str, snapshots: Sequence[ServiceSnapshot]) -> None:
    for snapshot in snapshots:
        for status, reason in snapshot.reasons.items():
            _log.warning(
                "run '%s', service '%s': %d of %d contexts %s: %s",
                *(run_id, snapshot.service.name, snapshot.counts[status], snapshot.asked, status.value, reason),
            )
    if not any(snapshot.counts.get(Status.OK) for snapshot in snapshots):
        told = "; ".join(
            f"{snapshot.service.name}: {status.value}: {reason}"
            for snapshot in snapshots
            for status, reason in snapshot.reasons.items()
        )
        raise ServiceError.because(
            f"run '{run_id}' captured nothing, so nothing is published ({told})",
            "see to the services, then run the same run id again",
        )


def _look_for_failures(run_id: str, snapshots: Sequence[ServiceSnapshot], floor: Floor) -> None:
    """Compare each service's confidence with what it must have."""
    poor = [
        f"service '{snapshot.service.name}' has confidence {snapshot.confidence:.3f}, expected {floor.confidence:g}"
        for snapshot in snapshots
        if snapshot.confidence < floor.confidence
    ]
    if poor and floor.below == "fail":
        raise QualityError.because(
            f"run '{run_id}' is held back: {'; '.join(poor)}",
            "see to the service and run the same run id again, which asks only for what failed",
        )
    for problem in poor:
        _log.warning("run '%s', %s", run_id, problem)


def _look_for_drift(index: SnapshotIndex, run_id: str, snapshots: Sequence[ServiceSnapshot], drift: Drift) -> None:
    """Compare each service's snapshot with its last runs."""
    if drift == "off":
        return
    alerts = [
        f"service '{snapshot.service.name}': {alert}"
        for snapshot in snapshots
        for alert in judge(last_profiles(index, snapshot.service.name), snapshot.profile)
    ]
    if alerts and drift == "hold":
        raise QualityError.because(
            f"run '{run_id}' is held back: {'; '.join(alerts)}",
            "see to the service and run the same run id again, which asks only for what failed,"
            ' or publish it as it is with --drift warn (drift="warn")',
        )
    for alert in alerts:
        _log.warning("run '%s', %s", run_id, alert)

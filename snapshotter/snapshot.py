"""The snapshot job: asks online services for a context set's state and publishes what they answered, in one write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from pyspark.sql import SparkSession

from prana_proxy.client import PranaClient
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, NotInIndexError, ServiceError
from schemas.hashing import check_bucket_count
from schemas.services import Service, Status
from snapshotter.asking import Plan, Progress, ask_all
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.storage import require_plain_name

_log = logging.getLogger(__name__)
_CONTEXTS_IN_A_BUCKET = 50_000  # about 64 MB of histories
_FEWEST_IN_A_BUCKET = 1_000  # fewer would only make small files


def take_snapshot(
    spark: SparkSession,
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
    progress: Progress | None = None,
) -> SnapshotRun:
    """Ask services for the state of each context of a set, once for each distinct key, and publish the answers.

    A run id that is published already is given as it is, without asking anything. A service that fails, for some
    contexts or for all, shows in its confidence; when no service gave a single success there is nothing to publish:
    that is an error, and the same run id may be tried again.

    services: names; None: all that the proxy has
    proxies: "host:port" of each proxy
    buckets: a power of two; None: chosen by the number of contexts
    bucket_variable: None: the variable that most of the services' keys share
    page, budget: contexts for each call of the proxy, and the time for it
    progress: called with (service, contexts done, contexts in all); the last, until done, is an upper bound

    Raises ProxyUnavailableError, ServiceError, ConfigError and DataKeyError; nothing is published then.
    """
    _refuse_unusable(run_id, page, budget)
    try:
        published = index.run(run_id)
    except NotInIndexError:
        pass
    else:
        _log.warning("run '%s' is published already: nothing is asked", run_id)
        return published
    started_at = datetime.now(UTC)
    asked = _services(context_set, services, proxies)
    count = _bucket_count(spark, context_set, buckets)
    variable = _bucket_variable(context_set, asked, bucket_variable)
    plan = Plan(context_set, tuple(proxies), storage_uri, run_id, count, variable, page, budget)
    snapshots = ask_all(spark, plan, asked, progress)
    _refuse_nothing(run_id, snapshots)
    if not index.publish_run(SnapshotRun(run_id, context_set.context_set_id, started_at, tuple(snapshots))):
        _log.warning("run '%s' was published by another job meanwhile: that one stands", run_id)
    return index.run(run_id)


def _refuse_unusable(run_id: str, page: int, budget: timedelta) -> None:
    require_plain_name("run id", run_id)
    if page < 1 or budget <= timedelta():
        raise ConfigError.because(f"page is {page} and budget {budget}, expected both > 0")


def _services(context_set: ContextSet, names: Sequence[str] | None, proxies: Sequence[str]) -> list[Service]:
    with PranaClient(proxies) as client:
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


def _bucket_count(spark: SparkSession, context_set: ContextSet, wanted: int | None) -> int:
    """Choose enough buckets to bound a worker's memory and to give every core one, unless they would be tiny."""
    if wanted is not None:
        check_bucket_count(wanted)
        return wanted
    for_memory = -(-context_set.rows // _CONTEXTS_IN_A_BUCKET)
    for_cores = min(spark.sparkContext.defaultParallelism, context_set.rows // _FEWEST_IN_A_BUCKET)
    return min(65_536, 1 << (max(for_memory, for_cores, 1) - 1).bit_length())


def _bucket_variable(context_set: ContextSet, services: Sequence[Service], wanted: str | None) -> str | None:
    names = [given.name for given in context_set.key if _bucketable(given)]
    if wanted is not None:
        if wanted not in names:
            raise ConfigError.unknown("variable to bucket by", wanted, names)
        return wanted
    shared = {name: sum(name == variable.name for service in services for variable in service.key) for name in names}
    return max(names, key=lambda name: shared[name], default=None)  # of equals the first


def _bucketable(variable: DataKey) -> bool:
    return bool(pa.types.is_signed_integer(variable.type) or pa.types.is_string(variable.type))


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

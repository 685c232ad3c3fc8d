"""Spreads the asking of services over Spark's tasks: one task for each bucket of a service's distinct keys."""

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
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention
from pyspark.sql.pandas.types import from_arrow_schema

from schemas.errors import ServiceError
from schemas.hashing import bucket_sql
from schemas.services import Service, Status
from schemas.tables import contexts_schema
from snapshotter.capture import BUCKET, Capture, Captured, Proxies, capture
from snapshotter.plan import RunPlan
from snapshotter.progress import Board, Ear, Teller, driver_host
from snapshotter.records import ContextSet, DataFile, ServiceSnapshot
from snapshotter.sampling import key_columns
from snapshotter.spark_errors import spark_errors_as
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

Progress = Callable[[str, int, int], None]
_log = logging.getLogger(__name__)
_SERVICES_AT_ONCE = 4
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


def ask_all(
    spark: SparkSession, asking: Asking, services: Sequence[Service], progress: Progress | None
) -> list[ServiceSnapshot]:
    """Ask services at the same time: while one waits for its last answers, others keep the cores busy."""
    counters = [spark.sparkContext.accumulator(0) for _ in services]
    tag = f"snapshot-{asking.plan.run_id}"
    host = None if progress is None else driver_host(spark)
    with Board(host, [asking.plan.buckets] * len(services)) as board, ThreadPoolExecutor(_SERVICES_AT_ONCE) as threads:

        def ask(number: int) -> ServiceSnapshot:
            spark.addTag(tag)
            return _ask(spark, asking, services[number], number, counters[number], board.ear)

        futures = [threads.submit(ask, number) for number in range(len(services))]
        try:
            _watch(services, futures, counters, board, asking.context_set.rows, progress)
            return [future.result() for future in futures]
        except BaseException:  # an interrupt too must not leave jobs behind
            for future in futures:
                future.cancel()
            spark.interruptTag(tag)
            raise


def _watch(
    services: Sequence[Service],
    futures: Sequence[Future[ServiceSnapshot]],
    counters: Sequence[Accumulator[int]],
    board: Board,
    most: int,
    progress: Progress | None,
) -> None:
    """Report progress until all is done or something has failed."""
    shown: dict[str, tuple[int, int]] = {}
    while True:
        _, waiting = wait(futures, _POLL_SECONDS, FIRST_EXCEPTION)
        failed = any(future.done() and future.exception() for future in futures)
        board.listen()
        for number, (service, future, counter) in enumerate(zip(services, futures, counters, strict=True)):
            if progress is None or failed:
                break
            before, _ = shown.get(service.name, (0, 0))
            if future.done():
                done = total = future.result().asked
            else:
                heard, total = board.heard(number, most)
                done = min(max(heard, counter.value, before), most)
            state = done, max(done, total)
            if shown.get(service.name) != state:
                shown[service.name] = state
                progress(service.name, *state)
        if failed or not waiting:
            return


def _ask(
    spark: SparkSession, asking: Asking, service: Service, number: int, counter: Accumulator[int], ear: Ear | None
) -> ServiceSnapshot:
    """Spread a service's distinct keys over tasks, one for each bucket, and gather what they did."""
    plan = asking.plan
    bucketed = any(variable.name == plan.bucket_variable for variable in service.key)
    folder = f"snapshots/{service.name}/{plan.run_id}"
    task = Capture(
        *(service, asking.proxies, asking.storage_uri, folder),
        *(asking.page, asking.budget, asking.keep_seconds, asking.second_pass),
    )

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        with Teller(ear, number, context.partitionId(), counter.add) as teller:
            captured = capture(task, batches, teller.tell)
        if captured.counts:
            yield pa.RecordBatch.from_pylist([{"captured": json.dumps(captured.to_json())}])

    with spark_errors_as(ServiceError, f"run '{plan.run_id}', service '{service.name}'"):
        contexts = _distinct_keys(spark, asking, service)
        spread = _bucketed(contexts, plan, service) if bucketed else _spread(contexts, plan, service)
        rows = spread.mapInArrow(work, "captured STRING").collect()
    captured = Captured()
    for row in rows:
        captured.add(Captured.from_json(json.loads(row["captured"])))
    for note in captured.notes:
        _log.warning("run '%s', service '%s': %s", plan.run_id, service.name, note)
    return _snapshot(plan, service, bucketed, captured)


def _snapshot(plan: RunPlan, service: Service, bucketed: bool, captured: Captured) -> ServiceSnapshot:
    rows = float(captured.counts[Status.OK])
    taken = ServiceSnapshot(
        plan.run_id,
        service,
        plan.bucket_variable if bucketed else None,
        plan.buckets if bucketed else 1,
        captured.counts,
        captured.first,
        captured.last,
        tuple(sorted(captured.files, key=lambda file: file.path)),
        captured.reasons,
    )
    return replace(taken, profile={"rows": rows, "confidence": taken.confidence, **captured.sums.profile()})


def _distinct_keys(spark: SparkSession, asking: Asking, service: Service) -> DataFrame:
    """Read the context set in the workers, so that the JVM needs no way to the storage."""
    uri, key = asking.storage_uri, service.key
    schema = contexts_schema(key)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        storage = open_storage(uri)
        for batch in batches:
            for text in batch.column("file").to_pylist():
                table = read_parquet(storage, DataFile.from_json(json.loads(text)), schema.names)
                yield from table.cast(schema).to_batches(max_chunksize=65_536)

    files = [json.dumps(file.to_json()) for file in asking.context_set.files]
    listed = spark.createDataFrame(pa.table({"file": files})).repartition(len(files))
    return listed.mapInArrow(read, from_arrow_schema(schema)).distinct()


def _bucketed(contexts: DataFrame, plan: RunPlan, service: Service) -> DataFrame:
    """Give each bucket a task of its own, sorted by key."""
    variable = next(variable for variable in service.key if variable.name == plan.bucket_variable)
    bucket = F.expr(bucket_sql(variable.name, variable.type, plan.buckets))
    placed = contexts.withColumn(BUCKET, bucket).repartitionById(plan.buckets, F.col(BUCKET))
    return placed.sortWithinPartitions(*key_columns(service.key))


def _spread(contexts: DataFrame, plan: RunPlan, service: Service) -> DataFrame:
    """Spread the asking over tasks all the same; each writes a file of bucket 0."""
    spread = contexts.repartition(plan.buckets, *key_columns(service.key)).sortWithinPartitions(
        *key_columns(service.key)
    )
    return spread.withColumn(BUCKET, F.lit(0))

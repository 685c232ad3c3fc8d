"""The contexts of a run by bucket: one Spark task for each, or one table after the other in this process.

Rows have the variables that services are called by, null where a context has no such variable; a column for each
service that says whether it is asked for the row; and the column `BUCKET`. They may repeat, since the variables may be
only some of a context's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas.data_keys import DataKey
from schemas.hashing import bucket_of, bucket_sql
from schemas.services import Service
from schemas.tables import contexts_schema
from snapshotter.capture.asked_groups import AskedContexts, contexts_with_asks, shared_key
from snapshotter.capture.bucket_capture import BUCKET
from snapshotter.capture.run_plan import RunPlan
from snapshotter.records import ContextSet, DataFile
from snapshotter.storage import open_storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def spark_partitions(
    spark: SparkSession, context_set: ContextSet, storage_uri: str, plan: RunPlan, services: Sequence[Service]
) -> DataFrame:
    """Return the contexts of services: each bucket in a partition of its own.

    services: all bucketed, or one that is not: then its contexts are spread over as many partitions, all of bucket 0
    """
    from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention

    from snapshotter.selection.sampling import key_columns

    key = shared_key(context_set.groups, services)
    contexts = _spark_contexts(spark, context_set, storage_uri, key, services)
    if not plan.buckets_by(services[0]):
        distinct = contexts.distinct()
        return distinct.repartition(plan.buckets, *key_columns(key)).withColumn(BUCKET, F.lit(0))
    [by] = [variable for variable in key if variable.name == plan.bucket_variable]
    bucket = F.expr(bucket_sql(by.name, by.type, plan.buckets))
    return contexts.withColumn(BUCKET, bucket).repartitionById(plan.buckets, F.col(BUCKET))


def local_partitions(
    context_set: ContextSet, storage_uri: str, plan: RunPlan, services: Sequence[Service]
) -> Iterator[pa.Table]:
    """Yield what `spark_partitions` returns, a table for each bucket that has contexts."""
    key, storage = shared_key(context_set.groups, services), open_storage(storage_uri)
    schema = contexts_with_asks(key, services)
    tables = [
        asked.read(storage, file, contexts_schema(key))
        for asked in _asked_contexts(context_set, services)
        for file in asked.files
    ]
    contexts = pa.concat_tables([schema.empty_table(), *tables])
    buckets = np.zeros(len(contexts), np.int32)
    if plan.buckets_by(services[0]):
        buckets = bucket_of(contexts[plan.bucket_variable], plan.buckets)
        contexts = contexts.take(np.argsort(buckets, kind="stable"))
    ends = np.cumsum(np.bincount(buckets))
    for bucket, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if end > start:
            part = contexts.slice(start, end - start)
            yield part.append_column(BUCKET, pa.repeat(pa.scalar(bucket, pa.int32()), end - start))


def _asked_contexts(context_set: ContextSet, services: Sequence[Service]) -> list[AskedContexts]:
    every = (AskedContexts.of(group, services) for group in context_set.groups)
    return [asked for asked in every if asked is not None]


def _spark_contexts(
    spark: SparkSession,
    context_set: ContextSet,
    storage_uri: str,
    key: Sequence[DataKey],
    services: Sequence[Service],
) -> DataFrame:
    """Read the context set in the workers, so that the JVM needs no access to the storage."""
    from pyspark.sql.pandas.types import from_arrow_schema

    schema = contexts_with_asks(key, services)
    asked = _asked_contexts(context_set, services)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        storage, variables = open_storage(storage_uri), contexts_schema(key)
        for batch in batches:
            for number, text in zip(*(batch.column(name).to_pylist() for name in ("group", "file")), strict=True):
                table = asked[number].read(storage, DataFile.from_json(json.loads(text)), variables)
                yield from table.to_batches(max_chunksize=65_536)

    files = [(number, json.dumps(file.to_json())) for number, each in enumerate(asked) for file in each.files]
    columns = {"group": [number for number, _ in files], "file": [text for _, text in files]}
    listed = spark.createDataFrame(pa.table(columns)).repartition(len(files))
    return listed.mapInArrow(read, from_arrow_schema(schema))

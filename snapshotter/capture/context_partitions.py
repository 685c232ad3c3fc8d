"""The contexts of a run by bucket: one Spark task for each, or one table after the other in this process.

Rows have the variables that services are called by, and the column `BUCKET`. They may repeat, since the variables may
be only some of the context set's key.
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
from snapshotter.capture.bucket_capture import BUCKET
from snapshotter.capture.run_plan import RunPlan
from snapshotter.records import ContextSet, DataFile
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet

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

    if not plan.buckets_by(services[0]):
        distinct = _spark_contexts(spark, context_set, storage_uri, services[0].key).distinct()
        return distinct.repartition(plan.buckets, *key_columns(services[0].key)).withColumn(BUCKET, F.lit(0))
    key = _shared_key(context_set, services)
    contexts = _spark_contexts(spark, context_set, storage_uri, key)
    [by] = [variable for variable in key if variable.name == plan.bucket_variable]
    bucket = F.expr(bucket_sql(by.name, by.type, plan.buckets))
    return contexts.withColumn(BUCKET, bucket).repartitionById(plan.buckets, F.col(BUCKET))


def local_partitions(
    context_set: ContextSet, storage_uri: str, plan: RunPlan, services: Sequence[Service]
) -> Iterator[pa.Table]:
    """Yield what `spark_partitions` returns, a table for each bucket that has contexts."""
    bucketed = plan.buckets_by(services[0])
    schema = contexts_schema(_shared_key(context_set, services) if bucketed else services[0].key)
    files = [read_parquet(open_storage(storage_uri), file, schema.names).cast(schema) for file in context_set.files]
    contexts = pa.concat_tables(files)
    buckets = np.zeros(len(contexts), np.int32)
    if bucketed:
        buckets = bucket_of(contexts[plan.bucket_variable], plan.buckets)
        contexts = contexts.take(np.argsort(buckets, kind="stable"))
    ends = np.cumsum(np.bincount(buckets))
    for bucket, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if end > start:
            part = contexts.slice(start, end - start)
            yield part.append_column(BUCKET, pa.repeat(pa.scalar(bucket, pa.int32()), end - start))


def _shared_key(context_set: ContextSet, services: Sequence[Service]) -> list[DataKey]:
    """Return the variables of all these services' keys, in the context set's order and types."""
    names = {variable.name for service in services for variable in service.key}
    return [variable for variable in context_set.key if variable.name in names]


def _spark_contexts(
    spark: SparkSession, context_set: ContextSet, storage_uri: str, key: Sequence[DataKey]
) -> DataFrame:
    """Read the context set in the workers, so that the JVM needs no access to the storage."""
    from pyspark.sql.pandas.types import from_arrow_schema

    schema = contexts_schema(key)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        storage = open_storage(storage_uri)
        for batch in batches:
            for text in batch.column("file").to_pylist():
                table = read_parquet(storage, DataFile.from_json(json.loads(text)), schema.names)
                yield from table.cast(schema).to_batches(max_chunksize=65_536)

    files = [json.dumps(file.to_json()) for file in context_set.files]
    listed = spark.createDataFrame(pa.table({"file": files})).repartition(len(files))
    return listed.mapInArrow(read, from_arrow_schema(schema))

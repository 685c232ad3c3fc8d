"""Contexts as Spark spreads them over tasks: one for each bucket, with all that services in buckets are asked by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention
from pyspark.sql.pandas.types import from_arrow_schema

from schemas.data_keys import DataKey
from schemas.hashing import bucket_sql
from schemas.services import Service
from schemas.tables import contexts_schema
from snapshotter.capture.bucket_task import BUCKET
from snapshotter.capture.run_plan import RunPlan
from snapshotter.records import ContextSet, DataFile
from snapshotter.selection.sampling import key_columns
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet


def in_buckets(
    spark: SparkSession, context_set: ContextSet, storage_uri: str, plan: RunPlan, services: Sequence[Service]
) -> DataFrame:
    """Give each bucket a task of its own, with the variables of all these services' keys; rows may be equal."""
    wanted = {variable.name for service in services for variable in service.key}
    key = [variable for variable in context_set.key if variable.name in wanted]
    [by] = [variable for variable in key if variable.name == plan.bucket_variable]
    contexts = _read(spark, context_set, storage_uri, key)
    bucket = F.expr(bucket_sql(by.name, by.type, plan.buckets))
    return contexts.withColumn(BUCKET, bucket).repartitionById(plan.buckets, F.col(BUCKET))


def in_parts(
    spark: SparkSession, context_set: ContextSet, storage_uri: str, plan: RunPlan, service: Service
) -> DataFrame:
    """Spread a service without buckets over as many tasks all the same; each writes a file of bucket 0."""
    distinct = _read(spark, context_set, storage_uri, service.key).distinct()
    return distinct.repartition(plan.buckets, *key_columns(service.key)).withColumn(BUCKET, F.lit(0))


def _read(spark: SparkSession, context_set: ContextSet, storage_uri: str, key: Sequence[DataKey]) -> DataFrame:
    """Read the context set in the workers, so that the JVM needs no way to the storage."""
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

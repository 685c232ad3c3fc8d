"""Writes the contexts of experiments with the same key to files of their own, and a Delta table of these."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import date
from functools import reduce

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention

from schemas.data_keys import DataKey
from schemas.errors import SelectionError
from schemas.strict_json import json_text
from snapshotter.records import ContextGroup, ContextSet, DataFile, SelectedExperiment
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.selection.sampling import ExperimentSample, key_columns
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.delta import USER_METADATA, commit_files
from snapshotter.storage.parquet import write_parquet_if_any

_FOLDER = "context_sets"
_METADATA = "delorean"  # the key of our commit metadata
_CONTEXTS_PER_FILE = 500_000


def write_groups(
    spark: SparkSession, drawn: Sequence[ExperimentSample], date: date, set_id: str, storage: Storage
) -> tuple[ContextGroup, ...]:
    """Write samples to new folders, one for each distinct key, in the order of the experiments."""
    by_key: dict[tuple[DataKey, ...], list[ExperimentSample]] = {}
    for sample in drawn:
        by_key.setdefault(sample.key, []).append(sample)
    attempt = uuid.uuid4().hex[:8]  # its folders have no files of others
    groups = []
    for number, (key, samples) in enumerate(by_key.items(), start=1):
        folder = f"{_FOLDER}/{date.isoformat()}/{set_id}/{attempt}-{number}"
        names = ", ".join(sample.experiment.id for sample in samples)
        description = f"select contexts of {date}: write those of {names}"
        with described(spark, description), spark_errors_as(SelectionError, f"contexts of {names} for {date}"):
            files = _write(samples, folder, storage)
        experiments = tuple(_selected(sample) for sample in samples)
        groups.append(ContextGroup(key, experiments, files))
    return tuple(groups)


def commit_groups(selected: ContextSet, storage: Storage) -> None:
    """Make the files of each group a Delta table of one version, for readers other than this system."""
    fields = {"context_set": selected.context_set_id, "date": selected.date.isoformat()}
    for group in selected.groups:
        experiments = ", ".join(experiment.id for experiment in group.experiments)
        metadata = {_METADATA: json_text(fields), USER_METADATA: experiments}
        commit_files(storage, group.table, context_set_schema(group.key), group.files, metadata)


def _selected(sample: ExperimentSample) -> SelectedExperiment:
    return SelectedExperiment(sample.experiment.id, sample.experiment.digest, sample.experiment.services)


def _write(drawn: Sequence[ExperimentSample], folder: str, storage: Storage) -> tuple[DataFile, ...]:
    """Write the union in the workers, sorted by key, and return the files."""
    key = drawn[0].key
    rows = sum(sample.rows for sample in drawn)
    union = reduce(DataFrame.union, (sample.contexts for sample in drawn))
    merged = union.groupBy(*key_columns(key)).agg(F.array_sort(F.collect_list("_chosen_by")).alias("experiments"))
    partitioned = merged.repartition(-(-rows // _CONTEXTS_PER_FILE), *key_columns(key)).sortWithinPartitions(
        *key_columns(key)
    )
    schema, uri = context_set_schema(key), storage.uri

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        part = task.partitionId() if task else 0
        path = f"{folder}/{part:05d}-{uuid.uuid4().hex[:12]}.parquet"
        cast = (batch.cast(schema) for batch in batches)
        file = write_parquet_if_any(open_storage(uri), path, cast, schema)
        if file is not None:
            yield pa.RecordBatch.from_pylist([{"file": json.dumps(file.to_json())}])

    files = [
        DataFile.from_json(json.loads(row["file"])) for row in partitioned.mapInArrow(write, "file STRING").collect()
    ]
    return tuple(sorted(files, key=lambda file: file.path))

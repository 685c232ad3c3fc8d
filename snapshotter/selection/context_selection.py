"""Selects the contexts of a date: a stratified sample for each experiment, stored once as their union."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from datetime import date
from functools import reduce

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention

from schemas.data_keys import DataKey
from schemas.errors import ConfigError, NotInIndexError, SelectionError
from schemas.strict_json import json_text
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, DataFile
from snapshotter.selection.context_sets import context_set_schema, read_context_set
from snapshotter.selection.declarations import NamedSelection, load_selections
from snapshotter.selection.sampling import ExperimentSample, key_columns, samples
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.delta import USER_METADATA, commit_files
from snapshotter.storage.parquet import write_parquet_if_any

__all__ = ["NamedSelection", "load_selections", "read_context_set", "select_contexts"]

_FOLDER = "context_sets"
_METADATA = "delorean"  # the key of our commit metadata
_log = logging.getLogger(__name__)
_CONTEXTS_PER_FILE = 500_000


def select_contexts(
    spark: SparkSession,
    experiments: Sequence[NamedSelection],
    date: date,
    storage: Storage,
    index: SnapshotIndex,
    *,
    allow_other: bool = True,
) -> ContextSet:
    """Select the contexts of a date and publish them; if the date has a context set already, return that.

    allow_other: whether the date's context set is returned even if other experiments, or earlier versions of these,
        selected it

    Each context set is a Delta table of one version, which is visible only once the index names its files.

    Distinct keys are ranked within their stratum by a seeded hash, so that partitions and cores change nothing.
    A context's inclusion probability is taken / population of its stratum.

    Raises SelectionError, naming the experiment, if nothing can be selected, and ConfigError if another selection made
    the date's context set and that is not allowed.
    """
    _check_experiments(experiments)
    try:
        published = index.context_set(date)
    except NotInIndexError:
        pass
    else:
        _log.warning("%s has the context set %s already, which is used", date, published.context_set_id)
        return _checked(published, experiments, allow_other=allow_other)
    with samples(spark, experiments, date) as drawn:
        _check_samples(drawn, experiments)
        selected = _write_context_set(spark, experiments, drawn, date, storage)
    _commit(selected, storage)
    if index.publish_context_set(selected):
        return selected
    _log.warning("another selection published the context set of %s meanwhile: that one is used", date)
    return _checked(index.context_set(date), experiments, allow_other=allow_other)


def _write_context_set(
    spark: SparkSession,
    experiments: Sequence[NamedSelection],
    drawn: Sequence[ExperimentSample],
    date: date,
    storage: Storage,
) -> ContextSet:
    """Write the samples' contexts to a new folder, and return their context set, not yet published."""
    set_id = _context_set_id(experiments, date)
    description = f"select contexts of {date}: write the context set"
    with described(spark, description), spark_errors_as(SelectionError, f"context set of {date}"):
        folder = f"{_FOLDER}/{date.isoformat()}/{set_id}/{uuid.uuid4().hex[:8]}"  # of this attempt alone
        files = _write(drawn, folder, storage)
    report = tuple(row for sample in drawn for row in sample.report)
    ids = tuple(experiment.id for experiment in experiments)
    return ContextSet(set_id, date, ids, drawn[0].key, files, report)


def _commit(selected: ContextSet, storage: Storage) -> None:
    """Make the files of a context set a Delta table of one version, for readers other than this system."""
    fields = {"context_set": selected.context_set_id, "date": selected.date.isoformat()}
    metadata = {_METADATA: json_text(fields), USER_METADATA: ", ".join(selected.experiments)}
    commit_files(storage, selected.table, context_set_schema(selected.key), selected.files, metadata)


def _checked(published: ContextSet, experiments: Sequence[NamedSelection], *, allow_other: bool) -> ContextSet:
    """Return the date's context set. Raises ConfigError if another selection made it and that is not allowed."""
    if not allow_other and published.context_set_id != _context_set_id(experiments, published.date):
        raise ConfigError.because(
            f"{published.date} has the context set {published.context_set_id} already, selected by other experiments,"
            f" or by these before they were edited: {', '.join(published.experiments)}",
            "a date has one context set: name all experiments in its first selection, or select for another date",
        )
    return published


def _check_experiments(experiments: Sequence[NamedSelection]) -> None:
    if not experiments:
        raise SelectionError.because("no experiment to select contexts for", "declare one in [experiments.<id>]")
    ids = [experiment.id for experiment in experiments]
    for experiment in experiments:
        if ids.count(experiment.id) > 1:
            raise SelectionError.because(f"two experiments have the id '{experiment.id}'", "give each its own")
        if experiment.key != experiments[0].key:
            raise SelectionError.because(
                f"experiment '{experiment.id}' has the key {list(experiment.key)},"
                f" '{experiments[0].id}' has {list(experiments[0].key)}: one selection has one key",
                "declare the same key, in the same order",
            )


def _check_samples(drawn: Sequence[ExperimentSample], experiments: Sequence[NamedSelection]) -> None:
    empty = [
        experiment.id
        for experiment, sample in zip(experiments, drawn, strict=True)
        if not sum(row.taken for row in sample.report)
    ]
    names = ", ".join(f"'{name}'" for name in empty)
    if len(empty) == len(drawn):
        raise SelectionError.because(
            f"the context set would be empty: {names} selected nothing", "check the query, the date and the quotas"
        )
    if empty:
        _log.warning("experiments that selected nothing: %s", names)
    for sample, experiment in zip(drawn, experiments, strict=True):
        if sample.key != drawn[0].key:
            raise SelectionError.because(
                f"experiment '{experiment.id}' has the key {_key_text(sample.key)},"
                f" '{experiments[0].id}' has {_key_text(drawn[0].key)}",
                "cast the columns in the query",
            )


def _write(drawn: Sequence[ExperimentSample], folder: str, storage: Storage) -> tuple[DataFile, ...]:
    """Write the union in the workers, sorted by key, and return the files."""
    key = drawn[0].key
    rows = sum(row.taken for sample in drawn for row in sample.report)
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


def _context_set_id(experiments: Sequence[NamedSelection], date: date) -> str:
    """Return the id of a context set: a digest of the experiments that select it."""
    text = json.dumps([experiment.to_json() for experiment in experiments], sort_keys=True)
    return f"{date.isoformat()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _key_text(key: Sequence[DataKey]) -> str:
    return ", ".join(f"{variable.name}: {variable.type}" for variable in key)

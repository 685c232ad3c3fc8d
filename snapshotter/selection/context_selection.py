"""Chooses the contexts of a date: a stratified sample for each experiment, saved once as their union."""

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
from snapshotter.selection.sampling import Sample, key_columns, samples
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.delta import SHOWN, commit_files
from snapshotter.storage.parquet import write_parquet_if_any

__all__ = ["NamedSelection", "load_selections", "read_context_set", "select_contexts"]

FOLDER = "context_sets"
_TOLD = "delorean"
_log = logging.getLogger(__name__)
_CONTEXTS_IN_A_FILE = 500_000


def select_contexts(
    spark: SparkSession,
    experiments: Sequence[NamedSelection],
    date: date,
    storage: Storage,
    index: SnapshotIndex,
    *,
    whoever_chose: bool = True,
) -> ContextSet:
    """Choose the contexts of a date and publish them; a date that has its context set keeps it.

    whoever_chose: whether a context set that the date has is given even if other experiments, or these as they were
        written then, have chosen it

    Each context set is a Delta table of one version, which nobody finds before the index names its files.

    Distinct keys are ranked within their stratum by a seeded hash, so that partitions and cores change nothing.
    A context's inclusion probability is taken / population of its stratum.

    Raises SelectionError when nothing can be selected, naming the experiment, and ConfigError for a date whose context
    set another selection has chosen, unless that is allowed.
    """
    _refuse_unusable(experiments)
    try:
        published = index.context_set(date)
    except NotInIndexError:
        pass
    else:
        _log.warning("%s has the context set %s already: it is used as it is", date, published.context_set_id)
        return _checked(published, experiments, whoever_chose=whoever_chose)
    with samples(spark, experiments, date) as drawn:
        _refuse_nothing(drawn, experiments)
        set_id = _context_set_id(experiments, date)
        what = f"select contexts of {date}: write the context set"
        with described(spark, what), spark_errors_as(SelectionError, f"context set of {date}"):
            folder = f"{FOLDER}/{date.isoformat()}/{set_id}/{uuid.uuid4().hex[:8]}"  # of this attempt alone
            files = _save(drawn, folder, storage)
    report = tuple(row for sample in drawn for row in sample.report)
    ids = tuple(experiment.id for experiment in experiments)
    chosen = ContextSet(set_id, date, ids, drawn[0].key, files, report)
    told = {_TOLD: json_text({"context_set": set_id, "date": date.isoformat()}), SHOWN: ", ".join(ids)}
    commit_files(storage, chosen.table, context_set_schema(chosen.key), files, told)
    if index.publish_context_set(chosen):
        return chosen
    _log.warning("%s was given a context set by another selection meanwhile: that one is used", date)
    return _checked(index.context_set(date), experiments, whoever_chose=whoever_chose)


def _checked(published: ContextSet, experiments: Sequence[NamedSelection], *, whoever_chose: bool) -> ContextSet:
    """Give the context set that a date has, if it may be used."""
    if not whoever_chose and published.context_set_id != _context_set_id(experiments, published.date):
        raise ConfigError.because(
            f"{published.date} has its context set already, {published.context_set_id}, which other experiments have"
            f" chosen, or these before they were edited: {', '.join(published.experiments)}",
            "a date has one context set: name all experiments in its first selection, or choose for another date",
        )
    return published


def _refuse_unusable(experiments: Sequence[NamedSelection]) -> None:
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


def _refuse_nothing(drawn: Sequence[Sample], experiments: Sequence[NamedSelection]) -> None:
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
                f"experiment '{experiment.id}' has the key {_shown(sample.key)},"
                f" '{experiments[0].id}' has {_shown(drawn[0].key)}",
                "cast the columns in the query",
            )


def _save(drawn: Sequence[Sample], folder: str, storage: Storage) -> tuple[DataFile, ...]:
    """Write the union from the workers, sorted by key; only the files' names come back."""
    key = drawn[0].key
    rows = sum(row.taken for sample in drawn for row in sample.report)
    union = reduce(DataFrame.union, (sample.contexts for sample in drawn))
    merged = union.groupBy(*key_columns(key)).agg(F.array_sort(F.collect_list("_chosen_by")).alias("experiments"))
    spread = merged.repartition(-(-rows // _CONTEXTS_IN_A_FILE), *key_columns(key)).sortWithinPartitions(
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

    files = [DataFile.from_json(json.loads(row["file"])) for row in spread.mapInArrow(write, "file STRING").collect()]
    return tuple(sorted(files, key=lambda file: file.path))


def _context_set_id(experiments: Sequence[NamedSelection], date: date) -> str:
    """Name the context set by what it was selected by."""
    text = json.dumps([experiment.to_json() for experiment in experiments], sort_keys=True)
    return f"{date.isoformat()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _shown(key: Sequence[DataKey]) -> str:
    return ", ".join(f"{variable.name}: {variable.type}" for variable in key)

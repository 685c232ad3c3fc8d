"""The label data of an experiment, put into buckets or found at rest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from delorean.experiment.checks import check_spec
from delorean.experiment.label_spec import LabelSpec
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.tables import pinned_tables, query
from delorean.labels import Labels, find_labels
from delorean.labels.materialise import materialise_labels, materialise_tasks
from delorean.labels.task_layout import TaskRows
from schemas.errors import LabelError
from snapshotter.index import SnapshotIndex
from snapshotter.selection.state_tables import state_tables
from snapshotter.storage import Storage
from snapshotter.storage.table_source import TableSource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_STATE = "state"  # in the source of label data: what its query read of what was selected and captured, by call


def labels_of(
    experiment: ExperimentSpec,
    spark: SparkSession | None,
    storage: Storage,
    run_id: str | None = None,
    day: date | None = None,
    index: SnapshotIndex | None = None,
) -> Labels:
    """Return the experiment's label data: what an earlier run left at rest under its id, else newly made.

    spark: None: only label data at rest can be returned
    run_id: if the spec names no label data, a run with the same id reuses the label data of the first
    day: only what was known when this day began, UTC, so that a run gives the same result whenever it takes place. It
        is what `:date` in the query means. Such label data belongs to the run, whatever id the spec has
    index: where `contexts('…')` and `captures('…')` in the query are found; None: the query has no such tables

    Raises LabelError, also where label data of that id comes from another query or another version of a table, and
    what `check_spec` raises, before any work begins.
    """
    check_spec(experiment, run_id=run_id)
    if run_id is not None and (day is not None or experiment.label_spec.id is None):
        existing = find_labels(_labels_of_run(experiment, run_id, day), storage)
    else:
        existing = labels_at_rest(experiment, storage, spark) if day is None else None
    if existing is not None:
        return existing
    if spark is None:
        raise needs_spark(experiment)
    return _materialise(experiment, spark, storage, run_id, day, index)


def needs_spark(experiment: ExperimentSpec) -> LabelError:
    """Return the error where label data has to be made and there is no session."""
    return LabelError.because(
        f"the label data of experiment '{experiment.name}' is not at rest, and its query needs Spark",
        "pass a session (spark=…), or name label data at rest in the spec (labels.id)",
    )


def _materialise(
    experiment: ExperimentSpec,
    spark: SparkSession,
    storage: Storage,
    run_id: str | None,
    day: date | None,
    index: SnapshotIndex | None,
) -> Labels:
    spec = experiment.label_spec
    until = None if day is None else datetime.combine(day, time(), UTC)
    return materialise_queries(
        experiment,
        (spark, storage, index, day),
        until=until,
        labels_id=(spec.id if day is None else None) if run_id is None else labels_id_of(experiment, run_id, day),
        named=spec.id is not None and day is None,
        source={} if day is None else {"date": day.isoformat()},
    )


_Queried: TypeAlias = "tuple[SparkSession, Storage, SnapshotIndex | None, date | None]"


def materialise_queries(
    experiment: ExperimentSpec,
    queried: _Queried,
    *,
    since: datetime | None = None,
    until: datetime | None,
    labels_id: str | None,
    named: bool,
    source: Mapping[str, Any],
) -> Labels:
    """Run the labels' queries and put the rows into buckets, those of tasks together.

    queried: the session, the storage, the index and the day, see `query_rows`
    since, until: only what became known between these moments; until: None: everything
    source: added to where the rows come from

    Raises what `materialise_labels` and `materialise_tasks` raise.
    """
    spec, storage = experiment.label_spec, queried[1]
    rows, queries = query_rows(experiment, *queried)
    source = {**queries, **source}
    if experiment.labels is not None:
        return materialise_labels(
            _known(rows[""], spec, since, until),
            spec,
            storage,
            labels_id=labels_id,
            named=named,
            bucket_variable=spec.bucket_variable,
            buckets=spec.buckets,
            source=source,
        )
    tasks = [
        TaskRows(name, _known(rows[name], task.labels, since, until), task.labels, task.sample)
        for name, task in experiment.tasks.items()
    ]
    return materialise_tasks(
        tasks,
        storage,
        sentinels=experiment.sentinels,
        labels_id=labels_id,
        named=named,
        bucket_variable=spec.bucket_variable,
        buckets=spec.buckets,
        source=source,
        complete=since is None,  # of what became known in a day, a task may have nothing
    )


def query_rows(
    experiment: ExperimentSpec, spark: SparkSession, storage: Storage, index: SnapshotIndex | None, day: date | None
) -> tuple[dict[str, DataFrame], dict[str, Any]]:
    """Return the rows of the labels' query, or of each task's by the task's name, and where they come from.

    That is what `source_of` returns, and what the queries read of the state.

    index, day: see `labels_of`; of what was captured only that from before the day is read
    """
    tables = pinned_tables(experiment.located_tables, spark)
    specs = {name: task.labels for name, task in experiment.tasks.items()} or {"": experiment.label_spec}
    rows: dict[str, DataFrame] = {}
    read: dict[str, list[str]] = {}
    for name, spec in specs.items():
        text, state = (spec.sql, ()) if index is None else state_tables(spec.sql, index, LabelError, day)
        frames = {table.view: table.to_spark(spark, storage.uri) for table in state}
        try:
            rows[name] = query(spark, text, tables, day, frames)
        except LabelError as error:
            raise type(error)(f"task '{name}': {error}" if name else str(error)) from error
        read |= {table.call: list(table.sources) for table in state}
    return rows, {**source_of(experiment, tables), **({_STATE: read} if read else {})}


def _known(rows: DataFrame, spec: LabelSpec, since: datetime | None, until: datetime | None) -> DataFrame:
    """Keep rows whose outcome became known in time. A missing column is reported later, with similar names."""
    return rows if until is None or not spec.label_names else known_between(rows, spec.outcome_at, since, until)


def known_between(rows: DataFrame, outcome_at: str, since: datetime | None, until: datetime) -> DataFrame:
    """Keep rows whose outcome became known after one moment (None: the beginning) and up to another.

    Spark moves the condition into the query, down to the tables' files. A missing column is reported later.
    """
    if outcome_at not in rows.columns:
        return rows
    known = rows[outcome_at] <= until
    return rows.where(known if since is None else (rows[outcome_at] > since) & known)


def labels_at_rest(experiment: ExperimentSpec, storage: Storage, spark: SparkSession | None = None) -> Labels | None:
    """Return the label data stored under the spec's id, or None.

    spark: None: versions of tables in its catalogue are not compared

    Raises LabelError where it comes from another query or another version of a table, or its manifest cannot be read.
    """
    if experiment.label_spec.id is None:
        return None
    labels = find_labels(experiment.label_spec.id, storage)
    if labels is None:
        return None
    recorded = {name: value for name, value in labels.source.items() if name != _STATE}
    tables = pinned_tables(experiment.located_tables, spark)
    if spark is None and recorded:
        versions = {name: table.get("version") for name, table in recorded["tables"].items()}
        for name, table in tables.items():
            if table.in_catalogue and table.version is None:
                tables[name] = replace(table, version=versions.get(name))
    if recorded and recorded != source_of(experiment, tables):
        raise LabelError.because(
            f"label data '{labels.labels_id}' was made by another query, or from another version of its tables",
            "give the new labels another id, or none: then every run makes its own",
        )
    return labels


def labels_id_of(experiment: ExperimentSpec, run_id: str, day: date | None) -> str:
    """Return the id of the label data that a run with an id learns from, see `labels_of`."""
    return (experiment.label_spec.id if day is None else None) or _labels_of_run(experiment, run_id, day)


def _labels_of_run(experiment: ExperimentSpec, run_id: str, day: date | None) -> str:
    """Derive the id of label data that only runs with one id use, and that no person chose."""
    key = f"{experiment.id}/{run_id}" + ("" if day is None else f"/{day}")
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def source_of(experiment: ExperimentSpec, tables: Mapping[str, TableSource]) -> dict[str, Any]:
    """Describe where label data comes from. Paths are as in the spec, because a project may be moved."""
    named = {name: replace(table, version=tables[name].version) for name, table in experiment.tables.items()}
    return {"spec": experiment.label_content, "tables": msgspec.to_builtins(named)}

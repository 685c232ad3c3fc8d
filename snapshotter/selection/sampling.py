"""Draws a stratified sample of the contexts that an experiment's query returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention
from pyspark.sql.pandas.types import to_arrow_type

from schemas.data_keys import DataKey, context_variable, refuse_naive_times
from schemas.errors import DeloreanError, NaiveTimeError, SelectionError
from snapshotter.index import SnapshotIndex
from snapshotter.records import StratumReport
from snapshotter.selection.declarations import NamedSelection
from snapshotter.selection.quotas import stratum_name
from snapshotter.selection.state_tables import state_tables
from snapshotter.spark.errors import spark_errors_as
from snapshotter.spark.jobs import described
from snapshotter.spark.table_loader import query_tables
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)
_MOST_STRATA = 10_000


@dataclass(frozen=True)
class ExperimentSample:
    """The contexts that one experiment selected.

    experiment: its selection
    contexts: the key's columns and `_chosen_by`, one row for each context
    key: the key's variables, with the types of the query's columns
    """

    experiment: NamedSelection
    contexts: DataFrame
    key: tuple[DataKey, ...]
    report: tuple[StratumReport, ...]

    @property
    def rows(self) -> int:
        """Number of contexts."""
        return sum(stratum.taken for stratum in self.report)


Outcome = ExperimentSample | DeloreanError
"""What an experiment selected, or why it selected nothing."""


@contextmanager
def samples(
    spark: SparkSession, experiments: Sequence[NamedSelection], date: date, storage: Storage, index: SnapshotIndex
) -> Iterator[list[Outcome]]:
    """Yield the outcome of each experiment; the data that the samples need stays cached within the block.

    storage, index: of contexts and captures that queries name
    """
    cached: list[DataFrame] = []
    keys = {experiment.id: experiment.key for experiment in experiments}

    def rows(experiment: NamedSelection) -> DataFrame:
        try:
            text, tables = state_tables(experiment.query, index, SelectionError, date, keys)
        except SelectionError as error:
            raise SelectionError(f"experiment '{experiment.id}': {error}") from error
        frames = {table.view: table.to_spark(spark, storage.uri) for table in tables}
        return query_tables(spark, text, experiment.tables, SelectionError, date, frames)

    try:
        yield [_outcome(spark, experiment, rows, date, cached) for experiment in experiments]
    finally:
        for contexts in cached:
            contexts.unpersist()


def _outcome(
    spark: SparkSession,
    experiment: NamedSelection,
    rows: Callable[[NamedSelection], DataFrame],
    date: date,
    cached: list[DataFrame],
) -> Outcome:
    """Draw an experiment's sample. An error is returned: it does not concern the other experiments."""
    description = f"select contexts of {date}: experiment '{experiment.id}'"
    try:
        with described(spark, description), spark_errors_as(SelectionError, f"experiment '{experiment.id}'"):
            contexts, key = _distinct_contexts(experiment, rows(experiment))
            # A query may return other rows when it runs again; counting and ranking must see the same ones.
            cached.append(contexts.persist())
            sample = _sample(spark, experiment, cached[-1], key)
    except DeloreanError as error:
        return error
    if sample.rows:
        return sample
    problem, hint = f"experiment '{experiment.id}' selected nothing", "check the query, the date and the quotas"
    return SelectionError.because(problem, hint)


def _distinct_contexts(experiment: NamedSelection, result: DataFrame) -> tuple[DataFrame, tuple[DataKey, ...]]:
    for column in (*experiment.key, *experiment.strata):
        if column not in result.columns:
            unknown = SelectionError.unknown("column", column, result.columns)
            raise SelectionError(f"experiment '{experiment.id}': in the result of its query: {unknown}")
    key = tuple(_variable(experiment, result, name) for name in experiment.key)
    names = list(dict.fromkeys([*experiment.key, *experiment.strata]))
    return result.select(*map(_column, names)).distinct(), key


def _variable(experiment: NamedSelection, result: DataFrame, name: str) -> DataKey:
    spark_type = result.schema[name].dataType
    try:
        arrow_type = to_arrow_type(spark_type, timezone="UTC")
        refuse_naive_times(name, arrow_type)
    except NaiveTimeError as error:
        raise SelectionError(f"experiment '{experiment.id}': {error}") from error
    plain = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    if not any(is_type(arrow_type) for is_type in plain):
        raise SelectionError.because(
            f"experiment '{experiment.id}': key column '{name}' is {spark_type.simpleString()}:"
            " keys are compared value by value",
            "use an integer, a string, a boolean, a date or a timestamp",
        )
    return context_variable(name, arrow_type)


def _sample(
    spark: SparkSession, experiment: NamedSelection, contexts: DataFrame, key: tuple[DataKey, ...]
) -> ExperimentSample:
    names = [f"_stratum_{i}" for i in range(len(experiment.strata))]
    strata = [_column(column).cast("string").alias(name) for column, name in zip(experiment.strata, names, strict=True)]
    report = _report(experiment, _populations(experiment, contexts, strata))
    _refuse_two_strata(experiment, contexts)
    quotas = _quotas(spark, report, names)
    window = Window.partitionBy(*names).orderBy(
        F.xxhash64(F.lit(experiment.seed), *key_columns(key)), *key_columns(key)
    )
    ranked = contexts.select(*key_columns(key), *strata).withColumn("_rank", F.row_number().over(window))
    # The literal bound lets Spark drop most rows before it sorts the strata.
    bounded = ranked.where(F.col("_rank") <= max((row.taken for row in report.values()), default=0))
    joined = bounded.join(quotas, names) if names else bounded.crossJoin(quotas)
    chosen_by = F.struct(
        F.lit(experiment.id).alias("experiment"),
        F.col("_name").alias("stratum"),
        F.col("_probability").alias("probability"),
    )
    taken = joined.where(F.col("_rank") <= F.col("_taken")).select(*key_columns(key), chosen_by.alias("_chosen_by"))
    return ExperimentSample(experiment, taken, key, tuple(report.values()))


def _populations(experiment: NamedSelection, contexts: DataFrame, strata: list[Column]) -> dict[tuple[str, ...], int]:
    """Count the contexts of each stratum. Raises SelectionError for nulls, which the same pass counts."""
    nulls = [F.count_if(_column(name).isNull()) for name in contexts.columns]
    rows = contexts.groupBy(*strata).agg(F.count("*"), *nulls).limit(_MOST_STRATA + 1).collect()
    if len(rows) > _MOST_STRATA:
        raise SelectionError.because(
            f"experiment '{experiment.id}' has more than {_MOST_STRATA} strata in {list(experiment.strata)}",
            "stratify by columns with fewer values",
        )
    for i, name in enumerate(contexts.columns, start=len(strata) + 1):
        count = sum(row[i] for row in rows)
        if count:
            role = "key" if name in experiment.key else "stratum"
            raise SelectionError.because(
                f"experiment '{experiment.id}': {role} column '{name}' is null in {count} distinct contexts",
                f"leave them out: WHERE {name} IS NOT NULL",
            )
    counts = {tuple(row[: len(strata)]): row[len(strata)] for row in rows}
    return {
        stratum: count for stratum, count in counts.items() if count
    }  # without strata an empty result is one row of 0


def _quotas(spark: SparkSession, report: dict[tuple[str, ...], StratumReport], names: list[str]) -> DataFrame:
    """Return a small table of how many contexts to take of each stratum. From Arrow: no Python worker is needed."""
    rows = [(stratum, row) for stratum, row in report.items() if row.taken]
    columns = {name: pa.array([stratum[i] for stratum, _ in rows], pa.string()) for i, name in enumerate(names)}
    columns["_name"] = pa.array([row.stratum for _, row in rows], pa.string())
    columns["_taken"] = pa.array([row.taken for _, row in rows], pa.int64())
    columns["_probability"] = pa.array([row.taken / row.population for _, row in rows], pa.float64())
    return F.broadcast(spark.createDataFrame(pa.table(columns)))


def _refuse_two_strata(experiment: NamedSelection, contexts: DataFrame) -> None:
    if set(experiment.strata) <= set(experiment.key):
        return
    twice = contexts.groupBy(*map(_column, experiment.key)).count().where("count > 1").limit(1).collect()
    if twice:
        shown = ", ".join(f"{name} = {twice[0][name]!r}" for name in experiment.key)
        raise SelectionError.because(
            f"experiment '{experiment.id}': the context {shown} lies in {twice[0]['count']} strata of"
            f" {list(experiment.strata)}",
            "let the query give each context one stratum, or add the column to the key",
        )


def _report(
    experiment: NamedSelection, populations: dict[tuple[str, ...], int]
) -> dict[tuple[str, ...], StratumReport]:
    """Return how many contexts to take of each stratum, of the data or only of the quota; warn of too few."""
    report = {}
    for stratum in sorted({*populations, *experiment.named_strata()}):
        population = populations.get(stratum, 0)
        asked = experiment.sample_size(stratum, population)
        row = StratumReport(experiment.id, stratum_name(stratum), population, asked, min(asked, population))
        if not row.filled:
            _log.warning(
                "experiment '%s': stratum '%s' has %d contexts, %d were requested",
                row.experiment,
                row.stratum,
                population,
                asked,
            )
        report[stratum] = row
    return report


def key_columns(key: Sequence[DataKey]) -> list[Column]:
    """Return a key's columns, whatever characters are in their names."""
    return [_column(variable.name) for variable in key]


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")

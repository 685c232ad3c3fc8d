"""Reads the outcomes of a metric: through Spark where it is a query, else in Arrow, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.local_tables import local_batches
from delorean.ab_tests.metrics import InterleavingSpec, MetricSpec
from delorean.ab_tests.query_batches import query_batches
from delorean.ab_tests.unit_rows import UNIT, UnitRows, plain_units
from delorean.labels.casting import Caster
from delorean.labels.column_types import check_time
from schemas.errors import AbTestError
from schemas.times import to_micros
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_AT, _VALUE, _DENOMINATOR = "at", "value", "denominator"


def collect_outcomes(
    test: AbTest,
    name: str,
    batches: Iterable[pa.RecordBatch],
    since: datetime | None = None,
    until: datetime | None = None,
    rows_in_memory: int | None = None,
) -> UnitRows:
    """Read outcomes into rows of units: unit, at, value, denominator.

    name: of the metric
    batches: rows with the unit and the metric's columns
    since, until: outcomes after one moment and up to the other; None: from the first, to the last

    Rows without a unit belong to none. Raises AbTestError for columns that are missing, values that are null or not
    finite and missing times, NaiveTimeError for times without a zone.
    """
    metric = test.metrics[name]
    first = -(1 << 62) if since is None else to_micros(since)
    last = (1 << 62) if until is None else to_micros(until)
    rows: UnitRows | None = None
    options = {} if rows_in_memory is None else {"rows_in_memory": rows_in_memory}
    for batch in batches:
        table = _plain(test, name, metric, pa.Table.from_batches([batch]))
        at = table[_AT].to_numpy()
        table = table.filter(pa.array((at > first) & (at <= last)))
        _check_values(name, metric, table)
        rows = rows or UnitRows(table.schema, **options)
        rows.add(table)
    if rows is None:
        fields = [(UNIT, pa.int64()), (_AT, pa.int64()), (_VALUE, pa.float64()), (_DENOMINATOR, pa.float64())]
        rows = UnitRows(pa.schema(fields))
    return rows


def outcome_batches(
    test: AbTest,
    spec: MetricSpec | InterleavingSpec,
    columns: tuple[str, ...],
    storage: Storage | None = None,
    spark: SparkSession | None = None,
    index: SnapshotIndex | None = None,
) -> Iterator[pa.RecordBatch]:
    """Read the columns of a query or a table, some rows at a time.

    storage: where tasks of Spark write what they have read; needed for a query
    spark: runs the query
    index: where `contexts('…')` and `captures('…')` in the query are found

    Raises AbTestError where a column is missing, and where a query has no session.
    """
    if spec.table is not None:
        schema, batches = local_batches(spec.table, test.located_tables[spec.table])
        _check_columns(f"table '{spec.table}'", columns, schema.names)
        yield from (batch.select(list(columns)) for batch in batches)
        return
    if spark is None or storage is None:
        raise AbTestError.because(
            f"test '{test.name}' measures a query, which needs Spark", "pass a session, or name a table instead"
        )
    assert spec.query is not None
    yield from query_batches(spark, spec.query, test.located_tables, columns, storage, index)


def _plain(test: AbTest, name: str, metric: MetricSpec, table: pa.Table) -> pa.Table:
    """Cast rows to the plain types of unit, at, value and denominator."""
    of = f"the outcomes of metric '{name}'"
    _check_columns(of, (test.unit, *metric.columns), table.column_names)
    check_time(metric.time, table.schema.field(metric.time).type, metric.time_unit, of)
    at = Caster(table, time_unit=metric.time_unit).time(metric.time)
    if at.null_count:
        raise AbTestError.because(
            f"column '{metric.time}' of {of} is null in {at.null_count:,} rows", f"add WHERE {metric.time} IS NOT NULL"
        )
    units = plain_units(table[test.unit], test.unit)
    ones = pa.chunked_array([np.ones(table.num_rows)])
    columns = [ones if column is None else _numbers(table, column, of) for column in (metric.value, metric.denominator)]
    plain = pa.table({UNIT: units, _AT: at.cast(pa.int64()), _VALUE: columns[0], _DENOMINATOR: columns[1]})
    return plain.filter(pc.is_valid(plain[UNIT]))


def _numbers(table: pa.Table, name: str, of: str) -> pa.ChunkedArray:
    type = table.schema.field(name).type  # noqa: A001  # the field's own name
    if pa.types.is_boolean(type):
        return table[name].cast(pa.int8()).cast(pa.float64())
    if not (pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)):
        raise AbTestError.because(f"column '{name}' of {of} is {type}, expected numbers", "cast it in the query")
    return table[name].cast(pa.float64(), safe=False)


def _check_values(name: str, metric: MetricSpec, table: pa.Table) -> None:
    for column, what in ((metric.value, _VALUE), (metric.denominator, _DENOMINATOR)):
        values = pc.fill_null(table[what], np.nan).to_numpy()
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise AbTestError.because(
                f"metric '{name}': column '{column}' is null or not finite in {int(wrong.sum()):,} outcomes",
                f"leave them out, or give them a value: coalesce(nanvl({column}, 0), 0)",
            )
        if metric.winsorise is not None and (values < 0).any():
            raise AbTestError.because(
                f"metric '{name}': column '{column}' has negative values, which winsorise does not support",
                "leave winsorise out",
            )


def _check_columns(what: str, columns: Iterable[str], existing: Iterable[str]) -> None:
    names = list(existing)
    for column in columns:
        if column not in names:
            raise AbTestError.unknown(f"column of {what}", column, names)

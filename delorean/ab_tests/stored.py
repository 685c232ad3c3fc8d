"""Tests of a project: their plans, their health and their analysis from the exposure log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from delorean.ab_tests.analysis import analyse, health_of
from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.exposed_units import EXPOSURE_COLUMNS, collect_exposures
from delorean.ab_tests.history import metric_history
from delorean.ab_tests.interleaving_analysis import EXPOSURE_COLUMNS as INTERLEAVED_COLUMNS
from delorean.ab_tests.interleaving_analysis import (
    InterleavingAnalysis,
    analyse_interleaving,
    collect_choices,
    collect_shown,
)
from delorean.ab_tests.look_moments import TestData
from delorean.ab_tests.looks import looks_until, planned_looks
from delorean.ab_tests.outcomes import collect_outcomes, outcome_batches
from delorean.ab_tests.plan import TestPlan, plan_test
from delorean.ab_tests.recorded import require_unchanged
from delorean.ab_tests.result import AbAnalysis, Health
from delorean.ab_tests.unit_rows import UnitRows
from delorean.exposures.reader import read_exposures
from schemas.errors import AbTestError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def analyse_test(
    test: AbTest,
    storage: Storage,
    at: datetime | None = None,
    *,
    spark: SparkSession | None = None,
    index: SnapshotIndex | None = None,
) -> AbAnalysis:
    """Analyse a test at its last planned look before a moment, from the exposure log and the outcomes known then.

    at: None: now
    spark, index: for metrics that are queries, see `outcome_batches`

    Raises AbTestError before the first look, without exposures, and for a declaration that changed under way.
    """
    require_unchanged(test, storage)
    moment = at or datetime.now(UTC)
    looks, _ = looks_until(test, moment)
    with ExitStack() as opened:
        exposures = opened.enter_context(_exposures(test, storage, moment))
        outcomes = {}
        for name, metric in test.metrics.items():
            assert test.start is not None
            batches = outcome_batches(test, metric, (test.unit, *metric.columns), storage, spark, index)
            rows = collect_outcomes(test, name, batches, test.start - metric.history, looks[-1].at)
            outcomes[name] = opened.enter_context(rows)
        return analyse(test, TestData(exposures, outcomes), moment)


def analyse_interleaved(
    test: AbTest,
    storage: Storage,
    at: datetime | None = None,
    *,
    spark: SparkSession | None = None,
    index: SnapshotIndex | None = None,
) -> InterleavingAnalysis:
    """Analyse the cells of a test that interleave, at any moment; arguments as for `analyse_test`.

    Raises AbTestError where no cell interleaves, without exposures, and for a declaration that changed under way.
    """
    require_unchanged(test, storage)
    moment = at or datetime.now(UTC)
    names = [name for name, cell in test.cells.items() if cell.interleave is not None]
    if not names or test.interleaving is None:
        raise AbTestError.because(
            f"test '{test.name}' has no cell that interleaves, or does not say what gives credit",
            'write interleave = ["control", "candidate"] in a cell, and [interleaving]',
        )
    spec = test.interleaving
    results = []
    for name in names:
        reader = _reader(test, storage, moment, INTERLEAVED_COLUMNS)
        shown = collect_shown(test, name, reader)
        batches = outcome_batches(test, spec, (test.unit, spec.item, spec.time), storage, spark, index)
        with shown.rows, collect_choices(test, batches, moment) as choices:
            results.append(analyse_interleaving(test, name, shown, choices))
    return InterleavingAnalysis(test.name, moment, 1 - test.plan.alpha, tuple(results))


def peek(test: AbTest, storage: Storage, at: datetime | None = None) -> Health:
    """Return a test's health at any moment: how many units each cell has, and whether they are as declared.

    Metrics are not read. Raises AbTestError without exposures, and for a declaration that changed under way.
    """
    require_unchanged(test, storage)
    moment = at or datetime.now(UTC)
    planned = test.metrics and test.start is not None and test.end is not None
    following = (look.at for look in planned_looks(test) if look.at > moment) if planned else iter(())
    with _exposures(test, storage, moment) as exposures:
        return health_of(test, exposures, moment, next(following, None))


def plan_from_history(
    test: AbTest,
    storage: Storage | None = None,
    until: datetime | None = None,
    *,
    spark: SparkSession | None = None,
    index: SnapshotIndex | None = None,
) -> TestPlan:
    """Plan a test from the past of its metrics.

    until: outcomes up to this moment are known; None: the test's start, or now if that is earlier
    spark, index, storage: for metrics that are queries, see `outcome_batches`

    Raises AbTestError where the past is too short or says nothing.
    """
    now = datetime.now(UTC)
    moment = until or (now if test.start is None else min(test.start, now))
    histories = {}
    for name, metric in test.metrics.items():
        batches = outcome_batches(test, metric, (test.unit, *metric.columns), storage, spark, index)
        with collect_outcomes(test, name, batches, None, moment) as outcomes:
            histories[name] = metric_history(name, metric, outcomes, moment)
    return plan_test(test, histories)


@contextmanager
def _exposures(test: AbTest, storage: Storage, until: datetime) -> Iterator[UnitRows]:
    with collect_exposures(test, _reader(test, storage, until, EXPOSURE_COLUMNS)) as rows:
        yield rows


def _reader(test: AbTest, storage: Storage, until: datetime, columns: Sequence[str]) -> pa.RecordBatchReader:
    """Read the exposures of the time in which units enter, up to a moment."""
    if test.start is not None and until <= test.start:
        raise AbTestError.because(f"test '{test.name}' starts at {test.start:%F %R} UTC: it has no units yet")
    last = until if test.end is None else min(test.end, until)
    return read_exposures(storage, test.name, test.start, last, columns=columns)

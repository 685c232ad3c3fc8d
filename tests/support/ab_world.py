"""A small A/B test whose truth is known: units, what they were shown, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ab_tests.declaration import AbTest, Cell
from delorean.ab_tests.exposed_units import collect_exposures
from delorean.ab_tests.look_moments import TestData
from delorean.ab_tests.metrics import MetricSpec
from delorean.ab_tests.outcomes import collect_outcomes
from delorean.ab_tests.plan_spec import PlanSpec
from schemas.tables import TIME
from schemas.times import to_micros
from snapshotter.storage.table_source import TableSource

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 10
CELLS = {"control": Cell(0.5, "registry:production"), "candidate": Cell(0.5, "packages/new")}
HOURS = MetricSpec(within=2 * DAY, table="plays", before=7 * DAY)


def declared(**changes: Any) -> AbTest:
    """A test of two cells in which units enter for ten days."""
    fields = {
        "name": "homepage-2",
        "unit": "profile_id",
        "cells": CELLS,
        "metrics": {"hours": HOURS},
        "plan": PlanSpec(effect=0.1),
        "start": START,
        "end": START + DAYS * DAY,
        "tables": {"plays": TableSource("plays.parquet")},
        **changes,
    }
    return AbTest(**fields)


@dataclass(frozen=True)
class World:
    """Exposures and outcomes.

    units, first, cells: of each unit that entered
    exposures: with the columns of the log that an analysis reads
    outcomes: profile_id, outcome_at, value
    """

    units: NDArray[np.int64]
    first: NDArray[np.int64]
    cells: NDArray[np.int16]
    exposures: pa.Table
    outcomes: pa.Table

    def data(self, test: AbTest, at: datetime, rows_in_memory: int = 1 << 30, batch_rows: int = 997) -> TestData:
        """What an analysis at a moment reads."""
        seen = self.exposures.filter(pa.compute.less(self.exposures["time"], pa.scalar(at, TIME)))
        exposures = collect_exposures(test, seen.to_batches(batch_rows), rows_in_memory)
        outcomes = {
            name: collect_outcomes(test, name, self.outcomes.to_batches(batch_rows), None, at, rows_in_memory)
            for name in test.metrics
        }
        return TestData(exposures, outcomes)


def world(test: AbTest, count: int = 4_000, effect: float = 0.0, seed: int = 0, repeats: int = 3) -> World:
    """Simulate units that enter evenly, see several rankings, and play more in other cells than the control.

    effect: the relative change of the sum of outcomes in cells other than the first
    """
    random = np.random.default_rng(seed)
    units = np.arange(count)
    cells = test.allocate(pa.table({test.unit: units}))
    units, cells = units[cells >= 0], cells[cells >= 0]
    begin, micros_of_day = to_micros(START), DAY // timedelta(microseconds=1)
    first = begin + (random.random(len(units)) * DAYS * micros_of_day).astype(np.int64)
    again = np.repeat(np.arange(len(units)), repeats)
    later = first[again] + (random.random(len(again)) * micros_of_day).astype(np.int64)
    later[::repeats] = first
    taste = random.gamma(2.0, 1.0, len(units))
    plays = 12
    at = first[:, np.newaxis] + (random.uniform(-8, 3, (len(units), plays)) * micros_of_day).astype(np.int64)
    value = random.exponential(taste[:, np.newaxis], (len(units), plays))
    value[(at > first[:, np.newaxis]) & (cells > 0)[:, np.newaxis]] *= 1 + effect
    names = list(test.cells)
    exposures = exposure_table(units[again], [names[cell] for cell in cells[again]], later)
    outcomes = pa.table(
        {
            "profile_id": np.repeat(units, plays),
            "outcome_at": pa.array(at.ravel(), pa.int64()).cast(TIME),
            "value": value.ravel(),
        }
    )
    shuffled = random.permutation(len(later))
    return World(units, first, cells, exposures.take(shuffled), outcomes.take(random.permutation(outcomes.num_rows)))


def exposure_table(units: Sequence[Any] | NDArray[Any], cells: Sequence[str | None], micros: Any) -> pa.Table:
    """Exposures with the columns that an analysis reads."""
    context = pa.StructArray.from_arrays([pa.array(units)], ["profile_id"])
    times = pa.array(micros, pa.int64()).cast(TIME)
    return pa.table({"time": times, "cell": pa.array(cells, pa.string()), "context": context})

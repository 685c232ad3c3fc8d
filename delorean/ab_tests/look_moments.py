"""Moments of a test's metrics by cell and look, in one pass over its units, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.exposed_units import ExposedUnits, exposed_units
from delorean.ab_tests.looks import Look
from delorean.ab_tests.metrics import MetricSpec
from delorean.ab_tests.moments import PAST_VALUE, VALUE, Moments
from delorean.ab_tests.unit_rows import UnitRows, parts_of
from delorean.ab_tests.unit_values import unit_values
from delorean.quantiles import bin_columns, quantiles, sum_bins
from schemas.times import to_micros


@dataclass(frozen=True)
class TestData:
    """What was shown and what came of it, as rows of units.

    exposures: see `collect_exposures`
    outcomes: of each metric, see `collect_outcomes`
    """

    __test__ = False  # it is no test of pytest's

    exposures: UnitRows
    outcomes: Mapping[str, UnitRows]

    def parts(self) -> Iterator[tuple[ExposedUnits, dict[str, pa.Table]]]:
        """Yield units part by part, with the outcomes of each metric."""
        for exposures, *outcomes in parts_of([self.exposures, *self.outcomes.values()]):
            yield exposed_units(exposures), dict(zip(self.outcomes, outcomes, strict=True))


def look_moments(test: AbTest, data: TestData, looks: Sequence[Look]) -> dict[str, Moments]:
    """Return for each metric the moments of all units that each look analyses, (cells, looks).

    A unit is analysed from the first look on at which its outcomes are complete. Units that saw several cells, and
    those that entered before the start or after the end, are not.
    """
    shape = len(test.cells), len(looks)
    caps = _caps(test, data, looks)
    sums = {name: Moments.none(shape[0] * shape[1]) for name in test.metrics}
    for exposed, outcomes in data.parts():
        for name, metric in test.metrics.items():
            first_look = _first_look(test, exposed, metric, looks)
            chosen = first_look < len(looks)
            values = unit_values(exposed, outcomes[name], metric)[chosen]
            for variable, cap in caps.get(name, {}).items():
                values[:, variable] = np.minimum(values[:, variable], cap)
            groups = exposed.cells[chosen] * len(looks) + first_look[chosen]
            sums[name] = sums[name] + Moments.of(values, groups, shape[0] * shape[1])
    return {name: each.reshape(*shape).cumulative() for name, each in sums.items()}


def _first_look(test: AbTest, exposed: ExposedUnits, metric: MetricSpec, looks: Sequence[Look]) -> NDArray[np.int64]:
    """Return the index of the first look that analyses each unit; the number of looks where none does."""
    assert test.start is not None
    assert test.end is not None
    entered = [to_micros(look.entered_before(metric)) for look in looks]
    first = np.searchsorted(entered, exposed.first, side="left").astype(np.int64)
    outside = exposed.mixed | (exposed.first < to_micros(test.start)) | (exposed.first >= to_micros(test.end))
    return np.where(outside, len(looks), first)


def _caps(test: AbTest, data: TestData, looks: Sequence[Look]) -> dict[str, dict[int, float]]:
    """Return the values beyond which units of winsorised metrics are cut, the same for all cells and looks."""
    counted = {name: metric for name, metric in test.metrics.items() if metric.winsorise is not None}
    bins: dict[tuple[str, int], pa.Table] = {}
    for exposed, outcomes in data.parts() if counted else ():
        for name, metric in counted.items():
            chosen = _first_look(test, exposed, metric, looks) < len(looks)
            values = unit_values(exposed, outcomes[name], metric)[chosen]
            for variable in (VALUE, PAST_VALUE):
                new = pa.table(bin_columns(values[:, variable]))
                key = name, variable
                bins[key] = sum_bins(pa.concat_tables([bins[key], new]) if key in bins else new)
    caps: dict[str, dict[int, float]] = {}
    for (name, variable), counts in bins.items():
        if counts.num_rows:
            caps.setdefault(name, {})[variable] = quantiles(counts, [counted[name].winsorise or 1.0])[0]
    return caps

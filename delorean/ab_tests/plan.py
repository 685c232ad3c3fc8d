"""Plans a test from the past of its metrics: size, duration, and what each look can see.

The candidate's values are taken to grow with the effect, and their deviation with them, as where everybody plays more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.effects import explained_share, mean_of, variance_of_one
from delorean.ab_tests.history import DAY, MetricHistory
from delorean.ab_tests.power import PlannedBounds, effect_found, planned_bounds, units_needed, with_effect
from schemas.errors import AbTestError
from schemas.plain_text import plain_text

_FEWEST = 100  # units in a history: fewer say too little of a variance
_EFFECTS = (0.5, 1.0, 1.5, 2.0)  # of the planned effect, for which the duration is shown


@dataclass(frozen=True)
class PlannedLook:
    """A planned look. at: None where the test has no start; change: the relative change that reaches the boundary."""

    number: int
    at: datetime | None
    units: int
    fraction: float
    bound: float | None
    change: float | None


@dataclass(frozen=True)
class MetricPlan:
    """What the past says of a metric.

    mean, deviation: of one unit's value, the deviation after the adjustment by the past
    explained: the share of the variance that the past explains
    units: number of units in the history
    finds: the relative change that the test finds with its power
    """

    metric: str
    mean: float
    deviation: float
    explained: float
    units: int
    finds: float


@dataclass(frozen=True)
class TestPlan:
    """The size and duration of a test.

    units: of the test that it needs, in all cells
    days: in which they enter; None: they never do at the rate of the last week
    end: of entering, if the test has a start
    ends: when the last look may be taken
    inflation: of the number of units by the looks, over one look at the end
    arrivals: units of the test a day, on average over `days`
    other_effects: relative effect → days that finding it would take
    """

    __test__ = False  # it is no test of pytest's

    test: str
    design: str
    power: float
    alpha: float
    effect: float
    units: int
    days: int | None
    end: datetime | None
    ends: datetime | None
    inflation: float
    arrivals: float
    looks: tuple[PlannedLook, ...]
    metrics: tuple[MetricPlan, ...]
    other_effects: Mapping[str, int | None]

    def __repr__(self) -> str:
        """One line for people."""
        time = "more time than units arrive in" if self.days is None else f"{self.days} days"
        return plain_text(f"test {self.test}: {self.units:,} units, {time}, to find {self.effect:+.1%}")

    @property
    def toml(self) -> str:
        """What to write into the test's file."""
        end = "" if self.end is None else f"end = {self.end:%Y-%m-%dT%H:%M:%SZ}\n\n"
        return f"{end}[plan]\nunits = {self.units}"


def plan_test(test: AbTest, histories: Mapping[str, MetricHistory]) -> TestPlan:
    """Plan a test.

    histories: of all metrics, see `metric_history`

    Raises AbTestError for a test without metrics or candidates, and for a deciding metric that is always 0 or constant.
    """
    if not test.metrics:
        raise AbTestError.because(f"test '{test.name}' has no metric", "add [metrics.NAME]: the first decides")
    cells = {name: cell.share for name, cell in test.cells.items() if cell.interleave is None}
    candidates = [name for name in cells if name != test.control]
    if not candidates:
        raise AbTestError.because(f"test '{test.name}' has no candidate beside its control", "add a cell")
    for name in test.metrics:
        _check(name, histories[name])
    deciding, *guardrails = test.metrics
    size = _Size(histories[deciding], (cells[test.control], min(cells[name] for name in candidates)), test.share)
    alpha, days = test.plan.alpha / len(candidates), 14
    for _ in range(3):  # daily looks and the duration depend on one another
        bounds = planned_bounds(test.plan, alpha, days)
        units = size.units(bounds.drift, test.plan.effect)
        found = size.days(units)
        days = found or days
    drifts = {deciding: bounds.drift}
    if guardrails:
        guarding = planned_bounds(test.plan, alpha / len(guardrails), days).drift
        drifts |= dict.fromkeys(guardrails, guarding)
    end = None if test.start is None or found is None else test.start + found * DAY
    matures = test.metrics[deciding].matures
    effects = [test.plan.effect * factor for factor in _EFFECTS]
    return TestPlan(
        test=test.name,
        design=test.plan.design,
        power=test.plan.power,
        alpha=test.plan.alpha,
        effect=test.plan.effect,
        units=units,
        days=found,
        end=end,
        ends=None if end is None else end + matures,
        inflation=bounds.inflation,
        arrivals=units / found if found else size.arrivals,
        looks=_looks(test.start, bounds, size, units, found, matures),
        metrics=tuple(
            _metric_plan(name, _Size(histories[name], size.shares, test.share), drift, units)
            for name, drift in drifts.items()
        ),
        other_effects={f"{each:+.2%}": size.days(size.units(bounds.drift, each)) for each in effects},
    )


@dataclass(frozen=True)
class _Size:
    """How many units a metric needs.

    shares: of the control and of the smallest candidate, of the test's units
    entering: the share of all units that are in the test
    """

    history: MetricHistory
    shares: tuple[float, float]
    entering: float

    @property
    def mean(self) -> float:
        return float(mean_of(self.history.moments))

    @property
    def variance(self) -> float:
        return float(variance_of_one(self.history.moments))

    @property
    def arrivals(self) -> float:
        """Units of the test a day."""
        return float(self.history.arrivals[-1]) / len(self.history.arrivals) * self.entering

    def units(self, drift: float, effect: float) -> int:
        """Number of units of the test with which an effect has a drift."""
        return units_needed(drift, effect, self.mean, with_effect(self.variance, effect), self.shares)

    def days(self, units: float) -> int | None:
        """Days in which units of the test enter."""
        return self.history.days_until(units / self.entering)

    def found(self, drift: float, units: float) -> float:
        """The relative effect that has a drift with a number of units."""
        return effect_found(drift, units, self.mean, self.variance, self.shares)


def _check(name: str, history: MetricHistory) -> None:
    mean, variance = float(mean_of(history.moments)), float(variance_of_one(history.moments))
    if history.moments.count < _FEWEST:
        raise AbTestError.because(
            f"metric '{name}' has {int(history.moments.count)} units in its history, expected at least {_FEWEST}",
            "let the query return more outcomes",
        )
    if not mean > 0 or not variance > 0:
        raise AbTestError.because(
            f"metric '{name}' has the mean {mean:.4g} and the variance {variance:.4g} in its history: a relative "
            "effect needs both above 0",
            "measure something that varies between units",
        )


def _metric_plan(name: str, size: _Size, drift: float, units: int) -> MetricPlan:
    moments = size.history.moments
    return MetricPlan(
        name,
        size.mean,
        math.sqrt(size.variance),
        float(explained_share(moments)),
        int(moments.count),
        size.found(drift, units),
    )


def _looks(
    start: datetime | None, bounds: PlannedBounds, size: _Size, units: int, days: int | None, matures: timedelta
) -> tuple[PlannedLook, ...]:
    looks = []
    for number, (fraction, bound) in enumerate(zip(bounds.fractions.tolist(), bounds.bounds.tolist(), strict=True), 1):
        at = None if start is None or days is None else start + days * DAY * fraction + matures
        finite = bound if math.isfinite(bound) else None
        change = None if finite is None else size.found(finite, units * fraction)
        looks.append(PlannedLook(number, at, round(units * fraction), fraction, finite, change))
    return tuple(looks)

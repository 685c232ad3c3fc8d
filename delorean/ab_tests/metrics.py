"""What an A/B test measures: outcomes of units, and how they become one number for each unit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from delorean.labels.column_types import TimeUnit
from schemas.errors import ConfigError

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricSpec:
    """One metric of a test. The first metric decides; the others are guardrails.

    A unit's value is the sum of its outcomes after its first exposure and up to `within` later; 0 without outcomes. An
    outcome counts from the time at which it became known, as a label does.

    query: Spark SQL over `[tables]`, with the unit and the columns below
    table: one of `[tables]` instead, in Parquet, Delta or Iceberg, which is read without Spark
    within: how long after its first exposure a unit's outcomes count; a unit is analysed once that time is over
    delay: how much later outcomes may still arrive: a unit is analysed this much later
    before: how long before its first exposure outcomes of the same query predict a unit's value, which narrows the
        interval (CUPED, Deng et al. 2013); 0: they are not used
    time, value: columns of the outcomes; without `value` each row counts 1
    denominator: a column, for a ratio of two sums over units, such as starts per view (delta method, Deng et al. 2018)
    time_unit: of a time column of integers or dates, as in label data
    per_unit: "sum" of the values, or "any": 1 where it is above 0, else 0
    better: which direction is an improvement
    margin: the relative loss that is tolerated; None: that of the plan's effect
    winsorise: values beyond this quantile of all units' values, such as 0.999, are set to it; None: none are
    """

    within: timedelta
    query: str | None = None
    table: str | None = None
    delay: timedelta = timedelta(0)
    before: timedelta | None = None
    time: str = "outcome_at"
    value: str | None = "value"
    denominator: str | None = None
    time_unit: TimeUnit | None = None
    per_unit: Literal["sum", "any"] = "sum"
    better: Better = "higher"
    margin: float | None = None
    winsorise: float | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        if (self.query is None) == (self.table is None):
            raise ConfigError.because("a metric needs either a query or a table", 'write query = "SELECT …"')
        if self.within <= timedelta(0):
            raise ConfigError.because(f"within is {self.within}, expected a duration above 0", 'write within = "P7D"')
        for name in ("delay", "before"):
            duration = getattr(self, name)
            if duration is not None and duration < timedelta(0):
                raise ConfigError.because(f"{name} is {duration}, expected a duration of 0 or more")
        if self.margin is not None and not 0 < self.margin < 1:
            raise ConfigError.because(
                f"margin is {self.margin}, expected the tolerated relative loss, between 0 and 1", "write margin = 0.01"
            )
        if self.winsorise is not None and not 0.5 < self.winsorise < 1:
            raise ConfigError.because(f"winsorise is {self.winsorise}, expected a quantile such as 0.999")
        if self.per_unit == "any" and self.denominator is not None:
            raise ConfigError.because('per_unit is "any", which a ratio of two sums cannot be', "leave one out")

    @property
    def history(self) -> timedelta:
        """How long before the first exposure outcomes are read."""
        return self.within if self.before is None else self.before

    @property
    def matures(self) -> timedelta:
        """How long after its first exposure a unit is analysed."""
        return self.within + self.delay

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the outcomes, besides the unit."""
        return tuple(name for name in (self.time, self.value, self.denominator) if name is not None)


@dataclass(frozen=True)
class InterleavingSpec:
    """How the items of interleaved rankings earn credit.

    query, table: the clicks or starts: rows of the unit, the item and a time, see `MetricSpec`
    item: the item's column, an item variable of the exposures
    within: how long after it was shown an item can earn credit; a row belongs to the latest request that showed it
    time, time_unit: see `MetricSpec`
    """

    item: str
    within: timedelta
    query: str | None = None
    table: str | None = None
    time: str = "outcome_at"
    time_unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be credited."""
        if (self.query is None) == (self.table is None):
            raise ConfigError.because("credit needs either a query or a table", 'write query = "SELECT …"')
        if self.within <= timedelta(0):
            raise ConfigError.because(f"within is {self.within}, expected a duration above 0", 'write within = "PT1H"')

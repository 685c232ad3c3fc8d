"""A metric's own past: how units would have entered a test, and how their values would have varied."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ab_tests.exposed_units import ExposedUnits
from delorean.ab_tests.metrics import MetricSpec
from delorean.ab_tests.moments import Moments
from delorean.ab_tests.unit_rows import UNIT, UnitRows, parts_of
from delorean.ab_tests.unit_values import unit_values
from schemas.errors import AbTestError
from schemas.times import from_micros, to_micros

DAY = timedelta(days=1)
_WEEK = 7 * DAY
_LONGEST = 8 * _WEEK
_MICROS_OF_DAY = DAY // timedelta(microseconds=1)


@dataclass(frozen=True)
class MetricHistory:
    """What a metric's past says of a test.

    moments: of units that would have entered, one group
    arrivals: number of units that would have entered by the end of each day
    """

    moments: Moments
    arrivals: NDArray[np.int64]

    def days_until(self, units: float) -> int | None:
        """Return after how many days a number of units has entered; beyond the history at the rate of its last week.

        None: never, for no units entered in that week.
        """
        if units <= self.arrivals[-1]:
            return int(np.searchsorted(self.arrivals, units)) + 1
        rate = float(self.arrivals[-1] - self.arrivals[-8 if len(self.arrivals) > 7 else 0]) / min(
            7, max(1, len(self.arrivals) - 1)
        )
        return None if rate <= 0 else len(self.arrivals) + int(np.ceil((units - self.arrivals[-1]) / rate))


def metric_history(name: str, metric: MetricSpec, outcomes: UnitRows, until: datetime) -> MetricHistory:
    """Let a test take place in the past: units enter with the first outcome of its time.

    Values are those after that outcome, and before it, as in the test. The time in which units enter ends early enough
    for their outcomes to be complete, and is at most eight weeks.

    outcomes: all up to a moment, see `collect_outcomes`

    Raises AbTestError where the past is too short: it says how long it must be.
    """
    first = min((_earliest(part) for (part,) in parts_of([outcomes]) if part.num_rows), default=None)
    needed = metric.history + metric.matures + _WEEK
    length = timedelta(0) if first is None else until - from_micros(first)
    if length < needed:
        raise AbTestError.because(
            f"metric '{name}' has {length / DAY:.1f} days of history, but a power calculation needs "
            f"{needed / DAY:.1f}: {metric.history / DAY:.1f} before units enter, 7 in which they enter, and "
            f"{metric.matures / DAY:.1f} of their outcomes",
            "wait, shorten within or before, or let the query return older outcomes",
        )
    entering = min(length - metric.history - metric.matures, _LONGEST) // DAY * DAY
    ends = until - metric.matures
    starts = ends - entering
    moments, arrivals = Moments.none(1), np.zeros(entering // DAY, np.int64)
    for (part,) in parts_of([outcomes]):
        entered = _entered(part, to_micros(starts), to_micros(ends))
        if len(entered.units):
            moments = moments + Moments.of(unit_values(entered, part, metric), entered.cells, 1)
            days = (entered.first - to_micros(starts)) // _MICROS_OF_DAY
            arrivals += np.bincount(days, minlength=len(arrivals))
    return MetricHistory(moments[0], np.cumsum(arrivals))


def _earliest(rows: pa.Table) -> int:
    return int(pc.min(rows["at"]).as_py())


def _entered(rows: pa.Table, starts: int, ends: int) -> ExposedUnits:
    """Return the units with an outcome in a span, which enter with the first of them."""
    at = rows["at"].to_numpy()
    inside = rows.filter(pa.array((at >= starts) & (at < ends)))
    grouped = inside.group_by([UNIT], use_threads=False).aggregate([("at", "min")]).combine_chunks()
    units = grouped[UNIT].combine_chunks()
    units = pa.concat_arrays(units.chunks) if isinstance(units, pa.ChunkedArray) else units
    none = np.zeros(len(units), np.int64)
    return ExposedUnits(units, grouped["at_min"].to_numpy(), none, none, none.astype(bool))

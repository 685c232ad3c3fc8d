"""The values of units: sums of their outcomes after, and before, their first exposures."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ab_tests.exposed_units import ExposedUnits
from delorean.ab_tests.metrics import MetricSpec
from delorean.ab_tests.moments import DENOMINATOR, PAST_DENOMINATOR, PAST_VALUE, VALUE, VARIABLES
from delorean.ab_tests.unit_rows import UNIT
from schemas.errors import AbTestError

_MICROSECOND = timedelta(microseconds=1)


def unit_values(exposed: ExposedUnits, outcomes: pa.Table, metric: MetricSpec) -> NDArray[np.float64]:
    """Return (units, variables): each unit's sums over outcomes within its window, and over those before.

    An outcome after the first exposure and up to `within` later counts once, however often the unit was exposed. One at
    the very moment of the exposure was known before it.

    outcomes: rows with unit, at, value and denominator, see `collect_outcomes`
    """
    values = np.zeros((len(exposed.units), VARIABLES))
    if outcomes.num_rows and len(exposed.units):
        if outcomes[UNIT].type != exposed.units.type:
            raise AbTestError.because(
                f"units are {outcomes[UNIT].type} in the outcomes, but {exposed.units.type} in the exposures",
                "cast them to one type in the query",
            )
        places = pc.index_in(outcomes[UNIT], value_set=exposed.units)
        known = pc.is_valid(places).to_numpy()
        units = places.filter(pa.array(known)).to_numpy().astype(np.int64)
        at = outcomes["at"].to_numpy()[known] - exposed.first[units]
        after = (at > 0) & (at <= metric.within // _MICROSECOND)
        before = (at <= 0) & (at > -(metric.history // _MICROSECOND))
        for chosen, value, denominator in ((after, VALUE, DENOMINATOR), (before, PAST_VALUE, PAST_DENOMINATOR)):
            for name, variable in (("value", value), ("denominator", denominator)):
                weights = outcomes[name].to_numpy()[known][chosen]
                values[:, variable] = np.bincount(units[chosen], weights, len(values))
    if metric.per_unit == "any":
        values[:, VALUE] = values[:, VALUE] > 0
        values[:, PAST_VALUE] = values[:, PAST_VALUE] > 0
    if metric.denominator is None:
        values[:, DENOMINATOR] = values[:, PAST_DENOMINATOR] = 1.0
    return values

"""Analyses interleaved rankings: whose items viewers chose, by unit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest, norm

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.designs import always_valid
from delorean.ab_tests.effects import mean_of, variance_of_one
from delorean.ab_tests.interleaving import FIRST, SECOND
from delorean.ab_tests.metrics import InterleavingSpec
from delorean.ab_tests.moments import DENOMINATOR, VALUE, VARIABLES, Moments
from delorean.ab_tests.unit_rows import UNIT, UnitRows, parts_of, plain_units
from delorean.as_of.join import as_of_join
from delorean.labels.casting import Caster
from delorean.labels.column_types import check_time
from schemas.errors import AbTestError
from schemas.tables import TIME
from schemas.times import to_micros

EXPOSURE_COLUMNS = ("time", "cell", "context", "items", "team")
_FEWEST = 30  # units with credit, below which nothing is decided
_PLANNED_UNITS = 2_000  # with credit: where the interval that holds at all times is narrowest
_ITEM, _AT, _TEAM = "item", "at", "team"


class Preference(StrEnum):
    """Which of two rankings viewers prefer."""

    FIRST = "the first is preferred"
    SECOND = "the second is preferred"
    OPEN = "continue: not decided yet"


@dataclass(frozen=True)
class InterleavingResult:
    """What viewers chose from two interleaved rankings.

    requests: number of interleaved rankings
    units: that chose an item with credit
    first_credit, second_credit: number of chosen items, each counted once for a request
    preference: (first − second) / (first + second), with an interval that holds at all times together
    units_first, units_second: units with more credit for one side; p: of the sign test on them, for one look only
    requests_needed: about so many show a preference of this size with the plan's power; None: no preference
    """

    cell: str
    first: str
    second: str
    requests: int
    units: int
    first_credit: int
    second_credit: int
    preference: float | None
    low: float | None
    high: float | None
    units_first: int
    units_second: int
    p: float
    requests_needed: int | None
    verdict: Preference


@dataclass(frozen=True)
class InterleavingAnalysis:
    """All interleaving cells of a test. at: the moment of the analysis."""

    test: str
    at: datetime
    level: float
    cells: tuple[InterleavingResult, ...]

    def __repr__(self) -> str:
        """One line for people."""
        verdicts = "; ".join(f"{each.first} or {each.second}: {each.verdict}" for each in self.cells)
        return f"interleaving of test {self.test}: {verdicts}"


@dataclass(frozen=True)
class ShownItems:
    """Items of one cell's interleaved rankings, as rows of units: unit, item, at, team. requests: their number."""

    rows: UnitRows
    requests: int


def collect_shown(test: AbTest, cell: str, batches: Iterable[pa.RecordBatch]) -> ShownItems:
    """Read the items that a cell's interleaved rankings have shown. batches: with `EXPOSURE_COLUMNS`.

    Raises AbTestError where the unit or the item is unknown, or there are none.
    """
    spec = _spec(test)
    rows, requests = None, 0
    for batch in batches:
        chosen = batch.filter(pc.fill_null(pc.equal(batch["cell"], cell), False))
        items, context = chosen["items"], chosen["context"]
        for struct, name, what in ((items, spec.item, "item"), (context, test.unit, "unit")):
            if struct.type.get_field_index(name) < 0:
                known = [field.name for field in struct.type]
                raise AbTestError.unknown(f"{what} in the exposures of test '{test.name}'", name, known)
        lists, teams = pc.struct_field(items, spec.item), chosen["team"]
        requests += len(chosen) - teams.null_count
        chosen_lists = pc.and_(pc.is_valid(lists), pc.is_valid(teams))
        lists, teams = lists.filter(chosen_lists), teams.filter(chosen_lists)
        units = pc.struct_field(context, test.unit).filter(chosen_lists)
        times = chosen["time"].filter(chosen_lists)
        parents = pc.list_parent_indices(lists)
        table = pa.table(
            {
                UNIT: plain_units(pa.chunked_array([units.take(parents)]), test.unit),
                _ITEM: plain_units(pa.chunked_array([pc.list_flatten(lists)]), spec.item),
                _AT: times.take(parents),
                _TEAM: pc.list_flatten(teams),
            }
        )
        rows = rows or UnitRows(table.schema)
        rows.add(table.filter(pc.is_valid(table[UNIT])))
    if rows is None or rows.rows == 0:
        raise AbTestError.because(f"cell '{cell}' of test '{test.name}' has no interleaved exposures", "serve it first")
    return ShownItems(rows, requests)


def collect_choices(test: AbTest, batches: Iterable[pa.RecordBatch], until: datetime) -> UnitRows:
    """Read the items that units chose up to a moment, as rows of units: unit, item, at.

    Raises AbTestError and NaiveTimeError for columns that are missing or have other types.
    """
    spec, of = _spec(test), "the outcomes of interleaving"
    schema = pa.schema([(UNIT, pa.int64()), (_ITEM, pa.int64()), (_AT, TIME)])
    rows: UnitRows | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        for column in (test.unit, spec.item, spec.time):
            if column not in table.column_names:
                raise AbTestError.unknown(f"column of {of}", column, table.column_names)
        check_time(spec.time, table.schema.field(spec.time).type, spec.time_unit, of)
        plain = pa.table(
            {
                UNIT: plain_units(table[test.unit], test.unit),
                _ITEM: plain_units(table[spec.item], spec.item),
                _AT: Caster(table, time_unit=spec.time_unit).time(spec.time),
            }
        )
        known = pc.less_equal(plain[_AT], pa.scalar(to_micros(until), pa.int64()).cast(TIME))
        rows = rows or UnitRows(plain.schema)
        rows.add(plain.filter(known).drop_null())
    return rows or UnitRows(schema)


def analyse_interleaving(test: AbTest, cell: str, shown: ShownItems, choices: UnitRows) -> InterleavingResult:
    """Analyse one cell's interleaved rankings. It may be done at any time: the interval holds at all times together.

    A choice belongs to the latest ranking before it, within `within`, that showed the unit the item; an item earns its
    credit once for a ranking. Units, not requests, are independent.
    """
    interleaved = test.cells[cell].interleave
    assert interleaved is not None
    within = _spec(test).within
    moments, credit, units = Moments.none(1), np.zeros(2, np.int64), np.zeros(2, np.int64)
    for shown_part, chosen_part in parts_of([shown.rows, choices]):
        values = _credit_of_units(shown_part, chosen_part, within)
        credit += values.sum(axis=0)
        difference = values[:, FIRST] - values[:, SECOND]
        units += [int((difference > 0).sum()), int((difference < 0).sum())]
        by_unit = np.zeros((len(values), VARIABLES))
        by_unit[:, VALUE], by_unit[:, DENOMINATOR] = difference, values.sum(axis=1)
        moments = moments + Moments.of(by_unit, np.zeros(len(values), np.int64), 1)
    return _result(test, cell, interleaved, shown.requests, moments[0], credit, units)


def _result(
    test: AbTest,
    cell: str,
    names: tuple[str, str],
    requests: int,
    moments: Moments,
    credit: np.ndarray,
    units: np.ndarray,
) -> InterleavingResult:
    count = int(moments.count)
    preference = low = high = needed = None
    verdict = Preference.OPEN
    if count >= _FEWEST:
        preference = float(mean_of(moments))
        error = math.sqrt(float(variance_of_one(moments)) / count)
        bound = float(always_valid([count / _PLANNED_UNITS], test.plan.alpha)[0])
        low, high = max(-1.0, preference - bound * error), min(1.0, preference + bound * error)
        if low > 0 or high < 0:
            verdict = Preference.FIRST if low > 0 else Preference.SECOND
        if preference and error > 0:
            wanted = bound + float(norm.ppf(test.plan.power))
            needed = math.ceil(requests * (wanted * error / preference) ** 2)
    decided = int(units.sum())
    return InterleavingResult(
        cell=cell,
        first=names[0],
        second=names[1],
        requests=requests,
        units=count,
        first_credit=int(credit[FIRST]),
        second_credit=int(credit[SECOND]),
        preference=preference,
        low=low,
        high=high,
        units_first=int(units[0]),
        units_second=int(units[1]),
        p=float(binomtest(int(units[0]), decided).pvalue) if decided else 1.0,
        requests_needed=needed,
        verdict=verdict,
    )


def _credit_of_units(shown: pa.Table, choices: pa.Table, within: timedelta) -> np.ndarray:
    """Return (units with credit, 2): how many chosen items each side has the credit of."""
    if shown.num_rows == 0 or choices.num_rows == 0:
        return np.zeros((0, 2), np.int64)
    for name in (UNIT, _ITEM):
        if shown.schema.field(name).type != choices.schema.field(name).type:
            raise AbTestError.because(
                f"the {name} is {choices.schema.field(name).type} in the outcomes, but {shown.schema.field(name).type} "
                "in the exposures",
                "cast it in the query",
            )
    of_ranking = shown.append_column("shown_at", shown[_AT]).rename_columns([UNIT, _ITEM, "seen", _TEAM, "shown_at"])
    matched = as_of_join(
        choices, of_ranking, by=[UNIT, _ITEM], left_on=_AT, right_on="seen", max_age=within, allow_exact=False
    )
    credited = matched.filter(pc.fill_null(pc.greater_equal(matched[_TEAM], FIRST), False))
    once = credited.group_by([UNIT, _ITEM, "shown_at", _TEAM], use_threads=False).aggregate([])
    if once.num_rows == 0:
        return np.zeros((0, 2), np.int64)
    numbers = once[UNIT].combine_chunks().dictionary_encode().indices.to_numpy()
    side = once[_TEAM].to_numpy()
    return np.stack([np.bincount(numbers, side == each, numbers.max() + 1) for each in (FIRST, SECOND)], axis=1).astype(
        np.int64
    )


def _spec(test: AbTest) -> InterleavingSpec:
    if test.interleaving is None:
        raise AbTestError.because(
            f"test '{test.name}' interleaves, but does not say what gives credit", "add [interleaving]"
        )
    return test.interleaving

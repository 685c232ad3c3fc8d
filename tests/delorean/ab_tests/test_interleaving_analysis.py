"""Credit of interleaved rankings: each choice belongs to the latest ranking that showed it, once, within its time."""

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from ab_world import CELLS, DAY, START, declared
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from delorean.ab_tests.declaration import Cell
from delorean.ab_tests.interleaving_analysis import Preference, analyse_interleaving, collect_choices, collect_shown
from delorean.ab_tests.metrics import InterleavingSpec
from schemas.errors import AbTestError
from schemas.tables import TIME
from schemas.times import to_micros

MIXED = {
    **{name: replace(cell, share=0.1) for name, cell in CELLS.items()},
    "mixed": Cell(0.8, None, ("control", "candidate")),
}
SPEC = InterleavingSpec("video_id", timedelta(seconds=10), table="plays")
TEST = declared(cells=MIXED, interleaving=SPEC)
ZERO = to_micros(START)


def shown_table(rankings):
    """Rankings as (unit, second, items, team)."""
    units, seconds, items, teams = (list(each) for each in zip(*rankings, strict=True))
    return pa.table(
        {
            "time": pa.array([ZERO + second * 10**6 for second in seconds], pa.int64()).cast(TIME),
            "cell": ["mixed"] * len(units),
            "context": pa.StructArray.from_arrays([pa.array(units)], ["profile_id"]),
            "items": pa.StructArray.from_arrays([pa.array(items, pa.list_(pa.int64()))], ["video_id"]),
            "team": pa.array(teams, pa.list_(pa.int8())),
        }
    )


def choice_table(choices):
    units, items, seconds = (list(each) for each in zip(*choices, strict=True)) if choices else ([], [], [])
    at = pa.array([ZERO + second * 10**6 for second in seconds], pa.int64()).cast(TIME)
    return pa.table(
        {"profile_id": pa.array(units, pa.int64()), "video_id": pa.array(items, pa.int64()), "outcome_at": at}
    )


def analysed(rankings, choices, test=TEST):
    shown = collect_shown(test, "mixed", shown_table(rankings).to_batches(3))
    return analyse_interleaving(
        test, "mixed", shown, collect_choices(test, choice_table(choices).to_batches(2), START + DAY)
    )


RANKINGS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 30),
        st.permutations(range(4)).map(lambda items: items[:3]),
        st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: (row[0], row[1]),
)
CHOICES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 40)), max_size=12)


@given(RANKINGS, CHOICES)
@settings(max_examples=80)
def test_credit_agrees_with_its_definition(rankings, choices):
    credit = defaultdict(set)
    for unit, item, at in choices:
        fitting = [row for row in rankings if row[0] == unit and item in row[2] and 0 < at - row[1] <= 10]
        if fitting:
            latest = max(fitting, key=lambda row: row[1])
            side = latest[3][latest[2].index(item)]
            if side >= 0:
                credit[unit, side].add((latest[1], item))
    found = analysed(rankings, choices)
    totals = [sum(len(each) for (_, side), each in credit.items() if side == wanted) for wanted in (0, 1)]
    assert (found.first_credit, found.second_credit) == tuple(totals)
    differences = [len(credit[unit, 0]) - len(credit[unit, 1]) for unit in {unit for unit, _ in credit}]
    assert found.units_first == sum(each > 0 for each in differences)
    assert found.units_second == sum(each < 0 for each in differences)
    assert found.requests == len(rankings)


def many(preferred, units=400, seed=0):
    """Each unit sees three rankings of two items and chooses one; the first side's with a probability."""
    random = np.random.default_rng(seed)
    rankings, choices = [], []
    for unit in range(units):
        for second in (0, 100, 200):
            rankings.append((unit, second, [1, 2], [0, 1]))
            choices.append((unit, 1 if random.random() < preferred else 2, second + 1))
    return analysed(rankings, choices)


def test_a_clear_preference_is_decided():
    assert many(0.65).verdict is Preference.FIRST
    assert many(0.35).verdict is Preference.SECOND
    found = many(0.65)
    assert found.preference == pytest.approx(0.3, abs=0.06)
    assert 0 < found.low < found.preference < found.high
    assert found.p == pytest.approx(binomtest(found.units_first, found.units_first + found.units_second).pvalue)
    assert found.requests_needed < found.requests


def test_without_a_preference_it_stays_open_and_says_how_many_requests_are_needed():
    found = many(0.5)
    assert found.verdict is Preference.OPEN
    assert found.low < 0 < found.high
    assert found.requests_needed > found.requests


def test_repeated_requests_of_one_unit_count_as_one_witness():
    rankings = [(0, second * 20, [1, 2], [0, 1]) for second in range(500)]
    found = analysed(rankings, [(0, 1, second * 20 + 1) for second in range(500)])
    assert found.first_credit == 500
    assert (found.units, found.verdict, found.low) == (1, Preference.OPEN, None)


def test_exposures_without_interleaving_or_the_item_are_refused():
    table = shown_table([(1, 0, [1], [0])])
    with pytest.raises(AbTestError, match="cell 'control' of test 'homepage-2' has no interleaved exposures"):
        collect_shown(TEST, "control", table.to_batches())
    with pytest.raises(AbTestError, match="unknown item in the exposures of test 'homepage-2' 'video'"):
        collect_shown(replace(TEST, interleaving=replace(SPEC, item="video")), "mixed", table.to_batches())
    with pytest.raises(AbTestError, match=r"add \[interleaving\]"):
        collect_shown(replace(TEST, interleaving=None), "mixed", table.to_batches())

"""Interleaved rankings are fair: clicks that ignore the items prefer neither side, at any place, for any rankings."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.ab_tests.interleaving import FIRST, METHODS, NEITHER, SECOND, balanced, team_draft

SEEDS = range(512)
RANKINGS = st.permutations(range(6)).map(np.array)


def lists(method, first, second, k):
    """Each possible result with its frequency over many seeds."""
    results = [method(np.array(first), np.array(second), seed, k) for seed in SEEDS]
    found, counts = np.unique([[*order, *team] for order, team in results], axis=0, return_counts=True)
    return [
        (row[: len(row) // 2], row[len(row) // 2 :], count / len(SEEDS))
        for row, count in zip(found, counts, strict=True)
    ]


def credit(team):
    return np.where(team == FIRST, 1, np.where(team == SECOND, -1, 0))


@pytest.mark.parametrize("second", list(permutations(range(4))))
def test_balanced_credit_cancels_out_at_every_place(second):
    results = {tuple(order): team for order, team, _ in lists(balanced, range(4), second, 4)}
    # Two lists, equally probable: their mean credit is 0 place by place, whatever the places are worth.
    mean = np.mean([credit(results[order]) for order in results], axis=0)
    assert len(results) <= 2
    assert (mean == 0).all()


def test_joachims_own_credit_would_be_biased():
    # Chapelle et al. (2012): items that differ by a shift. Credit by the ranks of the clicked item prefers one side.
    first, second = [0, 1, 2, 3], [1, 2, 3, 0]
    preferred = []
    for order, _, _ in lists(balanced, first, second, 4):
        for item in order:  # one click on a random place
            # Joachims' rule: the list up to the smallest depth that contains the click; more clicks there win
            depth = min(first.index(item), second.index(item)) + 1
            preferred.append((item in first[:depth]) - (item in second[:depth]))
    assert np.mean(preferred) != 0


@given(RANKINGS, RANKINGS, st.integers(1, 6))
def test_team_draft_gives_both_sides_each_place_alike(first, second, k):
    mean = sum(credit(team) * share for _, team, share in lists(team_draft, first, second, k))
    assert np.abs(mean).max() < 0.16  # 3.6 standard deviations of 512 coins


@pytest.mark.parametrize("method", METHODS.values())
@given(first=RANKINGS, second=RANKINGS, seed=st.integers(-(2**63), 2**64), k=st.integers(0, 8))
def test_a_merged_list_has_each_item_once_and_repeats_by_its_seed(method, first, second, seed, k):
    order, team = method(first, second, seed, k)
    assert sorted(order) == sorted(set(order.tolist()))
    assert len(order) == len(team) == min(k, 6)
    assert {*order} <= {*first}
    assert [each.tolist() for each in method(first, second, seed, k)] == [order.tolist(), team.tolist()]


@pytest.mark.parametrize("method", METHODS.values())
def test_equal_rankings_earn_no_credit(method):
    order, team = method(np.arange(5), np.arange(5), 3, 5)
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert (team == NEITHER).all()


@pytest.mark.parametrize("method", METHODS.values())
@given(
    first=st.permutations(range(4)), second=st.lists(st.integers(0, 9), max_size=4, unique=True), k=st.integers(1, 9)
)
def test_rankings_of_different_items_are_merged(method, first, second, k):
    order, team = method(np.array(first, int), np.array(second, int), 1, k)
    assert {*order.tolist()} <= {*first, *second}
    assert len(set(order.tolist())) == len(order) == len(team) == min(k, len({*first, *second}))


@pytest.mark.parametrize("method", METHODS.values())
def test_a_click_on_what_only_one_side_wants_is_its_credit(method):
    for seed in range(20):
        order, team = method(np.array([7, 1, 2, 3]), np.array([1, 2, 3, 7]), seed, 2)
        assert [side for item, side in zip(order, team, strict=True) if item == 7] in ([FIRST], [])

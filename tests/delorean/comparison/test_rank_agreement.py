from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kendalltau

from delorean.comparison.rank_agreement import rank_agreement

# Few values, so that there are ties; and those that compare in their own ways.
score = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf])
pair = st.lists(st.tuples(score, score), max_size=9)


def arrays(
    contexts: list[list[tuple[float, float]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    flat = [each for context in contexts for each in context]
    offsets = np.cumsum([0, *(len(context) for context in contexts)])
    return np.float32([a for a, _ in flat]), np.float32([b for _, b in flat]), offsets  # type: ignore[return-value]


def overlap_by_definition(context: list[tuple[float, float]], p: float) -> float:
    """Equation 32 of Webber et al. (2010) with the agreement of their section 4.4 for ties, term by term."""
    n = len(context)

    def until(side: int, depth: int) -> set[int]:
        better = [sum(other[side] > each[side] for other in context) for each in context]
        return {i for i in range(n) if better[i] + 1 <= depth}

    def agreement(depth: int) -> float:
        one, other = until(0, depth), until(1, depth)
        return 2 * len(one & other) / (len(one) + len(other))

    return agreement(n) * p**n + (1 - p) / p * sum(agreement(d) * p**d for d in range(1, n + 1))


@settings(max_examples=300)
@given(st.lists(pair, min_size=1, max_size=4), st.sampled_from([0.5, 0.9, 0.98]))
def test_overlap_is_that_of_its_definition(contexts: list[list[tuple[float, float]]], p: float) -> None:
    overlap = rank_agreement(*arrays(contexts), persistence=p).overlap
    for value, context in zip(overlap, contexts, strict=True):
        if context:
            assert value == pytest.approx(overlap_by_definition(context, p))
            assert -1e-12 <= value <= 1 + 1e-12
        else:
            assert math.isnan(value)


@settings(max_examples=300)
@given(st.lists(pair, min_size=1, max_size=4))
def test_tau_is_that_of_scipy_and_of_counting_pairs(contexts: list[list[tuple[float, float]]]) -> None:
    tau = rank_agreement(*arrays(contexts)).tau
    for value, context in zip(tau, contexts, strict=True):
        pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in combinations(finite(context), 2)]
        spread = math.prod(math.sqrt(sum(pair[side] != 0 for pair in pairs)) for side in (0, 1))
        if spread == 0:
            assert math.isnan(value)
            continue
        assert value == pytest.approx(sum(a * b for a, b in pairs) / spread)
        assert value == pytest.approx(kendalltau(*zip(*finite(context), strict=True)).statistic)


def finite(context: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Put large numbers in the place of infinite ones, which differ by nothing."""
    return [tuple(float(np.clip(value, -1e9, 1e9)) for value in each) for each in context]  # type: ignore[misc]


@settings(max_examples=200)
@given(st.lists(pair, min_size=1, max_size=4), st.integers(1, 12))
def test_first_places_are_those_that_serving_ranks(contexts: list[list[tuple[float, float]]], places: int) -> None:
    agreement = rank_agreement(*arrays(contexts), places=places)
    for i, context in enumerate(contexts):
        one, other = (sorted(range(len(context)), key=lambda row: -context[row][side])[:places] for side in (0, 1))
        shared = len(set(one) & set(other))
        assert agreement.changed[i] == pytest.approx(1 - shared / len(one) if one else 0)
        assert agreement.first_changed[i] == (one[:1] != other[:1])
        order = [[[a[side] > b[side] for a in context] for b in context] for side in (0, 1)]
        assert agreement.same[i] == (order[0] == order[1])


def test_reversed_and_equal_rankings_are_the_extremes() -> None:
    scores = np.arange(50, dtype=np.float32)
    offsets = np.array([0, 50])
    same, reverse = rank_agreement(scores, scores * 2, offsets), rank_agreement(scores, -scores, offsets)
    assert (same.overlap[0], same.tau[0], same.changed[0], same.same[0]) == (pytest.approx(1), 1, 0, True)
    assert (reverse.tau[0], reverse.changed[0], bool(reverse.first_changed[0])) == (-1, 1, True)
    assert reverse.overlap[0] < 0.05
    assert rank_agreement(scores[:1], scores[:1], np.array([0, 1])).overlap[0] == pytest.approx(1)

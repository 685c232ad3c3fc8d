"""Moments add up in any order, and the interval of a relative change agrees with its test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.ab_tests.effects import change
from delorean.ab_tests.moments import VARIABLES, Moments

SEEDS = st.integers(0, 10_000)


def units(seed, count, mean=5.0):
    """Values with a past that explains some of them, and denominators."""
    random = np.random.default_rng(seed)
    taste = random.gamma(2.0, mean / 2, count)
    columns = [taste * random.exponential(1, count), 1 + random.poisson(2, count), taste, np.ones(count)]
    return np.stack(columns, axis=1)


def whole(values):
    return Moments.of(values, np.zeros(len(values), np.int64), 1)[0]


@given(SEEDS, st.lists(st.integers(0, 30), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_parts_add_up_to_the_moments_of_all(seed, sizes, shift):
    parts = [units(seed + i, size) + shift for i, size in enumerate(sizes)]
    total = Moments.none(1)[0]
    for part in parts:
        total = total + whole(part)
    together = np.concatenate(parts)
    assert total.count == len(together)
    if len(together) > 1:
        np.testing.assert_allclose(total.mean, together.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(total.covariance, np.cov(together.T), rtol=1e-6, atol=1e-6)


@given(SEEDS, st.integers(1, 4))
def test_cumulative_moments_are_those_of_all_looks_so_far(seed, looks):
    values = units(seed, 60)
    groups = np.random.default_rng(seed).integers(0, 2 * looks, 60)
    found = Moments.of(values, groups, 2 * looks).reshape(2, looks).cumulative()
    for cell in range(2):
        for look in range(looks):
            mine = values[(groups // looks == cell) & (groups % looks <= look)]
            assert found.count[cell, look] == len(mine)
            if len(mine):
                np.testing.assert_allclose(found.mean[cell, look], mine.mean(axis=0))


@given(SEEDS, st.floats(0.5, 1.6), st.floats(0.5, 4))
def test_the_interval_excludes_zero_exactly_where_the_boundary_is_reached(seed, lift, bound):
    candidate = units(seed + 1, 200)
    candidate[:, 0] *= lift
    compared = change(whole(units(seed, 200)), whole(candidate))
    low, high = compared.interval(bound)
    if np.isfinite(low) and abs(abs(compared.z) - bound) > 1e-9:
        assert (low > 0 or high < 0) == (abs(compared.z) >= bound)
        assert low <= compared.relative <= high
        assert compared.relative == pytest.approx(float(compared.z * compared.relative_error))


def test_intervals_cover_the_truth():
    covered = []
    for seed in range(400):
        candidate = units(10_000 + seed, 300)
        candidate[:, 0] *= 1.2
        low, high = change(whole(units(seed, 300)), whole(candidate)).interval(1.959964)
        covered.append(low <= 0.2 <= high)
    assert 0.925 < np.mean(covered) < 0.975


def test_a_control_that_may_be_zero_has_no_interval():
    values = np.zeros((20, VARIABLES))
    values[:, 1] = 1.0
    values[0, 0] = 1.0  # a mean of one standard error
    low, high = change(whole(values), whole(values + np.eye(VARIABLES)[0])).interval(1.96)
    assert np.isnan(low)
    assert np.isnan(high)
    none = change(whole(values * [0, 1, 0, 0]), whole(values))
    assert np.isnan(none.relative)

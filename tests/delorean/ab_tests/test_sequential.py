"""Boundaries spend exactly alpha; they agree with published tables and with the multivariate normal distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from delorean.ab_tests.designs import always_valid, bounds_at
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.ab_tests.power import planned_bounds
from delorean.ab_tests.sequential import boundaries, crossing_probabilities, drift_for, spent, stagewise

# Jennison and Turnbull (2000), alpha 0.05: tables 2.1 and 2.3, and the inflation for power 0.8 of 2.2 and 2.4.
POCOCK = {2: (2.178, 1.110), 3: (2.289, 1.166), 5: (2.413, 1.229), 10: (2.555, 1.301)}
OBRIEN_FLEMING = {2: (1.977, 1.008), 3: (2.004, 1.017), 5: (2.040, 1.028), 10: (2.087, 1.040)}


def even(count):
    return np.arange(1, count + 1) / count


def inflation(bounds, information):
    return (drift_for(0.8, bounds, information) / (norm.isf(0.025) + norm.ppf(0.8))) ** 2


@pytest.mark.parametrize("looks", POCOCK)
def test_constant_boundaries_agree_with_the_tables(looks):
    constant, inflated = POCOCK[looks]
    above, below = crossing_probabilities([constant] * looks, even(looks))
    assert above.sum() + below.sum() == pytest.approx(0.05, abs=1e-4)
    assert inflation([constant] * looks, even(looks)) == pytest.approx(inflated, abs=1e-3)


@pytest.mark.parametrize("looks", OBRIEN_FLEMING)
def test_boundaries_of_obrien_and_fleming_agree_with_the_tables(looks):
    constant, inflated = OBRIEN_FLEMING[looks]
    bounds = constant / np.sqrt(even(looks))
    above, below = crossing_probabilities(bounds, even(looks))
    assert above.sum() + below.sum() == pytest.approx(0.05, abs=1e-4)
    assert inflation(bounds, even(looks)) == pytest.approx(inflated, abs=1e-3)


@pytest.mark.parametrize(
    ("spending", "expected"),
    [
        ("obrien-fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
        ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_spending_boundaries_agree_with_those_of_lan_and_demets(spending, expected):
    # Five even looks, two-sided 0.05: as the programs of Reboussin et al. (2000) and gsDesign print them.
    bounds = boundaries(even(5), spent(even(5), 0.05, spending))
    assert bounds == pytest.approx(expected, abs=1e-3)


INFORMATION = st.lists(st.floats(0.05, 1), min_size=1, max_size=4).map(lambda steps: np.cumsum(steps) / np.sum(steps))


@given(INFORMATION, st.floats(0.5, 3), st.floats(-2, 4))
@settings(max_examples=25)
def test_crossing_probabilities_agree_with_the_multivariate_normal(information, bound, drift):
    above, below = crossing_probabilities([bound] * len(information), information, drift)
    covariance = np.sqrt(np.minimum.outer(information, information) / np.maximum.outer(information, information))
    mean = drift * np.sqrt(information)
    staying = multivariate_normal(mean, covariance, allow_singular=True)
    inside = staying.cdf(np.full(len(mean), bound), lower_limit=np.full(len(mean), -bound))
    assert above.sum() + below.sum() == pytest.approx(1 - inside, abs=2e-4)


@given(INFORMATION, st.sampled_from(["obrien-fleming", "pocock"]), st.floats(0.001, 0.2))
@settings(max_examples=25)
def test_observed_fractions_spend_what_was_planned_and_the_last_look_the_rest(information, spending, alpha):
    fractions = information * 0.9  # the test ends before all planned units were observed
    bounds = bounds_at("group-sequential", spending, alpha, fractions, information, last=True)
    above, below = crossing_probabilities(bounds, information)
    assert above.sum() + below.sum() == pytest.approx(alpha, abs=1e-6)
    planned = spent(fractions, alpha, spending)
    assert np.cumsum(above + below)[:-1] == pytest.approx(planned[:-1], abs=1e-6)


def test_a_look_without_alpha_has_no_boundary():
    assert boundaries([0.001, 1.0], spent([0.001, 1.0], 0.05, "obrien-fleming"))[0] == np.inf
    assert boundaries([0.5, 0.5, 1.0], [0.01, 0.01, 0.05])[1] == np.inf


def test_a_look_without_new_units_spends_its_alpha_on_the_same_statistic():
    information = [0.25, 0.5, 0.5, 1.0]
    bounds = boundaries(information, [0.001, 0.01, 0.02, 0.05])
    assert bounds[:2] == pytest.approx(boundaries([0.25, 0.5], [0.001, 0.01]))
    assert bounds[2] == pytest.approx(boundaries([0.25, 0.5], [0.001, 0.02])[1])
    above, below = crossing_probabilities(bounds, information)
    assert above + below == pytest.approx([0.001, 0.009, 0.01, 0.03], abs=1e-8)
    assert boundaries([1.0, 1.0], [0.003, 0.05])[1] == pytest.approx(norm.isf(0.025))


def test_estimates_of_a_test_with_one_look_are_the_usual_ones():
    value, low, high = stagewise(2.5, [np.inf], [1.0])
    assert (value, low, high) == pytest.approx((2.5, 2.5 - 1.959964, 2.5 + 1.959964), abs=1e-4)


def test_stagewise_intervals_cover_and_their_estimates_have_no_bias_of_the_median():
    information, drift, runs = even(3), 2.5, 1_000
    bounds = boundaries(information, spent(information, 0.05, "pocock"))
    random = np.random.default_rng(0)
    steps = random.normal(drift / 3, np.sqrt(1 / 3), (runs, 3))
    z = np.cumsum(steps, axis=1) / np.sqrt(information)
    stopped = np.where((np.abs(z) >= bounds).any(axis=1), np.argmax(np.abs(z) >= bounds, axis=1), 2)
    at_stop = np.round(z[np.arange(runs), stopped] * 4) / 4  # few different results need few solutions
    found = {
        (stage, value): stagewise(value, bounds[: stage + 1], information[: stage + 1])
        for stage, value in {*zip(stopped.tolist(), at_stop.tolist(), strict=True)}
    }
    estimates = np.array([found[key] for key in zip(stopped.tolist(), at_stop.tolist(), strict=True)])
    naive = at_stop / np.sqrt(information[stopped])
    assert abs((estimates[:, 0] > drift).mean() - 0.5) < 0.06
    assert naive.mean() - drift > 0.15  # what stopping early adds, and is corrected
    covered = (estimates[:, 1] <= drift) & (drift <= estimates[:, 2])
    assert 0.93 < covered.mean() < 0.97


def test_always_valid_boundaries_hold_for_all_looks_together():
    fractions = np.concatenate([np.geomspace(0.001, 1, 60), np.linspace(1.1, 5, 40)])
    for alpha in (0.01, 0.05):
        above, below = crossing_probabilities(always_valid(fractions, alpha), fractions)
        assert above.sum() + below.sum() < alpha
    assert (always_valid(fractions, 0.05) > norm.isf(0.025)).all()


def test_planned_looks_keep_their_power():
    for design in ("group-sequential", "always-valid", "fixed"):
        plan = planned_bounds(PlanSpec(design=design, power=0.9), 0.05, days=14)
        above, _ = crossing_probabilities(plan.bounds, plan.fractions, plan.drift)
        assert above.sum() == pytest.approx(0.9, abs=1e-6)
        assert plan.inflation >= 1 - 1e-9

"""Short forms of `make bench BENCH=abtest`: designs keep what they promise where the truth is known."""

import pytest

from delorean.ab_tests.interleaving import METHODS
from delorean.ab_tests.simulation import false_positives, interleaving_sensitivity, power_of_plans
from delorean.comparison.counterfactual.simulation import coverage


def test_daily_looks_keep_alpha_and_peeking_does_not():
    shares = false_positives(runs=2_000, days=10, units=60)
    peeking = shares.pop("peeking")
    assert peeking > 0.15  # what the designs prevent, so that this test can fail
    # 2,000 tests measure 5 % to within 1.5 points (three standard errors).
    assert all(share < 0.065 for share in shares.values())
    assert shares["always-valid"] < 0.03


def test_tests_find_the_planned_effect_as_often_as_planned():
    # 800 tests measure 80 % to within 4.2 points (three standard errors); the long form is within 2.
    for result in power_of_plans(runs=800, effect=0.25):
        assert result.measured == pytest.approx(result.planned, abs=0.042)


def test_counterfactual_intervals_cover_the_truth():
    # 150 logs measure 95 % to within 5.3 points (three standard errors); the long form is within 2.
    assert all(share >= 0.897 for share in coverage(runs=150, contexts=300).values())


@pytest.mark.parametrize("method", METHODS)
def test_interleaving_needs_at_least_twenty_times_fewer_requests(method):
    result = interleaving_sensitivity(requests=10_000, method=method)
    assert result.ratio >= 20
    for measured in (result.ab_power, result.interleaving_power):
        assert measured == pytest.approx(0.8, abs=0.06)

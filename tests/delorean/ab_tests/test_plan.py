"""A plan is a power calculation on the metric's own past, and agrees with those of statsmodels."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from ab_world import DAY, HOURS, START, declared
from scipy.stats import norm
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from delorean.ab_tests.allocation import LayerPart
from delorean.ab_tests.declaration import Cell, Holdout
from delorean.ab_tests.history import metric_history
from delorean.ab_tests.outcomes import collect_outcomes
from delorean.ab_tests.plan import plan_test
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.ab_tests.power import units_needed
from schemas.errors import AbTestError
from schemas.tables import TIME

ALONE = replace(HOURS, before=timedelta(0))


def past(days=40, profiles=600, seed=0, value=None):
    """Each profile plays once a day at a random time, from `days` before the start on."""
    random = np.random.default_rng(seed)
    seconds = (random.random((profiles, days)) + np.arange(-days, 0)) * 86_400
    taste = random.gamma(2.0, 1.0, (profiles, 1))
    values = random.exponential(taste, (profiles, days)) if value is None else np.full((profiles, days), value)
    at = (seconds.ravel() * 1e6).astype(np.int64) + int(START.timestamp()) * 10**6
    units = np.repeat(np.arange(profiles), days)
    return pa.table({"profile_id": units, "outcome_at": pa.array(at).cast(TIME), "value": values.ravel()})


def planned(test, rows, until=START):
    histories = {}
    for name, metric in test.metrics.items():
        outcomes = collect_outcomes(test, name, rows.to_batches(5_000), None, until)
        histories[name] = metric_history(name, metric, outcomes, until)
    return plan_test(test, histories)


def test_sizes_agree_with_statsmodels():
    for effect, power, ratio in ((0.1, 0.8, 1.0), (0.3, 0.9, 3.0)):
        expected = NormalIndPower().solve_power(effect, alpha=0.05, power=power, ratio=ratio)
        drift = norm.isf(0.025) + norm.ppf(power)
        shares = 1 / (1 + ratio), ratio / (1 + ratio)
        assert units_needed(drift, effect, 1.0, (1.0, 1.0), shares) == pytest.approx(expected * (1 + ratio), rel=1e-3)
    small = proportion_effectsize(0.505, 0.495)  # of shares around a half, whose variance is a quarter
    expected = NormalIndPower().solve_power(small, alpha=0.05, power=0.8) * 2
    assert units_needed(2.80159, 0.02, 0.5, (0.25, 0.25), (0.5, 0.5)) == pytest.approx(expected, rel=1e-2)


def test_the_size_follows_from_the_moments_of_the_past():
    test = declared(metrics={"hours": ALONE}, plan=PlanSpec(effect=0.2, design="fixed"))
    plan = planned(test, past())
    (metric,) = plan.metrics
    assert metric.units == 600
    assert metric.explained == 0
    deviation = metric.deviation * np.sqrt((1 + 1.2**2) / 2)  # that of the candidate is 1.2 times the control's
    effect = plan.effect * metric.mean / deviation
    assert plan.units == pytest.approx(2 * NormalIndPower().solve_power(effect, alpha=0.05, power=0.8), rel=1e-3)
    assert metric.finds == pytest.approx(0.2, rel=1e-3)
    assert plan.inflation == pytest.approx(1)


def test_values_are_those_within_the_window_after_entering():
    test = declared(metrics={"hours": ALONE}, plan=PlanSpec(effect=0.2, design="fixed"))
    counts = replace(test, metrics={"hours": replace(ALONE, value=None)})
    plan = planned(counts, past())
    assert plan.metrics[0].mean == pytest.approx(1.5, abs=0.1)  # the next day's play, and half of those after


def test_the_past_of_units_makes_the_test_smaller():
    test = declared(plan=PlanSpec(effect=0.2))
    with_past, without = (planned(replace(test, metrics={"hours": each}), past()) for each in (HOURS, ALONE))
    explained = with_past.metrics[0].explained
    assert explained > 0.2
    assert with_past.units < without.units
    assert with_past.units / without.units == pytest.approx(1 - explained, rel=0.1)


def test_looks_make_it_a_little_larger_and_pococks_more():
    sizes = {}
    for plan in (PlanSpec(0.2, design="fixed"), PlanSpec(0.2), PlanSpec(0.2, spending="pocock")):
        sizes[plan.design, plan.spending] = planned(declared(plan=plan), past()).units
    fixed, obrien, pocock = sizes.values()
    assert 1.01 < obrien / fixed < 1.05 < pocock / fixed < 1.3


def test_each_look_says_when_it_is_and_which_change_it_sees():
    plan = planned(declared(plan=PlanSpec(effect=0.3)), past(profiles=2_000))
    assert [look.number for look in plan.looks] == [1, 2, 3, 4, 5]
    assert plan.looks[-1].at == plan.end + HOURS.matures == plan.ends
    changes = [look.change for look in plan.looks if look.change is not None]
    assert changes == sorted(changes, reverse=True)
    assert 0.15 < changes[-1] < 0.3  # less than the planned effect, which is found only with the power


def test_fewer_arrivals_take_longer():
    test = declared(plan=PlanSpec(effect=0.4))
    part = replace(test, layer=LayerPart("ranking", (0.0, 0.1)), holdout=Holdout(0.5))
    whole, little = planned(test, past()), planned(part, past())
    assert whole.units == little.units
    assert little.days is None or little.days > whole.days


def test_units_that_no_longer_arrive_are_said_to_never_suffice():
    plan = planned(declared(plan=PlanSpec(effect=0.01)), past())  # all 600 profiles enter on the first day
    assert plan.days is None
    assert plan.end is None
    assert "more time than units arrive in" in repr(plan)


def test_a_history_that_is_too_short_says_how_long_it_must_be():
    with pytest.raises(AbTestError, match=r"metric 'hours' has 10.0 days of history, but .* needs 16.0: 7.0 before"):
        planned(declared(), past(days=10))
    with pytest.raises(AbTestError, match="has 0.0 days of history"):
        planned(declared(), past().slice(0, 0))
    planned(declared(plan=PlanSpec(effect=0.5)), past(days=17))


def test_later_outcomes_than_the_moment_of_planning_are_not_read():
    rows = past(days=40)
    assert planned(declared(), rows, START - 10 * DAY) == planned(
        declared(),
        rows.filter(pa.compute.less_equal(rows["outcome_at"], pa.scalar(START - 10 * DAY, TIME))),
        START - 10 * DAY,
    )


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_metric_that_is_never_above_zero_cannot_be_planned(value):
    with pytest.raises(AbTestError, match="a relative effect needs both above 0"):
        planned(declared(), past(value=value))


def test_a_history_of_few_units_cannot_be_planned():
    with pytest.raises(AbTestError, match="has 50 units in its history, expected at least 100"):
        planned(declared(), past(profiles=50))


def test_several_candidates_need_more_units():
    three = {"control": Cell(0.4, "p"), "a": Cell(0.3, "q"), "b": Cell(0.3, "r")}
    two = planned(declared(plan=PlanSpec(effect=0.3)), past())
    assert planned(declared(cells=three, plan=PlanSpec(effect=0.3)), past()).units > 1.3 * two.units

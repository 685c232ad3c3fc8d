"""An analysis at a planned look counts each outcome once, by the rules of time, and says what to do."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tea_tasting
from ab_world import CELLS, DAY, HOURS, START, declared, exposure_table, world
from hypothesis import given, settings
from hypothesis import strategies as st

from delorean.ab_tests.analysis import analyse
from delorean.ab_tests.declaration import Cell
from delorean.ab_tests.exposed_units import collect_exposures, exposed_units
from delorean.ab_tests.look_moments import look_moments
from delorean.ab_tests.looks import looks_until, planned_looks
from delorean.ab_tests.outcomes import collect_outcomes
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.ab_tests.result import Verdict
from delorean.ab_tests.unit_values import unit_values
from schemas.errors import AbTestError, NaiveTimeError
from schemas.times import to_micros

END = START + 12 * DAY


def of_units(test, truth, entered_before, metric=HOURS):
    """Values of units by plain Python: an oracle for joins, windows and late units."""
    rows = {}
    micros = timedelta(microseconds=1)
    for unit, first, cell in zip(truth.units.tolist(), truth.first.tolist(), truth.cells.tolist(), strict=True):
        if to_micros(test.start) <= first < to_micros(test.end) and first <= to_micros(entered_before):
            rows[unit] = [cell, first, 0.0, 0.0]
    for row in truth.outcomes.to_pylist():
        if row["profile_id"] in rows:
            unit = rows[row["profile_id"]]
            after = to_micros(row["outcome_at"]) - unit[1]
            if 0 < after <= metric.within // micros:
                unit[2] += row["value"]
            elif -(metric.history // micros) < after <= 0:
                unit[3] += row["value"]
    return rows


@pytest.mark.parametrize("look", [0, 4])
def test_each_unit_counts_once_its_window_is_over_and_each_outcome_once(look):
    test, truth = declared(), world(declared(), 600)
    looks = planned_looks(test)[: look + 1]
    expected = of_units(test, truth, looks[-1].entered_before(HOURS))
    moments = look_moments(test, truth.data(test, looks[-1].at), looks)["hours"]
    for cell in (0, 1):
        mine = np.array([row[2:] for row in expected.values() if row[0] == cell])
        assert moments.count[cell, -1] == len(mine)
        np.testing.assert_allclose(moments.mean[cell, -1, [0, 2]], mine.mean(axis=0))
        np.testing.assert_allclose(moments.covariance[cell, -1][np.ix_([0, 2], [0, 2])], np.cov(mine.T))


def test_a_look_gives_the_same_whenever_it_is_computed():
    test, truth = declared(), world(declared(), 600)
    looks = planned_looks(test)
    early = analyse(test, truth.data(test, looks[1].at), looks[1].at)
    late = analyse(test, truth.data(test, looks[1].at + DAY / 2), looks[1].at + DAY / 2)
    assert early.candidates == late.candidates
    final = analyse(test, truth.data(test, END), END)
    of_final = final.candidates[0].metrics[0].looks[:2]
    of_early = early.candidates[0].metrics[0].looks
    assert [at.units for at in of_final] == [at.units for at in of_early]
    assert [at.z for at in of_final] == pytest.approx([at.z for at in of_early])  # sums in another order


def test_cuped_agrees_with_tea_tasting():
    test, truth = declared(plan=PlanSpec(design="fixed")), world(declared(), 3_000, effect=0.1)
    rows = of_units(test, truth, END - HOURS.matures)
    columns = dict(zip(("variant", "first", "value", "past"), zip(*rows.values(), strict=True), strict=True))
    expected = tea_tasting.Experiment(m=tea_tasting.Mean("value", "past", use_t=False, equal_var=False)).analyze(
        pa.table(columns)
    )["m"]
    found = analyse(test, truth.data(test, END), END).candidates[0].metrics[0].last
    assert found.z == pytest.approx(expected.statistic)
    assert (found.control, found.candidate) == (pytest.approx(expected.control), pytest.approx(expected.treatment))
    assert found.relative == pytest.approx(expected.rel_effect_size)
    assert found.low == pytest.approx(expected.rel_effect_size_ci_lower, abs=2e-3)
    assert found.explained > 0.05


def test_ratio_metrics_agree_with_tea_tasting():
    metric = replace(HOURS, denominator="views")
    test, truth = declared(plan=PlanSpec(design="fixed"), metrics={"hours": metric}), world(declared(), 2_000)
    views = np.random.default_rng(1).integers(1, 4, truth.outcomes.num_rows).astype(float)
    truth = replace(truth, outcomes=truth.outcomes.append_column("views", pa.array(views)))
    as_values = replace(truth, outcomes=truth.outcomes.set_column(2, "value", pa.array(views)))
    rows, of_views = of_units(test, truth, END - HOURS.matures), of_units(test, as_values, END - HOURS.matures)
    columns = {
        "variant": [row[0] for row in rows.values()],
        **{name: [row[at] for row in rows.values()] for name, at in (("n", 2), ("pn", 3))},
        **{name: [row[at] for row in of_views.values()] for name, at in (("d", 2), ("pd", 3))},
    }
    expected = tea_tasting.Experiment(
        m=tea_tasting.RatioOfMeans("n", "d", "pn", "pd", use_t=False, equal_var=False)
    ).analyze(pa.table(columns))["m"]
    found = analyse(test, truth.data(test, END), END).candidates[0].metrics[0].last
    assert found.z == pytest.approx(expected.statistic)
    assert found.control == pytest.approx(expected.control)


def test_sample_ratio_agrees_with_tea_tasting():
    test, truth = declared(), world(declared(), 1_000)
    expected = tea_tasting.Experiment(srm=tea_tasting.SampleRatio(method="norm", correction=False)).analyze(
        pa.table({"variant": truth.cells})
    )["srm"]
    assert analyse(test, truth.data(test, END), END).health.p == pytest.approx(expected.pvalue)


def test_more_rows_than_memory_give_the_same():
    test, truth = declared(), world(declared(), 800)
    whole = analyse(test, truth.data(test, END), END)
    spilled = truth.data(test, END, rows_in_memory=100)
    with spilled.exposures, spilled.outcomes["hours"]:
        assert spilled.exposures.spilled
        result = analyse(test, spilled, END)
    assert result.health == whole.health
    for mine, its in zip(result.candidates[0].metrics[0].looks, whole.candidates[0].metrics[0].looks, strict=True):
        assert (mine.units, mine.bound) == (its.units, its.bound)
        assert mine.z == pytest.approx(its.z)


def test_a_clear_gain_is_shipped_at_the_first_look_that_shows_it():
    test, truth = declared(), world(declared(), 4_000, effect=0.5)
    result = analyse(test, truth.data(test, END), END)
    (candidate,) = result.candidates
    assert candidate.verdict is result.verdict is Verdict.SHIP
    assert candidate.look < result.look == 5
    assert candidate.adjusted.look == candidate.look
    assert candidate.adjusted.low < 0.5 < candidate.adjusted.high
    assert candidate.adjusted.value < candidate.metrics[0].looks[candidate.look - 1].relative
    assert not result.loses


def test_a_clear_loss_is_not_shipped():
    test, truth = declared(), world(declared(), 4_000, effect=-0.4)
    result = analyse(test, truth.data(test, END), END)
    assert result.verdict is Verdict.DO_NOT_SHIP
    assert result.loses
    assert "hours got worse" in result.candidates[0].reasons[1]


def test_where_less_is_better_the_same_gain_is_a_loss():
    test = declared(metrics={"hours": replace(HOURS, better="lower")})
    result = analyse(test, world(test, 4_000, effect=0.5).data(test, END), END)
    assert result.verdict is Verdict.DO_NOT_SHIP


@pytest.mark.parametrize(("margin", "verdict"), [(0.5, Verdict.NO_DIFFERENCE), (0.001, Verdict.UNCLEAR)])
def test_without_a_difference_the_end_says_how_much_is_excluded(margin, verdict):
    test = declared(metrics={"hours": replace(HOURS, margin=margin)})
    assert analyse(test, world(test, 2_000).data(test, END), END).verdict is verdict


def test_units_that_all_enter_early_have_an_interval_at_the_end():
    test = declared()
    everybody = world(test, 2_000)
    times = pa.array([test.start + timedelta(hours=1)] * len(everybody.exposures), everybody.exposures["time"].type)
    everybody = replace(everybody, exposures=everybody.exposures.drop(["time"]).append_column("time", times))
    result = analyse(test, everybody.data(test, END), END).candidates[0]
    looks = result.metrics[0].looks
    assert {look.units for look in looks} == {looks[0].units}
    assert looks[-1].bound == pytest.approx(1.959964, abs=1e-5)  # all of alpha, on one statistic
    assert looks[-1].low < looks[-1].relative < looks[-1].high
    assert result.adjusted.low < result.adjusted.value < result.adjusted.high


def test_before_the_end_a_test_without_a_difference_continues():
    test, truth = declared(), world(declared(), 2_000)
    at = planned_looks(test)[2].at
    result = analyse(test, truth.data(test, at), at)
    assert result.verdict is Verdict.CONTINUE
    assert result.next_look == planned_looks(test)[3].at
    assert result.candidates[0].adjusted is None


def test_a_guardrail_that_loses_too_much_stops_a_better_candidate():
    skips = replace(HOURS, value="skips", better="lower", margin=0.05)
    test = declared(metrics={"hours": HOURS, "skips": skips})
    truth = world(test, 4_000, effect=0.5)
    truth = replace(truth, outcomes=truth.outcomes.append_column("skips", truth.outcomes["value"]))
    result = analyse(test, truth.data(test, END), END)
    assert result.verdict is Verdict.DO_NOT_SHIP
    assert "More than the tolerated loss: skips" in result.candidates[0].reasons[0]


def test_a_better_candidate_waits_for_guardrails_without_an_answer():
    noise = replace(HOURS, value="noise", margin=0.001)
    test = declared(metrics={"hours": HOURS, "noise": noise})
    truth = world(test, 3_000, effect=0.5)
    values = np.random.default_rng(0).exponential(1, truth.outcomes.num_rows)
    truth = replace(truth, outcomes=truth.outcomes.append_column("noise", pa.array(values)))
    at = planned_looks(test)[3].at
    result = analyse(test, truth.data(test, at), at)
    assert result.verdict is Verdict.CONTINUE
    assert "a loss beyond the margin is not excluded: noise" in result.candidates[0].reasons[1]


def test_a_sample_ratio_mismatch_hides_all_metrics():
    test, truth = declared(), world(declared(), 4_000, effect=0.5)
    cells = np.array(truth.exposures["cell"].to_pylist())
    units = np.array([each["profile_id"] for each in truth.exposures["context"].to_pylist()])
    lost = replace(truth, exposures=truth.exposures.filter(pa.array(~((cells == "candidate") & (units % 5 == 0)))))
    result = analyse(test, lost.data(test, END), END)
    assert result.verdict is Verdict.BROKEN
    assert result.candidates == ()
    assert result.loses
    assert "sample-ratio mismatch" in result.health.problems[0]


def test_units_that_saw_two_cells_belong_to_none():
    test, truth = declared(), world(declared(), 2_000)
    swapped = truth.units[:15]
    names = ["candidate" if cell == 0 else "control" for cell in truth.cells[:15]]
    more = exposure_table(swapped, names, truth.first[:15] + 1)
    both = replace(truth, exposures=pa.concat_tables([truth.exposures, more]))
    result = analyse(test, both.data(test, END), END)
    assert result.health.mixed == 15
    assert not result.health.broken
    assert result.candidates[0].metrics[0].last.units == len(truth.units) - 15
    assert "15 units saw several cells" in result.notes[0]


def test_units_in_other_cells_than_declared_break_a_test():
    test, truth = declared(), world(declared(), 2_000)
    other = replace(test, seed=1)
    result = analyse(other, truth.data(other, END), END)
    assert result.verdict is Verdict.BROKEN
    assert "another cell than the declaration gives them" in result.health.problems[0]


def test_before_the_first_look_the_error_says_when_it_is():
    test = declared()
    with pytest.raises(AbTestError, match=r"before its first look at 2026-01-09 00:00 UTC.* → wait, or see its health"):
        looks_until(test, START + 4 * DAY - timedelta(seconds=1))
    looks, following = looks_until(test, START + 4 * DAY)
    assert [look.number for look in looks] == [1]
    assert following.at == START + 6 * DAY


def test_always_valid_looks_are_a_day_apart_and_a_fixed_test_has_one():
    daily = planned_looks(declared(plan=PlanSpec(design="always-valid")))
    assert [look.at for look in daily] == [START + (2 + day) * DAY for day in range(1, 11)]
    assert [look.at for look in planned_looks(declared(plan=PlanSpec(design="fixed", looks=9)))] == [END]


@pytest.mark.parametrize(("missing", "message"), [({"end": None}, "has no end"), ({"metrics": {}}, "has no metric")])
def test_a_test_that_is_not_planned_cannot_be_analysed(missing, message):
    with pytest.raises(AbTestError, match=message):
        planned_looks(declared(**missing))


def test_always_valid_intervals_contain_those_of_fewer_looks():
    truth = world(declared(), 3_000, effect=0.1)
    widths = []
    for design in ("fixed", "group-sequential", "always-valid"):
        test = declared(plan=PlanSpec(design=design))
        last = analyse(test, truth.data(test, END), END).candidates[0].metrics[0].last
        widths.append(last.high - last.low)
    assert widths == sorted(widths)


def test_spending_follows_the_observed_units_where_the_plan_states_them():
    truth = world(declared(), 2_000)
    test = declared(plan=PlanSpec(units=2 * len(truth.units)))
    at = planned_looks(test)[1].at
    looks = analyse(test, truth.data(test, at), at).candidates[0].metrics[0].looks
    assert [look.fraction for look in looks] == [look.units / (2 * len(truth.units)) for look in looks]


def test_when_all_planned_units_are_observed_the_test_ends():
    test = declared(plan=PlanSpec(units=500))
    result = analyse(test, world(test, 4_000).data(test, END), END)
    (candidate,) = result.candidates
    assert candidate.look < 5
    assert candidate.verdict.ends


def test_futility_is_advice_that_the_planned_effect_is_out_of_reach():
    plan = PlanSpec(effect=0.1, futility=True)
    test = declared(plan=plan)
    truth = world(test, 4_000, effect=-0.05, seed=3)
    at = planned_looks(test)[3].at
    result = analyse(test, truth.data(test, at), at)
    assert result.verdict is Verdict.FUTILE
    assert "chance to find it by the end" in result.candidates[0].reasons[1]
    assert (
        analyse(replace(test, plan=replace(plan, futility=False)), truth.data(test, at), at).verdict is Verdict.CONTINUE
    )


def test_alpha_is_divided_among_candidates_and_among_guardrails():
    three = {"control": Cell(0.4, "p"), "a": Cell(0.3, "q"), "b": Cell(0.3, "r")}
    one = declared(plan=PlanSpec(design="fixed"))
    test = declared(cells=three, plan=one.plan, metrics={"hours": HOURS, "g": HOURS, "h": HOURS})
    result = analyse(test, world(test, 2_000).data(test, END), END)
    assert [each.cell for each in result.candidates] == ["a", "b"]
    bounds = [metric.last.bound for metric in result.candidates[0].metrics]
    assert bounds == pytest.approx([2.2414, 2.4977, 2.4977], abs=1e-4)  # of 0.05 / 2, and 0.05 / 2 / 2


def test_winsorised_values_are_cut_at_one_quantile_for_all_cells():
    metric = replace(HOURS, winsorise=0.9, before=timedelta(0))
    test = declared(metrics={"hours": metric}, plan=PlanSpec(design="fixed"))
    truth = world(test, 1_000)
    plain = np.array([row[2] for row in of_units(test, truth, END - HOURS.matures).values()])
    cells = np.array([row[0] for row in of_units(test, truth, END - HOURS.matures).values()])
    cut = np.minimum(plain, np.quantile(plain, 0.9))
    found = analyse(test, truth.data(test, END), END).candidates[0].metrics[0].last
    assert found.control == pytest.approx(cut[cells == 0].mean(), rel=5e-3)


def test_any_counts_a_unit_once():
    metric = replace(HOURS, per_unit="any", before=timedelta(0))
    test = declared(metrics={"hours": metric}, plan=PlanSpec(design="fixed"))
    truth = world(test, 1_000)
    rows = of_units(test, truth, END - HOURS.matures).values()
    shares = [np.mean([row[2] > 0 for row in rows if row[0] == cell]) for cell in (0, 1)]
    found = analyse(test, truth.data(test, END), END).candidates[0].metrics[0].last
    assert (found.control, found.candidate) == (pytest.approx(shares[0]), pytest.approx(shares[1]))


def test_a_metric_that_is_always_zero_has_no_verdict():
    test, truth = declared(), world(declared(), 400)
    none = replace(truth, outcomes=truth.outcomes.slice(0, 0))
    result = analyse(test, none.data(test, END), END)
    assert result.candidates[0].metrics[0].last.relative is None
    assert result.verdict is Verdict.UNCLEAR


ROWS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["control", "candidate"]), st.integers(0, 9)), min_size=1)


@given(ROWS, st.integers(1, 5))
@settings(max_examples=60)
def test_first_exposures_do_not_depend_on_batches_or_order(rows, batch):
    units, cells, times = (list(each) for each in zip(*rows, strict=True))
    table = exposure_table(units, cells, times)
    collected = collect_exposures(declared(), table.to_batches(batch), 1 << 30)
    found = exposed_units(collected.whole())
    for unit, first, cell, count, mixed in zip(
        found.units.to_pylist(), found.first, found.cells, found.exposures, found.mixed, strict=True
    ):
        mine = [row for row in rows if row[0] == unit]
        assert first == min(row[2] for row in mine)
        assert count == len(mine)
        assert mixed == (len({row[1] for row in mine}) > 1)
        assert mixed or list(CELLS)[cell] == mine[0][1]
    assert len(found.units) == len({*units})


def test_outcomes_at_the_exposure_and_at_the_end_of_the_window():
    first = to_micros(START)
    exposed = exposed_units(
        collect_exposures(declared(), exposure_table([1], ["control"], [first]).to_batches()).whole()
    )
    window = HOURS.within // timedelta(microseconds=1)
    at = pa.array([first, first + 1, first + window, first + window + 1], pa.int64())
    outcomes = pa.table({"unit": [1] * 4, "at": at, "value": [1.0, 10.0, 100.0, 1000.0], "denominator": [1.0] * 4})
    assert unit_values(exposed, outcomes, HOURS)[0].tolist() == [110.0, 1.0, 1.0, 1.0]


def collect(**columns):
    rows = {"profile_id": [1, 2], "outcome_at": pa.array([1, 2], pa.timestamp("us", "UTC")), "value": [1.0, 2.0]}
    return collect_outcomes(declared(), "hours", pa.table({**rows, **columns}).to_batches(), None, None)


@pytest.mark.parametrize("value", [pa.array([1.0, np.nan]), pa.array([1.0, None]), pa.array([1.0, np.inf])])
def test_outcomes_without_a_finite_value_are_refused(value):
    with pytest.raises(AbTestError, match="metric 'hours': column 'value' is null or not finite in 1 outcomes"):
        collect(value=value)


def test_outcomes_without_a_zone_or_a_column_are_refused():
    with pytest.raises(NaiveTimeError, match="'outcome_at' of the outcomes of metric 'hours' is timestamp"):
        collect(outcome_at=pa.array([1, 2], pa.timestamp("us")))
    with pytest.raises(AbTestError, match="unknown column of the outcomes of metric 'hours' 'value'"):
        collect_outcomes(declared(), "hours", pa.table({"profile_id": [1], "outcome_at": [1]}).to_batches())
    with pytest.raises(AbTestError, match="expected numbers"):
        collect(value=["a", "b"])
    with pytest.raises(AbTestError, match="is null in 1 rows"):
        collect(outcome_at=pa.array([1, None], pa.timestamp("us", "UTC")))


def test_outcomes_of_nobody_are_left_out():
    assert collect(profile_id=[1, None]).rows == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (([None], ["control"], [0]), "unit 'profile_id' is null in 1 exposures"),
        (([1], ["contrl"], [0]), "did you mean 'control'"),
        (([1], [None], [0]), "has no exposures"),
    ],
)
def test_exposures_that_do_not_fit_the_test_are_refused(rows, message):
    table = exposure_table(pa.array(rows[0], pa.int64()), *rows[1:])
    with pytest.raises(AbTestError, match=message):
        collect_exposures(declared(), table.to_batches())


def test_an_unknown_unit_is_refused_with_the_known_ones():
    with pytest.raises(AbTestError, match="unknown unit of the test .* 'profile'.*did you mean 'profile_id'"):
        collect_exposures(declared(unit="profile"), exposure_table([1], ["control"], [0]).to_batches())


def test_units_of_other_types_than_the_outcomes_are_refused():
    test, truth = declared(), world(declared(), 100)
    as_text = truth.outcomes.set_column(0, "profile_id", truth.outcomes["profile_id"].cast(pa.string()))
    with pytest.raises(AbTestError, match="units are string in the outcomes, but int64 in the exposures"):
        analyse(test, replace(truth, outcomes=as_text).data(test, END), END)


@pytest.mark.parametrize("type", [pa.int32(), pa.uint16(), pa.dictionary(pa.int32(), pa.int64())])
def test_outcomes_may_have_narrower_or_encoded_units(type):  # noqa: A002
    test, truth = declared(), world(declared(), 400)
    column = truth.outcomes["profile_id"]
    other = pc.dictionary_encode(column) if pa.types.is_dictionary(type) else column.cast(type)
    changed = replace(truth, outcomes=truth.outcomes.set_column(0, "profile_id", other))
    assert analyse(test, changed.data(test, END), END) == analyse(test, truth.data(test, END), END)


def test_units_may_be_texts():
    test, truth = declared(plan=PlanSpec(design="fixed")), world(declared(), 1_000, effect=0.5)
    names = pa.array([f"profile {unit}" for unit in truth.units])
    cells = test.allocate(pa.table({"profile_id": names}))
    rows = truth.exposures["context"].combine_chunks().field("profile_id").to_numpy()
    exposures = exposure_table(
        names.take(pa.array(rows)),
        [list(CELLS)[cell] for cell in cells[rows]],
        truth.exposures["time"].cast(pa.int64()),
    )
    encoded = names.take(truth.outcomes["profile_id"].combine_chunks()).dictionary_encode()
    outcomes = truth.outcomes.set_column(0, "profile_id", encoded)
    result = analyse(test, replace(truth, exposures=exposures, outcomes=outcomes).data(test, END), END)
    assert not result.health.broken
    assert result.candidates[0].metrics[0].last.units == 1_000

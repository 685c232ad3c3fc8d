"""Planted leaks that must be found, honest features that must not, and the measures against slow oracles."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from delorean.display.html import to_html
from delorean.leaks import LeakThresholds, detect_leaks, kernels
from delorean.leaks.measure import Scope, ScopeStatistics
from delorean.leaks.sample import LeakSample

NAN = np.float32("nan")


def impressions(contexts=150, size=20, rate=0.2, seed=1):
    """Labels of contexts with many items; some contexts have no positive."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(contexts * size) < rate).astype(np.float32)
    return labels, np.arange(0, contexts * size + 1, size), rng


def single_items(contexts=1500, seed=2):
    rng = np.random.default_rng(seed)
    return (rng.random(contexts) < 0.3).astype(np.float32), np.arange(contexts + 1), rng


LEAKS = {
    "copy": lambda y, of, rng: y,
    "negated": lambda y, of, rng: -y,
    "scaled with noise": lambda y, of, rng: 3 * y + 7 + rng.normal(0, 0.5, len(y)),
    "with an offset of the context": lambda y, of, rng: y + 100 * rng.standard_normal(of.max() + 1)[of],
    "missing where negative": lambda y, of, rng: np.where(y > 0, rng.standard_normal(len(y)), NAN),
    "missing where positive": lambda y, of, rng: np.where(y > 0, NAN, rng.standard_normal(len(y))),
    "positives in the middle": lambda y, of, rng: np.where(y > 0, 1, 2 * rng.integers(0, 2, len(y))),
    "a range in the middle": lambda y, of, rng: np.where(
        y > 0, rng.uniform(-0.2, 0.2, len(y)), rng.choice([-1, 1], len(y)) * rng.uniform(0.2, 3, len(y))
    ),
    "a code hidden by an offset": lambda y, of, rng: (
        np.where(y > 0, 0, rng.choice([-1, 1], len(y))) + 100 * rng.standard_normal(of.max() + 1)[of]
    ),
    "a copy half of whose values miss": lambda y, of, rng: np.where(rng.random(len(y)) < 0.3, NAN, y),
}
NEEDS_CONTEXTS = {"with an offset of the context", "a code hidden by an offset"}

HONEST = {
    "random": lambda y, of, rng: rng.standard_normal(len(y)),
    "constant": lambda y, of, rng: np.full(len(y), 3.0),
    "missing everywhere": lambda y, of, rng: np.full(len(y), NAN),
    "missing at random": lambda y, of, rng: np.where(rng.random(len(y)) < 0.5, NAN, rng.standard_normal(len(y))),
    "of the context": lambda y, of, rng: rng.standard_normal(of.max() + 1)[of],
    "the row's number": lambda y, of, rng: np.arange(len(y)),
    "strong, AUC 0.85": lambda y, of, rng: 1.4657 * y + rng.standard_normal(len(y)),
    "two values": lambda y, of, rng: rng.integers(0, 2, len(y)),
}


def sample_of(labels, offsets, rng, makers):
    of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    features = {name: np.asarray(make(labels, of, rng), dtype=np.float32) for name, make in makers.items()}
    return LeakSample(labels, offsets, features)


def test_every_planted_leak_is_found_and_no_honest_feature_is():
    report = detect_leaks(sample_of(*impressions(), HONEST | LEAKS))
    assert set(report.suspicious) == set(LEAKS)
    assert all((found.where, found.why != "") == ("within contexts", True) for found in report.features[-len(LEAKS) :])


def test_leaks_are_found_where_each_context_has_one_item():
    leaks = {name: make for name, make in LEAKS.items() if name not in NEEDS_CONTEXTS}
    report = detect_leaks(sample_of(*single_items(), HONEST | leaks))
    assert set(report.suspicious) == set(leaks)
    assert {found.where for found in report.features} == {"across contexts"}


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.97])
def test_leaks_are_found_whichever_class_is_rare(rate):
    labels, offsets, rng = impressions(contexts=400, rate=rate)
    assert set(detect_leaks(sample_of(labels, offsets, rng, HONEST | LEAKS)).suspicious) == set(LEAKS)


def test_a_context_that_gives_its_only_outcome_away_is_found():
    """All items of a context share their label, so only other contexts can tell."""
    rng = np.random.default_rng(3)
    labels = np.repeat((rng.random(300) < 0.4).astype(np.float32), 5)
    sample = sample_of(labels, np.arange(0, 1501, 5), rng, {"copy": LEAKS["copy"], "random": HONEST["of the context"]})
    report = detect_leaks(sample)
    assert report.suspicious == ("copy",)
    assert report.features[0].contexts == 300


def test_popularity_is_honest():
    rng = np.random.default_rng(4)
    popularity = rng.pareto(1.5, 500)
    videos = rng.integers(0, 500, 6000)
    labels = (rng.random(6000) < np.minimum(0.9, popularity[videos] / 8)).astype(np.float32)
    sample = LeakSample(labels, np.arange(0, 6001, 30), {"popularity": popularity[videos].astype(np.float32)})
    [found] = detect_leaks(sample).features
    assert not found.suspicious
    assert found.auc > 0.6


@pytest.mark.parametrize("seed", range(40))
def test_chance_in_tiny_data_is_no_leak(seed):
    """Of 30 random features over 3 contexts of 4 items some rank perfectly; shuffled labels say that it is chance."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.float32([1, 0, 0, 0]), 3)
    features = {f"f{i}": rng.standard_normal(12).astype(np.float32) for i in range(30)}
    report = detect_leaks(LeakSample(labels, np.array([0, 4, 8, 12]), features))
    assert report.suspicious == ()
    assert report.features[0].why == "too little data"
    assert "too few items have different labels" in report.verdict


def test_few_random_features_reach_the_threshold_by_chance_and_are_explained():
    suspicious = strong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.tile(np.float32([1, 0]), 10)
        features = {f"f{i}": rng.standard_normal(20).astype(np.float32) for i in range(100)}
        found = detect_leaks(LeakSample(labels, np.arange(0, 21, 2), features)).features
        suspicious += any(feature.suspicious for feature in found)
        strong += sum("chance" in feature.why for feature in found)
    assert strong > 0
    assert suspicious <= 2  # of 40 data sets, at p 0.01


def test_a_strong_feature_is_honest_though_few_items_make_it_look_stronger():
    """Of 40 samples some have an AUC beyond the threshold; its uncertainty tells them from a leak."""
    suspicious = strong = 0
    makers = {"AUC 0.9": lambda y, of, rng: 1.8124 * y + rng.standard_normal(len(y))}
    for seed in range(40):
        labels, offsets, rng = impressions(contexts=30, size=10, seed=seed)
        [found] = detect_leaks(sample_of(labels, offsets, rng, makers)).features
        suspicious += found.suspicious
        strong += found.why != ""
    assert strong >= 5
    assert suspicious <= 2


def test_a_negated_leak_is_found_by_its_order_alone():
    noisy = {"negated": lambda y, of, rng: rng.normal(0, 0.3, len(y)) - y}
    report = detect_leaks(sample_of(*impressions(), noisy), LeakThresholds(information=1))
    assert report.suspicious == ("negated",)
    assert "puts a positive below a negative of the same context" in report.features[0].why


def test_many_honest_features_hide_no_leak():
    labels, offsets, rng = impressions(contexts=40, size=10)
    many = {f"f{i}": HONEST["random"] for i in range(200)}
    assert detect_leaks(sample_of(labels, offsets, rng, many | {"copy": LEAKS["copy"]})).suspicious == ("copy",)


def test_the_same_sample_and_seed_give_the_same_report():
    sample = sample_of(*impressions(), HONEST | LEAKS)
    assert detect_leaks(sample) == detect_leaks(sample)
    assert detect_leaks(sample) != detect_leaks(sample, LeakThresholds(seed=1))


def test_a_policy_can_be_made_stricter_and_laxer():
    sample = sample_of(*impressions(), HONEST)
    assert detect_leaks(sample, LeakThresholds(auc=0.8)).suspicious == ("strong, AUC 0.85",)
    leaky = sample_of(*impressions(), {"noisy": lambda y, of, rng: y + rng.normal(0, 0.4, len(y))})
    assert detect_leaks(leaky).suspicious == ("noisy",)
    assert detect_leaks(leaky, LeakThresholds(auc=1, information=1)).suspicious == ()


@pytest.mark.parametrize(
    ("labels", "positives", "note"),
    [
        ([1, 2, 3, 4] * 30, 60, "labels above the median, 2.5, count as positive"),
        ([1, 5, 5, 5] * 30, 90, "labels at least the median, 5, count as positive"),
        ([0, NAN, 1, 1] * 30, 60, "30 items without a label are left out"),
    ],
)
def test_it_says_how_labels_were_divided(labels, positives, note):
    labels = np.float32(labels)
    report = detect_leaks(LeakSample(labels, np.arange(0, 121, 4), {"copy": labels}))
    assert (report.positives, report.suspicious) == (positives, ("copy",))
    assert note in " ".join(report.notes)


@pytest.mark.parametrize("labels", [[0] * 12, [1] * 12, [-1] * 12, [NAN] * 12, []])
def test_labels_that_are_all_alike_tell_nothing(labels):
    labels = np.float32(labels)
    report = detect_leaks(LeakSample(labels, np.arange(0, len(labels) + 1, 4), {"copy": labels}))
    assert report.suspicious == ()
    assert "too few items have different labels" in report.verdict


def test_no_features_and_contexts_without_items_are_no_error():
    labels, offsets, _ = impressions()
    assert detect_leaks(LeakSample(labels, offsets, {})).suspicious == ()
    gaps = np.sort(np.concatenate([offsets, offsets[::3], [0]]))
    assert detect_leaks(LeakSample(labels, gaps, {"copy": labels})).suspicious == ("copy",)


def test_a_sample_that_is_too_large_is_cut_by_whole_contexts():
    labels, offsets, _ = impressions(contexts=1000, size=7)
    sample = LeakSample(labels, offsets, {"context": np.repeat(np.arange(1000, dtype=np.float32), 7)})
    cut = sample.limited(3000, 0)
    assert (len(cut.labels), cut.of_items) == (428 * 7, 7000)
    assert (cut.features["context"].reshape(-1, 7) == cut.features["context"][::7, np.newaxis]).all()
    report = detect_leaks(sample, LeakThresholds(max_items=3000))
    assert (report.items, report.contexts, report.of_items) == (2996, 428, 7000)


def test_the_report_can_be_read_by_programs_and_in_notebooks():
    report = detect_leaks(sample_of(*impressions(), {"<b>": HONEST["random"], "copy": LEAKS["copy"]}))
    message = json.loads(json.dumps(report.to_json()))
    assert message["suspicious"] == ["copy"]
    assert [row["feature"] for row in message["features"]] == ["copy", "<b>"]
    assert message["features"][0]["p"] <= 0.01
    shown = to_html(report)
    assert "&lt;b&gt;" in shown
    assert "in 100.0% of pairs" in shown


contexts = st.lists(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, np.inf, -np.inf, np.nan])), max_size=6
    ),
    min_size=1,
    max_size=8,
)


def ordered(value):
    return (0, 0) if np.isnan(value) else (1, value)


def slow_auc(contexts):
    """Every pair of every context, weighted as van Elteren has it."""
    total = weights = 0.0
    for rows in contexts:
        above = [ordered(v) for positive, v in rows if positive]
        below = [ordered(v) for positive, v in rows if not positive]
        if above and below:
            wins = sum((a > b) + (a == b) / 2 for a in above for b in below) / len(above) / len(below)
            weight = len(above) * len(below) / (len(rows) + 1)
            total, weights = total + weight * wins, weights + weight
    return total / weights


@settings(max_examples=150, deadline=None)
@given(contexts)
def test_auc_is_that_of_all_pairs_of_each_context(rows):
    rows = [*rows, [(True, 1.0), (False, 2.0)]] + [[(True, 0.0), (False, 0.0)]] * 12
    labels = np.float32([positive for row in rows for positive, _ in row])
    values = np.float32([value for row in rows for _, value in row])
    offsets = np.cumsum([0, *map(len, rows)])
    report = detect_leaks(LeakSample(labels, offsets, {"f": values}), LeakThresholds(permutations=2, p_value=0.7))
    assert report.features[0].where == "within contexts"
    assert report.features[0].auc == pytest.approx(slow_auc(rows), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=60).filter(
        lambda rows: 0 < sum(positive for positive, _ in rows) < len(rows)
    )
)
def test_information_is_that_of_the_codes(rows):
    positive = np.array([p for p, _ in rows])
    codes = np.array([[code] for _, code in rows], dtype=np.uint8)
    none = np.zeros((len(rows), 0), dtype=np.float32)
    _, found = kernels.measure(positive, none, codes, kernels.count_codes(codes))
    assert found[0] == pytest.approx(mutual_info_score(positive, codes[:, 0]), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([np.nan, -3, -0.0, 0.0, 1, 2, 3, 4, 5, 9]), min_size=1, max_size=80), st.integers(1, 12)
)
def test_bins_keep_the_order_and_give_frequent_values_one_of_their_own(values, bins):
    values = np.float32(values)
    keys = kernels.sortable(values)
    codes = kernels.bin_codes(keys, np.argsort(keys), bins)
    assert len(set(codes)) <= 2 * bins + 2
    by_value = {}
    for value, code in zip(np.where(np.isnan(values), None, values + 0.0), codes.tolist(), strict=True):
        by_value.setdefault(value, set()).add(code)
    assert all(len(found) == 1 for found in by_value.values())
    numbers = sorted(value for value in by_value if value is not None)
    assert [by_value[v] for v in numbers] == sorted((by_value[v] for v in numbers), key=min)
    for value, [code] in ((value, list(found)) for value, found in by_value.items()):
        if value is None or (values == value).sum() >= len(values) / bins:
            assert [other for other, found in by_value.items() if code in found] == [value]


def test_shuffling_keeps_each_contexts_positives_and_is_fair():
    chosen = np.array([True, False, False, False, True, True, False])
    offsets = np.array([0, 4, 7])
    items = np.eye(7, dtype=np.float32)  # feature i is 1 for item i: its sum says whether it was chosen
    codes = np.zeros((7, 1), dtype=np.uint8)
    rng = np.random.default_rng(5)
    sums, _ = kernels.measure_shuffled(chosen, offsets, items, codes, kernels.count_codes(codes), rng, 6000)
    assert (sums[:, :4].sum(axis=1) == 1).all()
    assert (sums[:, 4:].sum(axis=1) == 2).all()
    assert sums.mean(axis=0) == pytest.approx([0.25] * 4 + [2 / 3] * 3, abs=0.03)


@pytest.mark.parametrize("groups", [3, 40])
def test_leaving_a_part_out_measures_what_is_left(groups):
    """Groups that stay whole keep their ranks; where items are left out of groups, ranks are made anew."""
    rng = np.random.default_rng(groups)
    positive = np.tile([True, False, False, True, False, True], groups * 4)
    values = rng.choice(np.float32([np.nan, 1, 2, 3]), len(positive)) + positive
    scope = Scope("", np.arange(len(positive)), positive, np.arange(0, len(positive) + 1, len(positive) // groups))
    counted, left = ScopeStatistics.of(scope, [values]), []
    for fold in range(20):
        part = counted.without(fold)
        left += part.scope.items.tolist()
        assert part.observe()[0] == pytest.approx(ScopeStatistics.of(part.scope, [values]).observe()[0], abs=1e-6)
        assert part.scope.positive.tolist() == positive[part.scope.items].tolist()
    assert np.bincount(left).tolist() == [19] * len(positive)

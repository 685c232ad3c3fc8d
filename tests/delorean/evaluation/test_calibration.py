from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from small_ranking_data import ranking_data

from delorean.evaluation.calibration import calibration


def test_bins_are_those_of_scikit_learns_quantile_strategy() -> None:
    random = np.random.default_rng(0)
    scores = random.permutation(1_000).astype(np.float32) / 1_000
    labels = (random.random(1_000) < scores**2) * 1.0
    found = calibration(scores, ranking_data(labels.reshape(100, 10).tolist()))
    shares, claims = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    assert found is not None
    assert [each.mean_score for each in found.bins] == pytest.approx(claims, abs=2e-3)
    assert [each.positives.value for each in found.bins] == pytest.approx(shares, abs=2e-2)
    assert [each.items for each in found.bins] == [100] * 10
    assert found.error == pytest.approx(np.abs(shares - claims).mean(), abs=2e-3)


def test_true_probabilities_are_within_nearly_all_intervals_and_wrong_ones_are_not() -> None:
    random = np.random.default_rng(1)
    scores = random.beta(1, 6, 20_000).astype(np.float32)
    part = ranking_data((random.random(20_000) < scores).reshape(2_000, 10) * 1.0)
    for claimed, expected in ((scores, True), (np.sqrt(scores), False)):
        found = calibration(claimed, part)
        assert found is not None
        inside = [each.positives.low <= each.mean_score <= each.positives.high for each in found.bins]
        assert (sum(inside) >= 8) == expected
        assert (found.error < 0.02) == expected


def test_weights_count_in_claims_and_in_shares() -> None:
    part = ranking_data([[1, 0], [1, 0]], weights=[1, 3], item_weights=[1, 2, 1, 1])
    found = calibration(np.float32([0.5, 0.5, 0.5, 0.5]), part)
    assert found is not None
    assert found.positives == pytest.approx((1 + 3) / (1 + 2 + 3 + 3))
    assert (found.bins[0].items, found.error) == (4, pytest.approx(abs(0.5 - 4 / 9)))


def test_items_of_equal_score_are_in_one_bin() -> None:
    scores = np.float32([0.1] * 95 + [0.2, 0.3, 0.4, 0.5, 0.6])
    found = calibration(scores, ranking_data([[0, 1]] * 50))
    assert found is not None
    assert [each.items for each in found.bins] == [95, 5]


def test_items_without_any_weight_cannot_be_calibrated() -> None:
    assert calibration(np.float32([0.1]), ranking_data([[1]], item_weights=[0])) is None

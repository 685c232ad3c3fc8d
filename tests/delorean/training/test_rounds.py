"""A search sees each round of boosting, and can end a fit after any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from delorean import LightGBM, XGBoost
from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.split import Split, SplitParts


class EnoughError(Exception):
    """Ends a fit."""


@pytest.fixture(scope="module")
def parts(feature_set: pa.Table) -> SplitParts:
    names = ["affinity", "popularity", "noise", "rare"]
    return Split().divide(read_feature_set(feature_set, names, ["video_id"], ["profile_id", "country"]))


@pytest.mark.parametrize("learner", [LightGBM, XGBoost])
@pytest.mark.parametrize("stop_after", [0, 50])
def test_each_round_is_reported_with_the_scores_of_the_model_up_to_it(
    parts: SplitParts, learner: Any, stop_after: int
) -> None:
    rounds: list[tuple[int, NDArray[np.float32]]] = []
    boosted = learner(rounds=6, stop_after=stop_after)
    boosted.fit(parts.train, parts.validation, 0, lambda *of_round: rounds.append(of_round))
    assert [number for number, _ in rounds] == [1, 2, 3, 4, 5, 6]
    for number in (1, 4, 6):
        alone = learner(rounds=number, stop_after=0).fit(parts.train, parts.validation, 0)
        scores = alone.reference(parts.validation.features).astype("float32")
        reported = rounds[number - 1][1]
        np.testing.assert_allclose(reported, scores, atol=1e-5)
        metrics = (measure(each, parts.validation).ndcg_at_10 for each in (reported, scores))
        assert next(metrics) == pytest.approx(next(metrics), abs=1e-4)


@pytest.mark.parametrize("learner", [LightGBM, XGBoost])
def test_an_exception_ends_the_fit_and_is_passed_on(parts: SplitParts, learner: Any) -> None:
    rounds: list[int] = []

    def enough(number: int, scores: NDArray[np.float32]) -> None:
        rounds.append(number)
        if number == 3:
            raise EnoughError(scores)

    with pytest.raises(EnoughError):
        learner(rounds=50, stop_after=0).fit(parts.train, parts.validation, 0, enough)
    assert rounds == [1, 2, 3]


@pytest.mark.parametrize("learner", [LightGBM, XGBoost])
def test_a_fit_that_is_watched_is_the_same_fit(parts: SplitParts, learner: Any) -> None:
    features = parts.validation.features
    watched = learner(rounds=8, stop_after=0).fit(parts.train, parts.validation, 0, lambda *_: None)
    alone = learner(rounds=8, stop_after=0).fit(parts.train, parts.validation, 0)
    assert (watched.reference(features) == alone.reference(features)).all()

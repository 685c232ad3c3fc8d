from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pyarrow as pa
import pytest
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline

from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import RankingColumns, read_feature_set, read_parts
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.training.baselines import shuffled_sample, with_shuffled_labels
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.boosting import BoostedTrees
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.xgboost import XGBoost
from delorean.training.report import TrainingReport
from schemas.errors import ConfigError, PackageError, TrainingError

FEATURES = ["affinity", "popularity", "noise", "rare"]


@pytest.fixture(scope="module")
def data(feature_set: pa.Table) -> RankingData:
    return read_feature_set(feature_set, FEATURES, ["video_id"], ["profile_id", "country"])


@pytest.fixture(scope="module")
def trained(data: RankingData) -> TrainedModel:
    return train(data)


def ndcg(report: TrainingReport, who: str) -> float:
    return report.metrics[who]["test"].ndcg_at_10


def test_the_model_beats_popularity_and_shuffled_labels_know_nothing(trained: TrainedModel) -> None:
    report = trained.report
    assert ndcg(report, "model") > ndcg(report, "popularity") + 0.05
    assert ndcg(report, "model") > ndcg(report, "shuffled") + 0.15
    assert ndcg(report, "popularity") > ndcg(report, "shuffled")


def test_the_features_that_tell_are_the_important_ones(trained: TrainedModel) -> None:
    lost = trained.report.importances
    assert max(lost, key=lambda name: lost[name]) == "affinity"
    assert abs(lost["noise"]) < 0.05 < lost["affinity"]


def test_training_twice_gives_the_same_model_and_report(data: RankingData, trained: TrainedModel) -> None:
    again = train(data)
    assert again.onnx == trained.onnx
    seconds = trained.report.seconds
    assert msgspec.structs.replace(again.report, seconds=seconds) == trained.report


def test_the_report_is_json_and_back(trained: TrainedModel) -> None:
    text = json.dumps(msgspec.to_builtins(trained.report), allow_nan=False)
    assert msgspec.convert(json.loads(text), TrainingReport) == trained.report
    with pytest.raises(msgspec.ValidationError, match="unknown field `surprise`"):
        msgspec.convert({**json.loads(text), "surprise": 1}, TrainingReport)
    assert trained.report.sizes["train"]["items"] == 420 * 12


def test_a_pipeline_with_an_imputer_trains_with_weights(data: RankingData) -> None:
    weights = np.random.default_rng(0).random(len(data))
    weighted = RankingData(**{**vars(data), "weights": weights})
    model = make_pipeline(SimpleImputer(), LogisticRegression())
    plain, heavy = train(data, model=model), train(weighted, model=model)
    assert ndcg(plain.report, "model") > ndcg(plain.report, "popularity")
    some = data.features[:50]
    assert not np.array_equal(OnnxScorer(plain.onnx).score(some), OnnxScorer(heavy.onnx).score(some))


def test_weights_reach_the_default_model(data: RankingData, trained: TrainedModel) -> None:
    weights = np.random.default_rng(0).random(len(data))
    assert train(RankingData(**{**vars(data), "weights": weights})).onnx != trained.onnx


def test_our_own_validation_part_stops_the_default_model(trained: TrainedModel) -> None:
    assert trained.fitted.n_iter_ < trained.fitted.max_iter


def test_unknown_values_without_an_imputer_are_explained(data: RankingData) -> None:
    with pytest.raises(TrainingError, match="LogisticRegression cannot be fitted: .* → put an imputer before it"):
        train(data, model=LogisticRegression())


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_class_are_refused(data: RankingData, label: float) -> None:
    constant: Any = {**vars(data), "labels": np.full_like(data.labels, label)}
    with pytest.raises(TrainingError, match="of the training part are of one class"):
        train(RankingData(**constant), Split())


def test_a_feature_that_is_never_known_changes_nothing(data: RankingData, trained: TrainedModel) -> None:
    features = data.features.copy()
    features[:, FEATURES.index("noise")] = np.nan
    without = train(replace(data, features=features))
    assert without.report.importances["noise"] == 0
    assert ndcg(without.report, "model") > ndcg(trained.report, "popularity")


def test_a_forest_learns_from_missing_values_and_its_report_says_so(data: RankingData) -> None:
    trained = train(data, model=RandomForestClassifier(10, max_depth=4, random_state=0))
    assert np.isnan(data.features).any()
    assert trained.report.missing_values == "used"


def test_missing_values_that_came_after_training_are_refused_with_the_way_out(data: RankingData) -> None:
    complete = replace(data, features=np.nan_to_num(data.features))
    assert train(complete, model=LogisticRegression()).report.missing_values == "refused"
    complete.features[-1, 1] = np.nan
    with pytest.raises(
        PackageError, match=rf"LogisticRegression accepts no missing values, and '{data.names[1]}' is missing"
    ):
        train(complete, model=LogisticRegression())


def test_a_learner_that_onnx_cannot_express_is_refused_before_it_is_fitted(data: RankingData) -> None:
    with pytest.raises(TrainingError, match="NearestCentroid cannot be written as ONNX"):
        train(data, model=NearestCentroid())


@pytest.mark.parametrize(
    "learner", [LightGBM(rounds=30), XGBoost("binary:logistic", rounds=30)], ids=lambda one: one.name
)
def test_trees_are_what_is_measured_and_their_onnx_form_scores_as_the_learner(
    data: RankingData, learner: BoostedTrees
) -> None:
    model = train(data, model=replace(learner, threads=1))
    assert model.trees is not None
    assert isinstance(model.scorer, TreeScorer)
    test = Split().divide(data).test
    assert model.report.metrics["model"]["test"] == measure(model.scorer.score(test.features), test)
    np.testing.assert_allclose(model.scorer.score(test.features), model.reference(test.features), rtol=1e-6)
    np.testing.assert_allclose(OnnxScorer(model.onnx).score(test.features), model.reference(test.features), rtol=1e-5)
    assert model.report.model == learner.name
    assert model.report.rounds == model.model.rounds
    assert ndcg(model.report, "model") > ndcg(model.report, "popularity") + 0.05
    assert ndcg(model.report, "model") > ndcg(model.report, "shuffled") + 0.15


def test_parts_that_were_read_without_a_copy_train_the_same_model_as_ranking_data(
    data: RankingData, feature_set: pa.Table
) -> None:
    columns = RankingColumns(tuple(FEATURES), ("video_id",), ("profile_id", "country"))
    learner = LightGBM(rounds=20, threads=1)
    models = [train(data, model=learner)]
    models += [
        train(read_parts(feature_set, columns, Split(), in_memory=in_memory), model=learner)
        for in_memory in (0, 1 << 30)
    ]
    assert len({model.onnx for model in models}) == 1
    assert len({json.dumps(msgspec.to_builtins(model.report.metrics)) for model in models}) == 1


def test_an_estimator_of_another_library_is_answered_with_the_learner_to_pass(data: RankingData) -> None:
    with pytest.raises(TrainingError, match=r"LGBMRanker is an estimator of lightgbm.*pass delorean.LightGBM"):
        train(data, model=lightgbm.LGBMRanker())
    with pytest.raises(TrainingError, match=r"XGBRanker is an estimator of xgboost.*pass delorean.XGBoost"):
        train(data, model=xgboost.XGBRanker())


@pytest.mark.parametrize(("library", "learner"), [("lightgbm", LightGBM()), ("xgboost", XGBoost())])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    data: RankingData, library: str, learner: BoostedTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"{library} is not installed.*pip install 'delorean-features\[{library}\]'"):
        train(data, model=learner)


def test_shuffled_labels_are_learned_from_a_sample_of_contexts(data: RankingData) -> None:
    sample = shuffled_sample(data, 0, most=1_200)
    assert 60 < len(sample) < 140
    assert sample.labels.sum() == pytest.approx(data.labels.sum() / 6, rel=0.3)
    assert shuffled_sample(data, 0).labels.tolist() == with_shuffled_labels(data, 0).labels.tolist()

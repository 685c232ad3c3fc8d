"""What a training's report says about how certainly its model is good."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from delorean.training.fitting import TrainedModel, train
from delorean.training.report import TrainingReport

FEATURES = ["affinity", "popularity", "noise", "rare"]
ENCODERS = {"taste": ("affinity", "rare"), "crowd": ("popularity",)}
SETTINGS = EvaluationSettings(
    at=(5, 10), by=("country", "stratum"), cluster="profile_id", replicates=200, learning_curve=(0.1, 0.4), repeats=2
)


@pytest.fixture(scope="module")
def data(feature_set: pa.Table) -> RankingData:
    strata = pa.array(["rare" if i % 7 == 0 else None for i in range(len(feature_set))])
    kept = feature_set.append_column("stratum", strata)
    return read_feature_set(kept, FEATURES, ["video_id"], ["profile_id", "country"], kept=["stratum"])


@pytest.fixture(scope="module")
def trained(data: RankingData) -> TrainedModel:
    return train(data, evaluation=SETTINGS, encoders=ENCODERS)


def test_every_metric_has_an_interval_around_what_the_report_has_always_said(trained: TrainedModel) -> None:
    evaluation = trained.report.evaluation
    assert evaluation is not None
    for name, part in evaluation.parts.items():
        plain = trained.report.metrics["model"][name]
        assert part.metrics["ndcg@10"].value == pytest.approx(plain.ndcg_at_10)
        assert part.metrics["mrr"].value == pytest.approx(plain.mrr)
        assert part.metrics["auc"].value == pytest.approx(plain.auc)
        assert all(each.low < each.value < each.high for each in part.metrics.values())
    assert evaluation.over_popularity["test"]["ndcg@10"].excludes_zero


def test_parts_are_measured_by_variable_by_carried_column_and_by_day(trained: TrainedModel) -> None:
    evaluation = trained.report.evaluation
    assert evaluation is not None
    groups = {(group.by, group.group) for group in evaluation.parts["test"].groups}
    assert groups == {
        ("country", "US"),
        ("country", "DE"),
        ("stratum", "rare"),
        ("stratum", "null"),
        ("day since training", "0"),
    }


def test_probabilities_are_calibrated_on_the_validation_part_that_chose_the_model(trained: TrainedModel) -> None:
    evaluation = trained.report.evaluation
    assert evaluation is not None
    calibration = evaluation.parts["validation"].calibration
    assert calibration is not None
    assert len(calibration.bins) == 10
    assert calibration.error < 0.1


def test_importances_are_those_of_features_and_of_encoders(trained: TrainedModel) -> None:
    evaluation = trained.report.evaluation
    assert evaluation is not None
    assert [each.name for each in evaluation.features] == FEATURES
    taste, crowd = evaluation.encoders
    assert taste.ndcg_lost.low > crowd.ndcg_lost.high
    assert trained.report.importances["affinity"] == evaluation.features[0].ndcg_lost.value


def test_the_learning_curve_rises_to_the_model(trained: TrainedModel) -> None:
    evaluation = trained.report.evaluation
    assert evaluation is not None
    shares = [point.share for point in evaluation.learning_curve]
    contexts = [point.contexts for point in evaluation.learning_curve]
    whole = trained.report.sizes["train"]["contexts"]
    assert shares == [0.1, 0.4]
    assert contexts == [round(0.1 * whole), round(0.4 * whole)]
    ndcg = [point.metrics["ndcg@10"].value for point in evaluation.learning_curve]
    assert ndcg[0] < ndcg[1] + 0.02 < evaluation.parts["validation"].metrics["ndcg@10"].value + 0.05


def test_a_learning_curve_ends_when_its_time_is_over(data: RankingData) -> None:
    settings = EvaluationSettings(replicates=100, learning_curve=(0.2, 0.5), learning_curve_seconds=1e-9)
    evaluation = train(data, evaluation=settings).report.evaluation
    assert evaluation is not None
    assert len(evaluation.learning_curve) <= 1


def test_days_are_not_counted_where_the_split_is_not_by_time(data: RankingData) -> None:
    split = Split(by_time=False, group="profile_id")
    evaluation = train(data, split, evaluation=EvaluationSettings(replicates=100)).report.evaluation
    assert evaluation is not None
    assert evaluation.parts["test"].groups == ()


def test_a_report_is_read_back_and_one_of_an_earlier_release_still_is(trained: TrainedModel) -> None:
    stored = msgspec.to_builtins(trained.report)
    assert msgspec.convert(stored, TrainingReport, strict=False) == trained.report
    del stored["evaluation"]
    assert msgspec.convert(stored, TrainingReport).evaluation is None


def test_the_same_data_gives_the_same_evaluation(data: RankingData, trained: TrainedModel) -> None:
    again = train(data, evaluation=SETTINGS, encoders=ENCODERS).report.evaluation
    before = trained.report.evaluation
    assert again is not None
    assert before is not None
    assert msgspec.structs.replace(again, learning_curve=()) == msgspec.structs.replace(before, learning_curve=())


def test_carried_columns_stay_with_their_contexts(feature_set: pa.Table) -> None:
    numbered = feature_set.append_column("number", pa.array(np.arange(len(feature_set))))
    data = read_feature_set(numbered, FEATURES, ["video_id"], ["profile_id", "country"], kept=["number"], max_items=999)
    for row in data.contexts.to_pylist():
        assert numbered["time"][row["number"]].as_py() == row["time"]

"""XGBoost in Spark tasks: the trees of this process, each worker with its own share, and clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from delorean.evaluation.measure import measure
from delorean.ranking_data.feature_set_reader import FeatureSetSource, RankingColumns, read_feature_set
from delorean.ranking_data.split import Split
from delorean.training.distributed import train_on_spark
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.xgboost import XGBoost
from delorean.training.shared_fit import common_metric, weight_of_measured
from schemas.errors import TrainingError

COLUMNS = RankingColumns(("affinity", "popularity", "noise", "rare"), ("video_id",), ("profile_id", "country"))
LEARNER = XGBoost("rank:ndcg", {"max_depth": 4}, rounds=25, stop_after=5, threads=1)


@pytest.fixture(scope="module")
def source(feature_set: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> FeatureSetSource:
    """Four files, the first two of which have nothing of the validation and test parts."""
    path = str(tmp_path_factory.mktemp("distributed") / "set")
    by_time = feature_set.sort_by("time")
    for start in range(0, 600, 150):
        write_deltalake(path, by_time.slice(start, 150), mode="append")
    return FeatureSetSource(path, None, COLUMNS)


def fitted(spark: SparkSession, source: FeatureSetSource, workers: int) -> TrainedModel:
    return train_on_spark(spark, source, Split(), LEARNER, workers)


def test_one_worker_fits_the_trees_that_this_process_fits(spark: SparkSession, source: FeatureSetSource) -> None:
    here = train(source.parts(Split()), Split(), LEARNER)
    there = fitted(spark, source, 1)
    assert there.trees == here.trees
    assert there.onnx == here.onnx
    assert there.report.metrics == here.report.metrics


def test_two_workers_fit_the_same_trees_twice_and_rank_as_well(spark: SparkSession, source: FeatureSetSource) -> None:
    models = [fitted(spark, source, 2) for _ in range(2)]
    assert models[0].trees == models[1].trees
    report = models[0].report
    assert report.sizes["fitted"] == {"contexts": 420, "items": 5_040, "workers": 2}
    alone = train(source.parts(Split()), Split(), LEARNER).report.metrics["model"]["test"].ndcg_at_10
    assert report.metrics["model"]["test"].ndcg_at_10 == pytest.approx(alone, abs=0.03)
    assert report.metrics["model"]["test"].ndcg_at_10 > report.metrics["popularity"]["test"].ndcg_at_10 + 0.1


def test_a_sample_bounds_what_is_measured_not_what_is_learned(spark: SparkSession, source: FeatureSetSource) -> None:
    few = fitted(spark, replace(source, max_items=3_600), 2)
    assert few.trees == fitted(spark, source, 2).trees
    assert few.report.sizes["unread"]["items"] > 3_000
    assert few.report.sizes["fitted"]["items"] == 5_040


def test_a_workers_error_is_the_one_that_is_raised(spark: SparkSession, source: FeatureSetSource) -> None:
    for learner, message in [
        (replace(LEARNER, categorical=("noise",)), r"categorical feature 'noise' has \d+ values that are no category"),
        (replace(LEARNER, parameters={"max_depth": -3}), "XGBoost rank:ndcg cannot be fitted: .*max_depth"),
    ]:
        with pytest.raises(TrainingError, match=message):
            train_on_spark(spark, source, Split(), learner, 2)


def test_workers_that_could_never_run_together_are_rejected_at_once(
    spark: SparkSession, source: FeatureSetSource, feature_set: pa.Table, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="3 workers fit together, and the Spark session runs 2 tasks"):
        fitted(spark, source, 3)
    write_deltalake(str(tmp_path / "one"), feature_set)
    with pytest.raises(TrainingError, match="2 workers fit together, and the feature set has 1 files"):
        fitted(spark, replace(source, uri=str(tmp_path / "one")), 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_metric_of_all_workers_is_that_of_their_parts_together(feature_set: pa.Table, weighted: bool) -> None:
    """Some contexts have no positive, some items no weight: a mean of the workers' means would stop elsewhere."""
    data = read_feature_set(feature_set, COLUMNS.features, COLUMNS.items, COLUMNS.context)
    random = np.random.default_rng(0)
    labels = np.where(np.repeat(np.arange(600) % 5 == 0, 12), np.float32(0), data.labels)
    whole = replace(data, labels=labels)
    if weighted:
        item_weights = (np.arange(7_200) % 3).astype(np.float32)
        whole = replace(whole, weights=random.random(600) * 5, own_item_weights=item_weights)
    scores = random.random(7_200).astype(np.float32)
    shares = [(whole.between(0, 100), scores[:1_200]), (whole.between(100, 600), scores[1_200:])]
    sums = [
        (measure(own, part).ndcg_at_10 * weight_of_measured(part), weight_of_measured(part)) for part, own in shares
    ]
    total, weights = np.sum(sums, axis=0)
    assert total / weights.sum() == pytest.approx(measure(scores, whole).ndcg_at_10, rel=1e-12)
    assert weight_of_measured(whole.between(0, 1)) == 0
    assert common_metric(whole)(scores) == pytest.approx(measure(scores, whole).ndcg_at_10)

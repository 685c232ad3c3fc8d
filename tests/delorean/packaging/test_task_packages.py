"""Packages of one model for several tasks: what each task's items score, and what is rejected."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from delorean.packaging.package import ModelPackage, load_package, tasks_of_items
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.task_scorers import with_task
from delorean.tasks.impossible_features import task_numbers
from delorean.tasks.task_set import TASK_VARIABLE
from delorean.training.consolidation.settings import Consolidation
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.xgboost import XGBoost
from schemas.errors import PackageError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above
from task_company import NAMES, TASKS, golden_maps, ranking_data, write_tasks

CASES = {
    "lightgbm": (lambda: LightGBM("lambdarank", {"num_leaves": 7}, rounds=24, stop_after=0, threads=1), "trunk"),
    "xgboost": (lambda: XGBoost("rank:ndcg", {"max_depth": 3}, rounds=24, stop_after=8, threads=1), "trunk"),
    "task feature": (lambda: LightGBM("lambdarank", {"num_leaves": 7}, rounds=24, threads=1), "weighted"),
    "scikit-learn": (lambda: None, "task_type"),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def trained(request: pytest.FixtureRequest) -> TrainedModel:
    learner, sharing = CASES[request.param]
    settings = Consolidation(sharing, calibration="isotonic", compare=(sharing,))
    return train(ranking_data(), model=learner(), tasks=TASKS, consolidation=settings)


@pytest.fixture(scope="module")
def package(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_tasks(tmp_path_factory.mktemp("packages") / "tasks", trained)


def test_each_task_scores_with_the_bits_of_its_own_model_and_onnx(package: ModelPackage, trained: TrainedModel) -> None:
    data = ranking_data()
    numbers = np.repeat(task_numbers(data.contexts, TASKS), np.diff(data.offsets))
    scores = package.score(data.features, numbers)
    assert (scores == package.score(data.features, [NAMES[number] for number in numbers])).all()
    for number, name in enumerate(NAMES):
        rows = data.features[numbers == number]
        alone = package.score(rows, name)
        assert (alone == scores[numbers == number]).all()
        assert (alone[:3] == package.score(rows[:3], name)).all()  # few rows are walked
        if trained.own:
            theirs, onnx = trained.own[number], package.path / "onnx" / f"{name}.onnx"
        else:
            theirs, onnx = trained, package.path / "model.onnx"
            rows = with_task(rows, np.full(len(rows), number))
        assert alone == pytest.approx(theirs.reference(rows).astype(np.float32), rel=1e-6, abs=1e-7)
        if theirs.trees is not None and theirs.trees.link == "identity":
            assert (alone == theirs.reference(rows).astype(np.float32)).all()
        assert alone == pytest.approx(OnnxScorer(onnx.read_bytes()).score(rows), rel=1e-6, abs=1e-7)


def test_golden_rows_are_of_every_task_and_are_reproduced_with_probabilities(package: ModelPackage) -> None:
    loaded = load_package(package.path, modules=company.MODULES)
    loaded.check_golden_rows()
    assert loaded.tasks == TASKS
    assert {*tasks_of_items(loaded.golden.maps, TASKS)} == {0, 1, 2}
    assert loaded.golden.probabilities is not None
    assert np.isfinite(loaded.golden.probabilities).all()
    similar = tasks_of_items(loaded.golden.maps, TASKS) == 2
    listed = loaded.golden.features[:, loaded.features.index("listed")]
    assert (listed[similar] == 0).all()
    assert (listed[~similar] > 0).any()


def test_probabilities_never_reverse_an_order(package: ModelPackage) -> None:
    data = ranking_data()
    for name in NAMES:
        scores = np.sort(package.score(data.features, name))
        probabilities = package.probabilities(scores, name)
        assert probabilities is not None
        assert (np.diff(probabilities) >= 0).all()
        assert probabilities[0] < probabilities[-1]


def test_a_package_of_tasks_is_not_scored_without_one_nor_for_an_unknown_one(package: ModelPackage) -> None:
    rows = ranking_data().features[:4]
    with pytest.raises(PackageError, match="serves the tasks home, search, similar → name the task"):
        package.score(rows)
    with pytest.raises(PackageError, match="unknown task 'serach' → did you mean 'search'"):
        package.score(rows, "serach")
    with pytest.raises(PackageError, match="number is 0 or 3, expected 0 to 2"):
        package.score(rows, np.array([0, 1, 2, 3]))


def test_a_package_without_tasks_has_none_to_name(tmp_path: Path) -> None:
    package = company.write_company(tmp_path / "company", company.train_company())
    assert (package.tasks, package.probabilities(np.zeros(1, np.float32), "home")) == (None, None)
    with pytest.raises(PackageError, match="has no tasks"):
        package.score(company.ranking_data().features[:1], "home")


def test_golden_rows_that_lack_a_task_are_refused_by_its_name(trained: TrainedModel, tmp_path: Path) -> None:
    maps = golden_maps()
    contexts = maps.contexts.set_column(3, TASK_VARIABLE, pa.array(["home", "search"] * (len(maps.contexts) // 2)))
    with pytest.raises(PackageError, match="task 'similar' has none of 40 contexts for golden rows"):
        write_tasks(tmp_path / "package", trained, replace(maps, contexts=contexts))

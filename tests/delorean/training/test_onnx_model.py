from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.training.agreement import refuse_disagreement
from delorean.training.onnx_model import to_onnx
from schemas.errors import PackageError, TrainingError

MODELS = [
    HistGradientBoostingClassifier(max_iter=30, random_state=0),
    HistGradientBoostingRegressor(max_iter=10, random_state=0),
    make_pipeline(SimpleImputer(), HistGradientBoostingClassifier(max_iter=10, random_state=0)),
    make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    make_pipeline(SimpleImputer(), RidgeClassifier()),
]


@pytest.fixture(scope="module")
def rows() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features with unknowns, and one whose values are neighbours among float32, which thresholds must tell apart."""
    random = np.random.default_rng(0)
    features = random.normal(size=(4_000, 6)).astype(np.float32)
    step = random.integers(0, 50, 4_000)
    features[:, 3] = np.float32(1) + step.astype(np.float32) * np.float32(2**-23)
    wanted = (random.random(4_000) < 1 / (1 + np.exp(-(features[:, 0] + step / 12 - 2)))).astype(np.int64)
    features[random.random(features.shape) < 0.1] = np.nan
    return features, wanted


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_onnx_gives_the_scores_of_scikit_learn_and_the_same_bits_in_any_company(
    model: Any, rows: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    features, wanted = rows
    model.fit(features, wanted)
    scorer = OnnxScorer(to_onnx(model, 6))
    refuse_disagreement(scorer, model, features)
    together = scorer.score(features)
    alone = np.concatenate([scorer.score(features[i : i + 1]) for i in range(150)])
    assert (alone.view(np.uint32) == together[:150].view(np.uint32)).all()
    order = np.random.default_rng(1).permutation(len(features))
    assert (scorer.score(features[order]).view(np.uint32) == together[order].view(np.uint32)).all()
    assert len(scorer.score(features[:0])) == 0


def test_a_model_whose_onnx_scores_differ_is_refused(rows: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    features, wanted = rows
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(features, wanted)
    other = HistGradientBoostingClassifier(max_iter=6, random_state=0).fit(features, wanted)
    with pytest.raises(PackageError, match="disagrees with HistGradientBoostingClassifier in .* of 4000 rows"):
        refuse_disagreement(OnnxScorer(to_onnx(model, 6)), other, features)


@pytest.mark.parametrize("model", [LinearSVC(random_state=0), SGDClassifier(random_state=0)], ids=str)
def test_a_decision_function_scores_too(model: Any, rows: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    features, wanted = np.nan_to_num(rows[0]), rows[1]
    model.fit(features, wanted)
    refuse_disagreement(OnnxScorer(to_onnx(model, 6)), model, features)


def test_forests_score_too(rows: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    features, wanted = rows
    model = make_pipeline(SimpleImputer(), RandomForestClassifier(5, max_depth=4, random_state=0))
    scorer = OnnxScorer(to_onnx(model.fit(features, wanted), 6))
    refuse_disagreement(scorer, model, features)
    assert np.abs(scorer.score(features) - model.predict_proba(features)[:, 1]).max() < 1e-5


def test_a_model_that_onnx_cannot_express_is_refused() -> None:
    class Mine(BaseEstimator):
        pass

    with pytest.raises(TrainingError, match="Mine cannot be written as ONNX"):
        to_onnx(Mine(), 3)


def onnx_file(node: Any, initializers: list[Any]) -> bytes:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        initializers,
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("evil.ops", 1)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    return data


def test_models_that_reach_out_of_themselves_are_refused() -> None:
    outside = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 1])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(PackageError, match="reads 'w' from another file"):
        OnnxScorer(onnx_file(helper.make_node("MatMul", ["x", "w"], ["y"]), [outside]))
    with pytest.raises(PackageError, match="operators of 'evil.ops'"):
        OnnxScorer(onnx_file(helper.make_node("Run", ["x"], ["y"], domain="evil.ops"), []))
    for broken in (b"not onnx at all", b""):
        with pytest.raises(PackageError):
            OnnxScorer(broken)


def test_features_of_another_shape_are_refused(rows: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    features, wanted = rows
    scorer = OnnxScorer(to_onnx(HistGradientBoostingClassifier(max_iter=2).fit(features, wanted), 6))
    with pytest.raises(PackageError, match=r"float32 \(rows, 6\)"):
        scorer.score(features[:, :5])

"""Converts scikit-learn's trees: histogram gradient boosting, forests and single trees."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_arrays import Tree, join_trees, number_nodes
from delorean.scoring.trees import TreeEnsemble, largest_float32

_BOOSTED = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
_FORESTS = ("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor")
_TREES = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")


def sklearn_trees(model: Any) -> TreeEnsemble | None:
    """Convert a fitted scikit-learn model; None for any other model, and for several classes or outputs.

    A classifier's score is the second class's probability, a regressor's its prediction.
    """
    if _is_one_of(model, "sklearn.ensemble", _BOOSTED):
        return _boosted(model)
    if _is_one_of(model, "sklearn.ensemble", _FORESTS):
        return _averaged(model, model.estimators_)
    if _is_one_of(model, "sklearn.tree", _TREES):
        return _averaged(model, [model])
    return None


def _is_one_of(model: Any, module: str, names: tuple[str, ...]) -> bool:
    """Return whether a model is of one of these classes itself: a subclass may score in another way."""
    imported = sys.modules.get(module)
    return imported is not None and any(type(model) is getattr(imported, name) for name in names)


def _averaged(model: Any, estimators: Any) -> TreeEnsemble | None:
    classifier = hasattr(model, "classes_")
    if model.n_outputs_ != 1 or (classifier and model.n_classes_ != 2):
        return None
    trees = []
    for each in (estimator.tree_ for estimator in estimators):
        state = each.__getstate__()["nodes"]
        nodes, leaves, left, right = number_nodes(each.children_left, each.children_right, each.children_left < 0)
        trees.append(
            Tree(
                each.feature[nodes],
                largest_float32(each.threshold[nodes]),
                left,
                right,
                state["missing_go_to_left"][nodes].astype(np.bool_),
                each.value[leaves, 0, int(classifier)].astype(np.float64),
            )
        )
    return join_trees(trees, model.n_features_in_, divisor=float(len(trees)))


def _boosted(model: Any) -> TreeEnsemble | None:
    if model.n_trees_per_iteration_ != 1:
        return None
    features, values = np.arange(model.n_features_in_), [np.zeros(0, np.float32)] * model.n_features_in_
    if model._preprocessor is not None:
        categorical = model._preprocessor.output_indices_["encoder"]
        chosen = np.asarray(model.is_categorical_, np.bool_)
        features = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
        known = model._preprocessor.named_transformers_["encoder"].categories_
        if not all(np.issubdtype(each.dtype, np.number) for each in known):
            return None
        values[categorical] = [each[~np.isnan(each)] for each in known]
    log_link = type(model._loss.link).__name__ == "LogLink"
    return join_trees(
        [_boosted_tree(predictor, features, values) for (predictor,) in model._predictors],
        model.n_features_in_,
        base=float(model._baseline_prediction[0, 0]),
        link="sigmoid" if hasattr(model, "classes_") else "exp" if log_link else "identity",
    )


def _boosted_tree(predictor: Any, features: NDArray[np.int64], values: list[NDArray[Any]]) -> Tree:
    """Convert a tree.

    features: column that the trees see → feature; values: column → the category of each code that the trees see
    """
    fields = predictor.nodes
    nodes, leaves, left, right = number_nodes(fields["left"], fields["right"], fields["is_leaf"].astype(np.bool_))
    missing_left = fields["missing_go_to_left"][nodes].astype(np.bool_)
    sets, swapped = {}, np.zeros(len(nodes), np.bool_)
    for position in np.flatnonzero(fields["is_categorical"][nodes]):
        node = fields[nodes[position]]
        words = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
        codes = values[node["feature_idx"]]
        goes_left = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")[: len(codes)] > 0
        # An unknown category goes where a missing one goes: the set holds those that go to the other side.
        swapped[position] = missing_left[position]
        sets[int(position)] = _float32(codes[goes_left != missing_left[position]])
    return Tree(
        features[fields["feature_idx"][nodes]],
        largest_float32(fields["num_threshold"][nodes]),
        np.where(swapped, right, left),
        np.where(swapped, left, right),
        missing_left & ~swapped,
        fields["value"][leaves].astype(np.float64),
        sets=sets,
    )


def _float32(categories: NDArray[Any]) -> NDArray[np.float32]:
    """Return the categories that a float32 can equal, ascending."""
    single = categories.astype(np.float32)
    return np.unique(single[single == categories])

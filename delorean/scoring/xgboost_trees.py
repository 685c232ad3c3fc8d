"""Converts XGBoost's models, from the JSON that XGBoost writes: its numbers are read back as the same float32."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_arrays import Tree, join_trees, number_nodes
from delorean.scoring.trees import Link, TreeEnsemble
from schemas.errors import TrainingError

_LINKS: Mapping[str, Link] = {
    **dict.fromkeys(("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"), "identity"),
    **dict.fromkeys(("reg:squaredlogerror", "binary:logitraw"), "identity"),
    **dict.fromkeys(("rank:ndcg", "rank:map", "rank:pairwise"), "identity"),
    **dict.fromkeys(("binary:logistic", "reg:logistic"), "sigmoid"),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox"), "exp"),
}


def xgboost_trees(booster: Any, missing: float = math.nan) -> TreeEnsemble:
    """Convert an XGBoost `Booster`, up to its best iteration if it stopped early.

    missing: the value that the model reads as missing

    Raises TrainingError for several classes or targets, a linear booster, objectives with another link, and a missing
    value other than NaN.
    """
    if not math.isnan(missing):
        raise _rejected(f"it reads {missing} as missing", "mark missing features as NaN and train with missing = NaN")
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    parameters, gradient = learner["learner_model_param"], learner["gradient_booster"]
    if max(int(parameters["num_class"]), int(parameters.get("num_target", 1))) > 1:
        raise _rejected("it has several classes or targets", "train with one score per row")
    weights = gradient.get("weight_drop")  # of DART's trees
    gradient = gradient.get("gbtree", gradient)
    if "trees" not in gradient.get("model", {}):
        raise _rejected("its booster is linear", 'train with booster = "gbtree"')
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise _rejected(f"its objective is '{objective}'", "use a ranking, logistic or plain regression objective")
    trees = [_tree(tree) for tree in gradient["model"]["trees"]]
    if weights is not None:
        trees = [_weighted(tree, np.float32(weight)) for tree, weight in zip(trees, weights, strict=True)]
    return join_trees(
        trees[: _used(booster, gradient["model"], len(trees))],
        int(parameters["num_feature"]),
        base=_margin(json.loads(parameters["base_score"]), _LINKS[objective]),
        single=True,
        link=_LINKS[objective],
        rounding="down",
    )


def _used(booster: Any, model: Mapping[str, Any], trees: int) -> int:
    """Return the number of trees up to the best iteration, or of all."""
    best = booster.attributes().get("best_iteration")
    starts = model.get("iteration_indptr") or range(trees + 1)
    return trees if best is None else int(starts[min(int(best) + 1, len(starts) - 1)])


def _margin(base_score: Any, link: Link) -> float:
    """Return the base score before the link, rounded as XGBoost does: it is kept as the link's result."""
    base = np.float32(base_score[0] if isinstance(base_score, list) else base_score)
    if link == "sigmoid":
        return float(np.float32(-math.log(np.float32(1) / base - np.float32(1))))
    return float(np.float32(math.log(base))) if link == "exp" else float(base)


def _tree(tree: Mapping[str, Any]) -> Tree:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise _rejected("its leaves hold several scores", "train with one score per row")
    left, right = (np.array(tree[side], np.int64) for side in ("left_children", "right_children"))
    nodes, leaves, left_child, right_child = number_nodes(left, right, left < 0)
    conditions = np.array(tree["split_conditions"], np.float32)
    if np.isneginf(conditions[nodes]).any():
        raise _rejected("a threshold is infinite", "train with finite features")
    sets = dict(_sets(tree, nodes))
    missing_left = np.array(tree["default_left"], np.bool_)[nodes]
    # A category of the set goes right, every other value left: the children change places.
    categorical = np.zeros(len(nodes), np.bool_)
    categorical[list(sets)] = True
    with np.errstate(over="ignore"):
        below = np.nextafter(conditions[nodes], np.float32(-np.inf))  # x < t: x <= the float32 below t
    return Tree(
        np.array(tree["split_indices"], np.int32)[nodes],
        below,
        np.where(categorical, right_child, left_child),
        np.where(categorical, left_child, right_child),
        missing_left ^ categorical,
        conditions[leaves].astype(np.float64),
        sets=sets,
    )


def _sets(tree: Mapping[str, Any], nodes: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield each categorical node's position and its categories."""
    place = {int(node): position for position, node in enumerate(nodes)}
    categories = np.array(tree["categories"], np.float32)
    parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    for node, start, size in parts:
        if int(node) in place:  # otherwise it was pruned
            yield place[int(node)], np.sort(categories[int(start) : int(start) + int(size)])


def _weighted(tree: Tree, weight: np.float32) -> Tree:
    values = (tree.leaf_values.astype(np.float32) * weight).astype(np.float64)
    return Tree(**{**vars(tree), "leaf_values": values})


def _rejected(reason: str, hint: str) -> TrainingError:
    return TrainingError.because(f"the XGBoost model cannot be written as plain trees: {reason}", hint)

"""Converts LightGBM's models, from the text that LightGBM writes: it holds every number exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_arrays import Tree, join_trees
from delorean.scoring.trees import ZERO, Link, TreeEnsemble, largest_float32
from schemas.errors import TrainingError

_CATEGORICAL, _DEFAULT_LEFT, _ZERO_MISSING, _NAN_MISSING = 1, 2, 1 << 2, 2 << 2  # bits of a decision type
_LINKS: Mapping[str, Link] = {
    **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), "identity"),
    **dict.fromkeys(("lambdarank", "rank_xendcg", "custom", "none"), "identity"),
    **dict.fromkeys(("binary", "cross_entropy"), "sigmoid"),
    **dict.fromkeys(("poisson", "gamma", "tweedie"), "exp"),
}


def lightgbm_trees(booster: Any) -> TreeEnsemble:
    """Convert a LightGBM `Booster`, up to its best iteration.

    Raises TrainingError for several classes, linear trees, and objectives with another link.
    """
    header, *sections = booster.model_to_string().split("\nTree=")
    model = _fields(header)
    if int(model["num_tree_per_iteration"]) != 1:
        raise _rejected(f"it has {model['num_tree_per_iteration']} classes", "train with one score per row")
    link, scale = _link(model.get("objective", "custom"))
    trees = [_tree(_fields(section)) for section in sections]
    average = "\naverage_output\n" in header
    divisor = float(max(1, len(trees))) if average else 1.0
    features = int(model["max_feature_idx"]) + 1
    return join_trees(trees, features, divisor=divisor, link=link, scale=scale, rounding="toward_zero")


def _fields(section: str) -> dict[str, str]:
    lines = (line.partition("=") for line in section.split("\n\n")[0].splitlines())
    return {name: value for name, _, value in lines}


def _link(objective: str) -> tuple[Link, float]:
    name, *options = objective.split() or ["custom"]
    if "sqrt" in options or name not in _LINKS:
        raise _rejected(f"its objective is '{objective}'", "use a ranking, binary or plain regression objective")
    scale = next((float(option.partition(":")[2]) for option in options if option.startswith("sigmoid:")), 1.0)
    return _LINKS[name], scale if _LINKS[name] == "sigmoid" else 1.0


def _tree(tree: Mapping[str, str]) -> Tree:
    if tree.get("is_linear", "0") != "0":
        raise _rejected("its leaves are linear models", "train with linear_tree = false")
    leaf_values = _numbers(tree, "leaf_value", np.float64)
    if int(tree["num_leaves"]) == 1:
        none = np.zeros(0, np.int32)
        return Tree(none, none.astype(np.float32), none, none, none.astype(np.bool_), leaf_values[:1])
    kind, threshold = _numbers(tree, "decision_type", np.int32), _numbers(tree, "threshold", np.float64)
    categorical, default_left = (kind & _CATEGORICAL) > 0, (kind & _DEFAULT_LEFT) > 0
    zero_missing, nan_missing = (kind & _ZERO_MISSING) > 0, (kind & _NAN_MISSING) > 0
    # Where NaN is not the missing value, it is compared as 0. A NaN is of no category.
    missing_left = np.where(zero_missing | nan_missing, default_left, threshold >= 0) & ~categorical
    return Tree(
        _numbers(tree, "split_feature", np.int32),
        _without_tiny(largest_float32(threshold)),
        _numbers(tree, "left_child", np.int32),
        _numbers(tree, "right_child", np.int32),
        missing_left,
        leaf_values,
        zero_missing & ~categorical,
        dict(_sets(tree, threshold, np.flatnonzero(categorical))),
    )


def _without_tiny(threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move thresholds among the values that LightGBM reads as 0 to either end: a row goes where 0 goes."""
    below = (threshold >= -ZERO) & (threshold < 0)
    tiny = (threshold >= 0) & (threshold < ZERO)
    return np.where(below, np.nextafter(-ZERO, np.float32(-np.inf)), np.where(tiny, ZERO, threshold))


def _sets(
    tree: Mapping[str, str], threshold: NDArray[np.float64], nodes: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield each categorical node with its categories: its threshold is the number of a set of bits."""
    if len(nodes) == 0:
        return
    boundaries, words = _numbers(tree, "cat_boundaries", np.int64), _numbers(tree, "cat_threshold", np.uint32)
    for node in nodes:
        number = int(threshold[node])
        bits = np.unpackbits(words[boundaries[number] : boundaries[number + 1]].view(np.uint8), bitorder="little")
        categories = np.flatnonzero(bits)
        single = categories.astype(np.float32)
        yield int(node), single[single == categories]  # a float32 equals none of the others


def _numbers(tree: Mapping[str, str], name: str, dtype: Any) -> NDArray[Any]:
    return np.array(tree[name].split(), dtype=np.float64).astype(dtype)


def _rejected(reason: str, hint: str) -> TrainingError:
    return TrainingError.because(f"the LightGBM model cannot be written as plain trees: {reason}", hint)

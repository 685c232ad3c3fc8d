"""Ensembles of decision trees as plain arrays, to which every learner's trees are converted."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from schemas.errors import PackageError

Link = Literal["identity", "sigmoid", "exp"]
Rounding = Literal["none", "toward_zero", "down"]

# LightGBM counts these as zero: |x| up to its float kZeroThreshold.
ZERO = np.float32(1e-35)

# A package of unknown origin stays within these, and so within bounded memory and time.
MOST_FEATURES = 1 << 20
MOST_TREES = 1 << 18
MOST_NODES = 1 << 24
MOST_CATEGORY_BITS = 1 << 27

_ARRAYS = {
    "node_offsets": np.int32,
    "leaf_offsets": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "missing_left": np.bool_,
    "zero_missing": np.bool_,
    "category_set": np.int32,
    "category_offsets": np.int32,
    "categories": np.float32,
    "leaf_values": np.float64,
}


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """Decision trees over float32 features. A row's score is `link(scale * (base + leaf₁ + leaf₂ + …) / divisor)`.

    A numeric node sends a row to the left if its feature is <= the threshold, a categorical one if the feature, rounded
    by `rounding`, is one of the node's categories. A missing feature goes left where `missing_left`, otherwise right.

    features: number of features of a row
    node_offsets, leaf_offsets: (trees + 1,) int32, where the nodes and the leaves of each tree begin
    feature: (nodes,) int32
    threshold: (nodes,) float32, 0 for categorical nodes
    left, right: (nodes,) int32, a child's position among its tree's nodes, greater than the parent's, or ~ the position
        of a leaf among its tree's leaves
    missing_left: (nodes,) bool
    zero_missing: (nodes,) bool, whether a feature from −`ZERO` to `ZERO` is missing too (LightGBM)
    category_set: (nodes,) int32, −1 for numeric nodes
    category_offsets: (sets + 1,) int32, where the categories of each set begin
    categories: float32, ascending within a set
    leaf_values: (leaves,) float64
    base: the sum's first term
    single: whether the sum is rounded to float32 after each tree, as in XGBoost; otherwise it is a double
    divisor: number of trees where their mean is the score
    rounding: of a feature before it is compared with categories

    Raises PackageError unless the arrays are such trees.
    """

    features: int
    node_offsets: NDArray[np.int32]
    leaf_offsets: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    zero_missing: NDArray[np.bool_]
    category_set: NDArray[np.int32]
    category_offsets: NDArray[np.int32]
    categories: NDArray[np.float32]
    leaf_values: NDArray[np.float64]
    base: float = 0.0
    single: bool = False
    divisor: float = 1.0
    link: Link = "identity"
    scale: float = 1.0
    rounding: Rounding = "none"

    def __post_init__(self) -> None:
        """Check everything: arrays that are such trees are read without further checks, by compiled code too."""
        for name, dtype in _ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise _wrong(f"{name} is {array.dtype} with {array.ndim} dimensions, expected one of {np.dtype(dtype)}")
            if len(array) > 2 * MOST_NODES:
                raise _wrong(f"{name} has {len(array)} values, expected at most {2 * MOST_NODES}")
            own = np.ascontiguousarray(array).view()
            own.flags.writeable = False
            object.__setattr__(self, name, own)
        self._check_numbers()
        self._check_shape()
        self._check_children()
        self._check_categories()

    def __eq__(self, other: object) -> bool:
        """Compare every number."""
        if not isinstance(other, TreeEnsemble):
            return NotImplemented
        return all(np.array_equal(getattr(self, each.name), getattr(other, each.name)) for each in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr__(self) -> str:
        """Return one line."""
        return f"TreeEnsemble({self.trees} trees, {len(self.leaf_values)} leaves, {self.features} features)"

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order of their declaration."""
        return tuple(getattr(self, name) for name in _ARRAYS)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.node_offsets) - 1

    @property
    def sets(self) -> int:
        """Number of sets of categories."""
        return len(self.category_offsets) - 1

    def _check_numbers(self) -> None:
        if not 1 <= self.features <= MOST_FEATURES:
            raise _wrong(f"they take {self.features} features, expected 1 to {MOST_FEATURES}")
        if not np.isfinite([self.base, self.divisor, self.scale]).all() or self.divisor <= 0 or self.scale <= 0:
            raise _wrong(f"base, divisor and scale are {self.base}, {self.divisor} and {self.scale}")
        if self.link not in get_args(Link) or self.rounding not in get_args(Rounding):
            raise _wrong(f"link '{self.link}' or rounding '{self.rounding}' does not exist")
        if not np.isfinite(self.leaf_values).all() or np.isnan(self.threshold).any():
            raise _wrong("a leaf's value or a threshold is not a number")
        if self.single:
            doubles = np.append(self.leaf_values, self.base)
            with np.errstate(over="ignore"):
                if (doubles.astype(np.float32) != doubles).any():
                    raise _wrong("a leaf's value is not a float32, although the sum is")

    def _check_shape(self) -> None:
        nodes = len(self.feature)
        if self.trees > MOST_TREES or nodes > MOST_NODES:
            raise _wrong(f"they are {self.trees} trees of {nodes} nodes, expected at most {MOST_TREES} of {MOST_NODES}")
        for name in ("threshold", "left", "right", "missing_left", "zero_missing", "category_set"):
            if len(getattr(self, name)) != nodes:
                raise _wrong(f"{name} has {len(getattr(self, name))} values for {nodes} nodes")
        _check_offsets("node_offsets", self.node_offsets, nodes)
        _check_offsets("leaf_offsets", self.leaf_offsets, len(self.leaf_values))
        _check_offsets("category_offsets", self.category_offsets, len(self.categories))
        if not np.array_equal(np.diff(self.leaf_offsets), np.diff(self.node_offsets) + 1):
            raise _wrong("a tree has not one leaf more than it has nodes")
        if nodes and not (self.feature.min() >= 0 and self.feature.max() < self.features):
            raise _wrong(f"a node's feature is out of range 0 to {self.features - 1}")

    def _check_children(self) -> None:
        """Every node except the roots, and every leaf, must be the child of exactly one earlier node of its tree."""
        sizes = np.diff(self.node_offsets)
        tree = np.repeat(np.arange(self.trees), sizes)
        first_node, first_leaf = self.node_offsets[:-1][tree], self.leaf_offsets[:-1][tree]
        position = np.arange(len(self.feature)) - first_node
        times_node, times_leaf = np.zeros(len(self.feature), np.int64), np.zeros(len(self.leaf_values), np.int64)
        for child in (self.left, self.right):
            inner = child >= 0
            fits = np.where(inner, (child > position) & (child < sizes[tree]), ~child <= sizes[tree])
            if not fits.all():
                node = int(np.argmin(fits))
                raise _wrong(f"node {position[node]} of tree {tree[node]} has the child {child[node]}")
            times_node += np.bincount((first_node + child)[inner], minlength=len(times_node))
            times_leaf += np.bincount((first_leaf + ~child)[~inner], minlength=len(times_leaf))
        expected = np.ones(len(times_node), np.int64)
        expected[self.node_offsets[:-1][sizes > 0]] = 0
        alone = self.leaf_offsets[:-1][sizes == 0]
        times_leaf[alone] += 1
        if (times_node != expected).any() or (times_leaf != 1).any():
            raise _wrong("a node or a leaf is not the child of exactly one node")

    def _check_categories(self) -> None:
        categorical = self.category_set >= 0
        if (self.category_set < -1).any() or (categorical.any() and self.category_set.max() >= self.sets):
            raise _wrong(f"a node's set of categories is out of range 0 to {self.sets - 1}")
        if not np.isfinite(self.categories).all():
            raise _wrong("a category is not a number")
        starts = np.zeros(len(self.categories) + 1, np.bool_)
        starts[self.category_offsets] = True
        if not ((np.diff(self.categories) > 0) | starts[1:-1]).all():
            raise _wrong("the categories of a set are not ascending")
        # A scorer keeps one bit for each category of a feature and each of the feature's nodes.
        sizes = np.diff(self.category_offsets).astype(np.int64)
        nodes = np.bincount(self.feature[categorical], minlength=self.features)
        values = np.bincount(self.feature[categorical], sizes[self.category_set[categorical]], minlength=self.features)
        if float((nodes * values).sum()) > MOST_CATEGORY_BITS:
            raise _wrong("they have too many nodes with too many categories")


def largest_float32(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 <= each double: a float32 is <= it exactly where it is <= the double.

    >>> float(largest_float32(np.array([0.1]))[0])
    0.09999999403953552
    """
    with np.errstate(over="ignore"):  # the largest doubles become infinities
        single = threshold.astype(np.float32)
        return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single)


def _check_offsets(name: str, offsets: NDArray[np.int32], end: int) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise _wrong(f"{name} do not ascend from 0 to {end}")


def _wrong(problem: str) -> PackageError:
    return PackageError.because(f"the trees are malformed: {problem}", "package the model again")

"""Arrays that are not trees are rejected before compiled code reads them; all ways to score have the same bits."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_learners import walked

from delorean.packaging.golden_rows import write_arrow
from delorean.packaging.tree_file import read_trees, write_trees
from delorean.scoring.boundary_rows import boundary_rows
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.task_scorers import TaskTreeScorer
from delorean.scoring.task_trees import TaskTrees
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.scoring.trees_onnx import trees_to_onnx
from schemas.errors import PackageError

FEW_THRESHOLDS = np.float32([-np.inf, -1, -1e-35, 0, 1e-45, 1e-35, 0.5, 1, np.inf])


def random_trees(
    random: np.random.Generator, features: int, sizes: list[int], thresholds: Any = FEW_THRESHOLDS, **more: Any
) -> TreeEnsemble:
    """Build trees of any shape, with conditions of every kind; sizes: nodes of each."""
    left, right = np.zeros(0, np.int32), np.zeros(0, np.int32)
    for nodes in sizes:
        children = [[-1, -1] for _ in range(nodes)]
        open_sides = [(0, 0), (0, 1)] if nodes else []
        for node in range(1, nodes):
            parent, side = open_sides.pop(int(random.integers(len(open_sides))))
            children[parent][side] = node
            open_sides += [(node, 0), (node, 1)]
        for leaf, (parent, side) in enumerate(random.permutation(open_sides).tolist() if nodes else []):
            children[parent][side] = ~leaf
        left = np.append(left, [a for a, _ in children]).astype(np.int32)
        right = np.append(right, [b for _, b in children]).astype(np.int32)
    total = sum(sizes)
    categorical = random.random(total) < 0.3
    sets = [np.unique(random.integers(-2, 40, random.integers(0, 9))) for _ in range(categorical.sum())]
    category_set = np.full(total, -1)
    category_set[categorical] = np.arange(len(sets))
    values = random.choice(thresholds, total)
    leaves = random.normal(size=total + len(sizes))
    return TreeEnsemble(
        features,
        np.cumsum([0, *sizes]).astype(np.int32),
        np.cumsum([0, *(size + 1 for size in sizes)]).astype(np.int32),
        random.integers(0, features, total).astype(np.int32),
        np.where(categorical, np.float32(0), values).astype(np.float32),
        left,
        right,
        random.random(total) < 0.5,
        random.random(total) < 0.3,
        category_set.astype(np.int32),
        np.cumsum([0, *map(len, sets)]).astype(np.int32),
        np.concatenate([np.zeros(0), *sets]).astype(np.float32),
        leaves.astype(np.float32).astype(np.float64) if more.get("single") else leaves,
        **more,
    )


SOME = random_trees(np.random.default_rng(3), 3, [4, 0, 9])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from([0, 1, 2, 5, 31, 32, 63, 255, 256]), max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["none", "toward_zero", "down"]),
)
def test_every_way_to_score_gives_the_bits_of_a_plain_walk(
    seed: int, sizes: Any, many_thresholds: bool, single: Any, rounding: Any
) -> None:
    random = np.random.default_rng(seed)
    thresholds = random.normal(size=1_000).astype(np.float32) if many_thresholds else FEW_THRESHOLDS
    trees = random_trees(
        random, 3, sizes, thresholds, single=single, rounding=rounding, divisor=1.0 + len(sizes), base=0.25
    )
    rows = boundary_rows(trees, random.integers(-3, 40, (5, 3)).astype(np.float32), 240)
    expected = walked(trees, rows).astype(np.float32).view(np.uint32)
    scorer = TreeScorer(trees)
    assert (scorer.score(rows).view(np.uint32) == expected).all()
    step = int(random.integers(1, 30))
    apart = [scorer.score(rows[i : i + step]) for i in range(0, len(rows), step)]
    assert (np.concatenate(apart).view(np.uint32) == expected).all()
    assert (OnnxScorer(trees_to_onnx(trees)).score(rows).view(np.uint32) == expected).all()
    assert read_trees("f", write_trees(trees), 3) == trees


def test_a_block_and_more_is_scored_as_its_rows_are_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(700, 3)).astype(np.float32)
    scorer = TreeScorer(SOME)
    alone = np.concatenate([scorer.score(rows[i : i + 1]) for i in range(len(rows))])
    for count in (0, 1, 7, 8, 9, 63, 64, 65, 128, 129, 255, 256, 257, 320, 512, 700):
        assert (scorer.score(rows[:count]).view(np.uint32) == alone[:count].view(np.uint32)).all()
    assert (scorer.score(np.asfortranarray(rows)) == alone).all()
    assert (scorer.score(rows[::-1]) == alone[::-1]).all()
    with pytest.raises(PackageError, match=r"features are float64 \(700, 3\), expected float32 \(rows, 3\)"):
        scorer.score(rows.astype(np.float64))  # type: ignore[arg-type]


def one_feature_trees(thresholds: np.ndarray) -> TreeEnsemble:
    """Build trees of one condition each."""
    count = len(thresholds)
    nodes = np.zeros(count, np.int32)
    return TreeEnsemble(
        1, np.arange(count + 1, dtype=np.int32), 2 * np.arange(count + 1, dtype=np.int32), nodes, thresholds,
        nodes - 1, nodes - 2, np.arange(count) % 2 == 0, nodes > 0, nodes - 1, np.zeros(1, np.int32),
        np.zeros(0, np.float32), np.tile([1.0, 0.0], count),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("count", "kind"), [(0, np.uint8), (1, np.uint8), (15, np.uint8), (16, np.uint8), (31, np.uint8), (254, np.uint8),
                        (255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, None)]
)  # fmt: skip
def test_a_value_meets_exactly_the_conditions_whose_thresholds_it_does_not_exceed(count: int, kind: Any) -> None:
    thresholds = np.random.default_rng(0).permutation(np.arange(count, dtype=np.float32))
    scorer = TreeScorer(one_feature_trees(thresholds))
    conditions = scorer._prepared.conditions
    assert (None if conditions is None else conditions.dtype) == kind
    values = np.unique(np.r_[:40, count // 2, max(count - 3, 0) : count + 2]).astype(np.float32)
    rows = np.r_[np.float32([-np.inf, np.inf, np.nan, -0.0]), values, np.nextafter(values, np.float32(np.inf))]
    expected = [np.sum(row <= thresholds) for row in rows]
    expected[2] = (count + 1) // 2  # where missing values go left
    assert scorer.score(rows[:, None]).tolist() == expected


@pytest.mark.parametrize(("leaves", "ranked"), [(256, True), (257, False)])
def test_trees_of_more_leaves_than_a_byte_counts_are_walked(leaves: int, ranked: bool) -> None:
    random = np.random.default_rng(leaves)
    trees = random_trees(random, 4, [leaves - 1, 3], random.normal(size=50).astype(np.float32))
    scorer = TreeScorer(trees)
    assert (scorer._prepared.conditions is not None) == ranked
    rows = boundary_rows(trees, random.normal(size=(50, 4)).astype(np.float32), 400)
    assert (scorer.score(rows) == walked(trees, rows).astype(np.float32)).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.booleans())
def test_some_of_the_trees_have_the_bits_of_a_walk_through_them_alone(seed: int, counts: Any, single: Any) -> None:
    random = np.random.default_rng(seed)
    sizes = random.choice([0, 1, 5, 31, 63], sum(counts)).tolist()
    trees = random_trees(random, 3, sizes, single=single, base=0.5)
    tasks = TaskTrees(trees, np.repeat(np.arange(len(counts)) - 1, counts).astype(np.int32), len(counts))
    rows = boundary_rows(trees, random.integers(-3, 40, (5, 3)).astype(np.float32), 80)
    scorer = TaskTreeScorer(tasks)
    for task in range(len(counts)):
        expected = walked(tasks.of_task(task), rows).astype(np.float32).view(np.uint32)
        for some in (slice(None), slice(0, 2)):  # of as many rows that pass all conditions, and of as few that walk
            scores = scorer.score(rows[some], np.full(len(rows[some]), task))
            assert (scores.view(np.uint32) == expected[some]).all()


def test_a_sum_of_minus_zero_keeps_its_sign() -> None:
    trees = one_feature_trees(np.zeros(3, np.float32))
    trees = replace(trees, base=-0.0, leaf_values=np.full(6, -0.0))
    assert np.signbit(TreeScorer(trees).score(np.zeros((9, 1), np.float32))).all()


def changed(name: str, position: int, value: Any) -> dict[str, Any]:
    array = getattr(SOME, name).copy()
    array[position] = value
    return {name: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 0}, "take 0 features"),
        ({"features": 2}, "feature is out of range 0 to 1"),
        (changed("feature", 0, -1), "feature is out of range"),
        (changed("left", 0, 0), "node 0 of tree 0 has the child 0"),
        (changed("left", 3, 1), "node 3 of tree 0 has the child 1"),
        (changed("right", 0, 4), "node 0 of tree 0 has the child 4"),
        (changed("right", 0, -6), "has the child -6"),
        (changed("right", 0, -(2**31)), "has the child -2147483648"),
        (changed("left", 3, -2), "not the child of exactly one node"),
        (changed("leaf_offsets", 1, 4), "not one leaf more"),
        (changed("node_offsets", 1, 99), "node_offsets do not ascend"),
        (changed("node_offsets", 0, 1), "node_offsets do not ascend"),
        (changed("leaf_offsets", 1, -(2**31)), "leaf_offsets do not ascend"),
        (changed("category_offsets", -1, 1), "category_offsets do not ascend"),
        (changed("category_set", 0, 99), "set of categories is out of range"),
        (changed("category_set", 0, -2), "set of categories is out of range"),
        (changed("categories", 0, np.nan), "a category is not a number"),
        (changed("categories", 0, 1e9), "not ascending"),
        (changed("threshold", 0, np.nan), "threshold is not a number"),
        (changed("leaf_values", 0, np.inf), "leaf's value or a threshold is not a number"),
        ({"left": SOME.left[:-1]}, "left has 12 values for 13 nodes"),
        ({"left": SOME.left.astype(np.int64)}, "left is int64"),
        ({"left": SOME.left.reshape(1, -1)}, "left is int32 with 2 dimensions"),
        ({"node_offsets": np.zeros(0, np.int32), "leaf_offsets": np.zeros(0, np.int32)}, "do not ascend"),
        ({"base": float("nan")}, "base, divisor and scale"),
        ({"divisor": 0.0}, "base, divisor and scale"),
        ({"link": "softmax"}, "link 'softmax'"),
        ({"rounding": "up"}, "rounding 'up'"),
        ({"single": True}, "not a float32"),
    ],
)
def test_arrays_that_are_not_trees_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=f"the trees are malformed: .*{message}"):
        replace(SOME, **change)


def test_trees_without_bounds_on_their_size_are_rejected() -> None:
    many, nodes = np.arange(60_000, dtype=np.float32), 40_000
    numbers = np.arange(1, nodes + 1, dtype=np.int32)
    chain = np.append(numbers[:-1], np.int32(-1))
    with pytest.raises(PackageError, match="too many nodes with too many categories"):
        TreeEnsemble(
            1, np.int32([0, nodes]), np.int32([0, nodes + 1]), np.zeros(nodes, np.int32), np.zeros(nodes, np.float32),
            chain, -1 - numbers, np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_), np.zeros(nodes, np.int32),
            np.int32([0, len(many)]), many, np.zeros(nodes + 1),
        )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_numbers_a_file_holds_it_is_rejected_or_scored(data: st.DataObject) -> None:
    """Fuzz: any array's value becomes any other; what is accepted scores as a plain walk that checks every index."""
    values = {field.name: getattr(SOME, field.name) for field in fields(SOME)}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([name for name, value in values.items() if isinstance(value, np.ndarray)]))
        array = values[name].copy()
        limits = (-3, 15) if array.dtype.kind in "if" else (0, 1)
        array[data.draw(st.integers(0, len(array) - 1))] = data.draw(st.integers(*limits))
        values[name] = array
    try:
        trees = TreeEnsemble(**values)
    except PackageError:
        return
    rows = boundary_rows(trees, np.ones((2, 3), np.float32), 60)
    assert (TreeScorer(trees).score(rows) == walked(trees, rows).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda table: table.drop_columns(["left"]), "does not hold trees"),
        (lambda table: table.slice(0, 0), "does not hold trees"),
        (lambda table: pa.concat_tables([table, table]), "does not hold trees"),
        (lambda table: table.set_column(0, "features", pa.array([3], pa.int32())), "does not hold trees"),
        (lambda table: table.set_column(0, "features", pa.array([4], pa.int64())), "takes 4 features"),
        (lambda table: table.set_column(0, "features", pa.nulls(1, pa.int64())), "has a null"),
        (
            lambda table: table.set_column(3, "feature", pa.array([[None] * 13], pa.list_(pa.int32()))),
            "has a null",
        ),
        (
            lambda table: table.set_column(3, "feature", pa.array([[9] * 13], pa.list_(pa.int32()))),
            "'trees.arrow': the trees are malformed",
        ),
    ],
)
def test_a_file_that_does_not_hold_trees_is_a_package_error(table: Any, message: str) -> None:
    whole = pa.ipc.open_file(pa.BufferReader(write_trees(SOME))).read_all()
    with pytest.raises(PackageError, match=message):
        read_trees("trees.arrow", write_arrow(table(whole)), 3)


def test_no_trees_at_all_score_the_base() -> None:
    trees = random_trees(np.random.default_rng(0), 2, [], base=0.5)
    rows = np.zeros((20, 2), np.float32)
    assert (TreeScorer(trees).score(rows) == 0.5).all()
    assert (OnnxScorer(trees_to_onnx(trees)).score(rows) == 0.5).all()

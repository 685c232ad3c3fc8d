"""Units get their cells by seeded hashes: with the declared shares, independently across layers, everywhere alike."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from delorean.ab_tests.allocation import CellAllocation, LayerPart, blocked_cells
from delorean.ab_tests.declaration import AbTest, Cell, Holdout
from schemas.errors import AbTestError, ConfigError
from snapshotter.selection.declarations import ContextSelection

UNITS = pa.array(np.arange(200_000))
HALVES = {"control": Cell(0.5, "registry:production"), "new": Cell(0.5, "packages/new")}
LEAST_P = 1e-4  # seeds are fixed: these tests cannot fail by chance


def cells(test, units=UNITS):
    return test.allocate(pa.table({"profile_id": units}))


def test_cells_get_their_shares():
    shares = (0.2, 0.5, 0.3)
    test = AbTest("t", "profile_id", {str(i): Cell(share, f"p{i}") for i, share in enumerate(shares)})
    counts = np.bincount(cells(test))
    assert chisquare(counts, np.array(shares) * len(UNITS)).pvalue > LEAST_P


def test_layers_tests_and_seeds_are_independent():
    one = AbTest("one", "profile_id", HALVES, layer=LayerPart("ranking"))
    others = [replace(one, name="two"), replace(one, seed=1), replace(one, name="x", layer=LayerPart("search"))]
    for other in others:
        table = np.histogram2d(cells(one), cells(other), bins=2)[0]
        assert chi2_contingency(table).pvalue > LEAST_P
    halves = [replace(one, name=name, layer=LayerPart(name, (0.0, 0.5))) for name in ("a", "b")]
    together = np.histogram2d(*(cells(test) >= 0 for test in halves), bins=2)[0]
    assert chi2_contingency(together).pvalue > LEAST_P


def test_parts_of_a_layer_share_no_unit_and_miss_none():
    first = AbTest("first", "profile_id", HALVES, layer=LayerPart("ranking", (0.0, 0.3)))
    second = replace(first, name="second", layer=LayerPart("ranking", (0.3, 1.0)))
    assert ((cells(first) >= 0) ^ (cells(second) >= 0)).all()


def test_a_holdout_is_the_same_for_all_tests_of_a_layer():
    first = AbTest("first", "profile_id", HALVES, layer=LayerPart("ranking", (0.0, 0.5)), holdout=Holdout(0.1))
    second = replace(first, name="second", layer=LayerPart("ranking", (0.5, 1.0)))
    held_out = (cells(first) < 0) & (cells(second) < 0)
    assert abs(held_out.mean() - 0.1) < 0.003
    without = replace(first, holdout=None)
    assert (cells(without)[~held_out] == cells(first)[~held_out]).all()


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.integers(0, 3), st.floats(1.1, 3))
def test_units_only_move_into_cells_that_grow(weights, grown, factor):
    grown %= len(weights)
    changed = [weight * (factor if i == grown else 1) for i, weight in enumerate(weights)]
    before, after = (
        CellAllocation(tuple(np.array(each) / sum(each)), LayerPart("layer"), 0.0, "t") for each in (weights, changed)
    )
    units = UNITS[:2_000]
    moved = before.cells_of(units) != after.cells_of(units)
    assert (after.cells_of(units)[moved] == grown).all()


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (pa.array([1, 2, 3], pa.int8()), pa.array([1, 2, 3], pa.uint64())),
        (pa.array(["a", "é", ""]), pa.array(["a", "é", ""]).dictionary_encode()),
        (pa.array(["a", "b", "a"]), pa.array(["a", "b", "a"], pa.large_string())),
        (pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("s", "UTC")),) * 2,
        (pa.array([date(2026, 1, 1)]), pa.array([date(2026, 1, 1)], pa.date64())),
    ],
)
def test_a_value_has_one_cell_in_all_of_its_types(narrow, wide):
    test = AbTest("t", "profile_id", HALVES)
    assert cells(test, narrow).tolist() == cells(test, pa.chunked_array([wide])).tolist()


def test_no_units_have_no_cells():
    assert cells(AbTest("t", "profile_id", HALVES), pa.array([], pa.int64())).tolist() == []


def test_null_units_floats_and_unknown_units_are_refused():
    test = AbTest("t", "profile_id", HALVES)
    with pytest.raises(AbTestError, match="unit 'profile_id': 1 of 2 keys are null"):
        cells(test, pa.array([1, None]))
    with pytest.raises(AbTestError, match="keys are double"):
        cells(test, pa.array([1.0]))
    with pytest.raises(AbTestError, match="did you mean 'profile'"):
        test.allocate(pa.table({"profile": [1]}))


@pytest.mark.parametrize("type", [pa.int32(), pa.string(), pa.bool_(), pa.date32(), pa.timestamp("us", "UTC")])
def test_spark_gives_the_same_cells(spark, type):  # noqa: A002
    numbers = pa.array(np.arange(600) % (2 if pa.types.is_boolean(type) else 600), pa.int32())
    wide = numbers.cast(pa.int64()) if pa.types.is_timestamp(type) else numbers
    units = wide.cast(type)
    test = AbTest("t", "profile_id", HALVES, layer=LayerPart("it's", (0.1, 0.8)), holdout=Holdout(0.1))
    frame = spark.createDataFrame(pa.table({"u": units}))
    known = [type, None] if pa.types.is_integer(type) or pa.types.is_string(type) else [type]
    for each in known:
        rows = frame.selectExpr(f"{test.allocation.sql('u', each)} AS cell").toArrow()["cell"].to_pylist()
        assert rows == cells(test, units).tolist()


def test_selected_contexts_are_members_with_their_cells(spark):
    contexts = ContextSelection("SELECT id AS profile_id FROM range(400)  -- all", ("profile_id",), fraction=1.0)
    test = AbTest("t", "profile_id", HALVES, layer=LayerPart("l", (0.0, 0.5)), contexts=contexts)
    rows = spark.sql(test.selection.query).toArrow()
    allocated = cells(test, pa.array(np.arange(400)))
    assert sorted(zip(rows["profile_id"].to_pylist(), rows["cell"].to_pylist(), strict=True)) == [
        (unit, list(HALVES)[cell]) for unit, cell in enumerate(allocated.tolist()) if cell >= 0
    ]
    assert test.selection.strata == ("cell",)
    assert replace(test, contexts=replace(contexts, strata=("country",))).selection.strata == ("country",)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), min_size=1, max_size=60),
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
)
def test_blocks_keep_the_shares_in_every_stratum(strata, weights):
    shares = tuple(np.array(weights) / sum(weights))
    allocation = CellAllocation(shares, LayerPart("layer"), 0.0, "t")
    units = pa.array(np.arange(len(strata)))
    columns = [pa.array([stratum[i] for stratum in strata]) for i in range(2)]
    allocated = blocked_cells(units, columns, allocation)
    for stratum in set(strata):
        members = allocated[[each == stratum for each in strata]]
        counts = np.bincount(members, minlength=len(shares))
        assert (np.abs(counts - np.array(shares) * len(members)) < len(shares) - 1 + 1e-9).all()
    shuffled = np.random.default_rng(0).permutation(len(strata))
    again = blocked_cells(units.take(shuffled), [column.take(shuffled) for column in columns], allocation)
    assert (again == allocated[shuffled]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": {"control": HALVES["control"]}}, "cells: 1 declared, expected two or more"),
        ({"cells": {**HALVES, "third": Cell(0.1, "p")}}, "cells have shares that add up to 1.1, expected 1"),
        ({"start": datetime(2026, 1, 1)}, "start is 2026-01-01 00:00:00, which has no time zone"),
        (
            {"start": datetime(2026, 1, 2, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)},
            "is not after the start",
        ),
        ({"strata": ("country",)}, "no table of members"),
        ({"name": "a/b"}, "cannot name a folder"),
        (
            {"cells": {"control": Cell(0.5, "p"), "mixed": Cell(0.5, interleave=("control", "contrl"))}},
            "did you mean 'control'",
        ),
        (
            {"cells": {"control": Cell(0.5, "p"), "mixed": Cell(0.5, interleave=("control", "control"))}},
            "with itself",
        ),
    ],
)
def test_tests_that_cannot_be_run_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AbTest(**{"name": "t", "unit": "profile_id", "cells": HALVES, **fields})


def test_the_control_is_the_first_cell_with_a_package():
    mixed = {"mixed": Cell(0.2, interleave=("old", "new")), "old": Cell(0.4, "p"), "new": Cell(0.4, "q")}
    assert AbTest("t", "profile_id", mixed).control == "old"


def test_a_cell_of_share_zero_is_refused():
    with pytest.raises(ConfigError, match="share is 0.0, expected more than 0"):
        Cell(0.0, "p")

"""Samples: bounded, of whole contexts, and the same however rows are spread over files."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delorean.leaks import LeakThresholds
from delorean.leaks.sample import LeakSample, LeakSampler, sample_of
from delorean.leaks.scopes import LeakScope
from schemas.errors import DataKeyError, LabelError
from schemas.tables import TIME
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

FLOATS = pa.list_(pa.float32())


def rows_of(contexts, size=4, start=0):
    """Rows whose feature tells which context an item is of; sizes differ."""
    numbers = range(start, start + contexts)
    sizes = [size + i % 3 for i in numbers]
    return pa.table(
        {
            "profile_id": pa.array(numbers, pa.int64()),
            "time": pa.array(numbers, TIME),
            "label": pa.array([[float(j % 2) for j in range(n)] for n in sizes], FLOATS),
            "f": pa.array([[float(i)] * n for i, n in zip(numbers, sizes, strict=True)], FLOATS),
        }
    )


def scope(feature):
    return LeakScope("", "label", None, (feature,), ("profile_id",))


def gathered(tables, max_items, seed=0):
    sampler = LeakSampler(["f"], ["profile_id"], max_items, seed)
    for table in tables:
        sampler.add(table)
    return sampler.sample()


def same(one, other):
    return (
        np.array_equal(one.labels, other.labels)
        and np.array_equal(one.offsets, other.offsets)
        and np.array_equal(one.features["f"], other.features["f"])
        and one.of_items == other.of_items
    )


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6),
    max_items=st.integers(6, 2000),
    order=st.randoms(use_true_random=False),
)
def test_a_sample_is_the_same_however_the_rows_come(cuts, max_items, order):
    table = rows_of(300)
    bounds = sorted({0, 300, *cuts})
    parts = [table.slice(a, b - a) for a, b in pairwise(bounds)]
    order.shuffle(parts)
    found = gathered(parts, max_items)
    assert same(found, gathered([table], max_items))
    assert len(found.labels) <= max_items or len(found.offsets) == 2
    assert len(found.labels) > max_items - 6 or len(found.labels) == found.of_items
    for a, b in pairwise(found.offsets):
        [context] = set(found.features["f"][a:b])
        assert b - a == 4 + context % 3


def test_seeds_choose_other_contexts_and_all_have_a_chance():
    chosen = [set(gathered([rows_of(300)], 300, seed).features["f"]) for seed in range(30)]
    assert chosen[0] != chosen[1]
    assert len(set().union(*chosen)) > 295


def test_nothing_given_is_an_empty_sample():
    assert len(gathered([], 10).labels) == len(gathered([rows_of(0)], 10).labels) == 0


def test_a_value_that_is_null_is_not_a_number():
    table = rows_of(1).set_column(3, "f", pa.array([[1.0, None, 2.0, None]], FLOATS))
    assert np.array_equal(gathered([table], 9).features["f"], [1, np.nan, 2, np.nan], equal_nan=True)


def test_lists_of_other_lengths_are_refused():
    table = rows_of(1).set_column(3, "f", pa.array([[1.0]], FLOATS))
    with pytest.raises(LabelError, match="feature 'f' has lists of other lengths than 'label'"):
        gathered([table], 9)
    with pytest.raises(LabelError, match="feature 'f' has 1 values for 2 labels"):
        LeakSample(np.zeros(2, np.float32), np.array([0, 2]), {"f": np.zeros(1, np.float32)})
    with pytest.raises(LabelError, match="offsets"):
        LeakSample(np.zeros(2, np.float32), np.array([0, 1]), {})


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"file://{tmp_path}")


def test_a_sample_of_files_reads_what_it_needs(storage):
    tables = [rows_of(3000, start=3000 * i) for i in range(8)]
    files = [write_parquet(storage, f"{i}.parquet", table, table.schema) for i, table in enumerate(tables)]
    items = sum(len(table["f"].combine_chunks().flatten()) for table in tables)
    whole = sample_of(storage, files, scope("f"), items)
    assert same(whole, gathered(tables, 200_000))
    part = sample_of(storage, files, scope("f"), items, LeakThresholds(max_items=10_000))
    assert same(part, gathered(tables, 10_000))
    few = sample_of(storage, files, scope("f"), items, LeakThresholds(max_items=2500))
    read = {int(number) // 3000 for number in few.features["f"]}
    assert 1 < len(read) < 8
    assert (few.of_items, len(few.labels) <= 2500) == (items, True)
    with pytest.raises(DataKeyError, match="unknown column"):
        sample_of(storage, files, scope("g"), items)

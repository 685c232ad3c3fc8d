"""Parts that are read without a copy, vectors, numbers of other types, and features in a mapped file."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from delorean.ranking_data.feature_set_reader import FeatureSetSource, RankingColumns, read_feature_set, read_parts
from delorean.ranking_data.matrix import new_matrix
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split, SplitParts
from schemas.errors import TrainingError

COLUMNS = RankingColumns(("affinity", "rare"), ("video_id",), ("profile_id", "country"))
FLOATS = pa.list_(pa.float32())


def assert_same(a: RankingData, b: RankingData) -> None:
    assert a.contexts.equals(b.contexts)
    assert a.items.equals(b.items)
    for name in ("offsets", "labels", "features", "weights", "own_item_weights", "inclusion_probabilities"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert {name: each.tolist() for name, each in a.other_labels.items()} == {
        name: each.tolist() for name, each in b.other_labels.items()
    }


def assert_same_parts(a: SplitParts, b: SplitParts) -> None:
    assert (a.left_out, a.unread) == (b.left_out, b.unread)
    for name in ("train", "validation", "test"):
        assert_same(getattr(a, name), getattr(b, name))


@given(
    seed=st.integers(0, 99),
    delays=st.lists(st.integers(0, 400), min_size=40, max_size=40),
    most=st.sampled_from([None, 100, 300]),
    split=st.sampled_from([Split(), Split(group="profile_id"), Split(by_time=False, group="profile_id")]),
)
def test_parts_are_those_of_dividing_all_of_it(seed: int, delays: list[int], most: int | None, split: Split) -> None:
    """Whatever is left out because its outcome came late, belongs to another group, or is not in the sample."""
    table = small(seed, delays)
    columns = replace(COLUMNS, weight="w", item_weight="iw", other_labels=("liked",))
    options: dict[str, Any] = {"max_items": most, "seed": seed}
    whole = read_feature_set(
        table,
        columns.features,
        columns.items,
        columns.context,
        weight="w",
        item_weight="iw",
        other_labels=["liked"],
        **options,
    )
    try:
        divided = split.divide(whole)
    except TrainingError as error:
        with pytest.raises(TrainingError, match=re.escape(str(error))):
            read_parts(table, columns, split, **options)
        return
    assert_same_parts(read_parts(table, columns, split, **options), divided)
    assert_same_parts(read_parts(table, columns, split, in_memory=0, **options), divided)


def small(seed: int, delays: list[int]) -> pa.Table:
    random = np.random.default_rng(seed)
    n = len(delays)
    lengths = random.integers(0, 6, n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in random.integers(0, 300, n)]
    outcomes = [time + timedelta(minutes=delay) for time, delay in zip(times, delays, strict=True)]

    def lists(values: Any) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    total = int(lengths.sum())
    return pa.table(
        {
            "profile_id": random.integers(0, 9, n),
            "country": random.choice(["US", "DE"], n),
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "outcome_at": pa.array(outcomes, pa.timestamp("us", "UTC")),
            "w": random.random(n),
            "video_id": lists(random.integers(0, 50, total)),
            **{
                name: lists(random.random(total).astype(np.float32))
                for name in ("label", "affinity", "rare", "iw", "liked")
            },
        }
    )


def test_a_part_is_a_view_of_one_matrix(feature_set: pa.Table) -> None:
    parts = read_parts(feature_set, COLUMNS, Split())
    bases = {id(part.features.base) for part in (parts.train, parts.validation, parts.test)}
    assert len(bases) == 1
    divided = Split().divide(
        read_feature_set(feature_set, *map(list, (COLUMNS.features, COLUMNS.items, COLUMNS.context)))
    )
    assert divided.train.features.base is not None  # contexts one after the other are not copied either


def test_shares_of_files_hold_every_context_once_in_the_parts_of_the_whole(
    feature_set: pa.Table, tmp_path: Path
) -> None:
    path = str(tmp_path / "set")
    for start in range(0, 600, 200):
        write_deltalake(path, feature_set.slice(start, 200), mode="append")
    source, split = FeatureSetSource(path, None, COLUMNS), Split()
    fixed = source.at_fixed_times(split)
    assert_same_parts(source.parts(fixed), source.parts(split))
    shares = [source.share(fixed, i, 2) for i in range(2)]
    for name in ("train", "validation", "test"):
        of_shares = [row for share in shares for row in getattr(share, name).contexts.to_pylist()]
        whole = getattr(source.parts(split), name).contexts.to_pylist()
        assert sorted(of_shares, key=str) == sorted(whole, key=str)


def vectors(kind: pa.DataType) -> pa.Table:
    """Two contexts of two items and one, whose vectors are of three values; one is null, one has a null."""
    taste = [[[1.0, 2.0, 3.0], None], [[4.0, None, 6.0]]]
    return pa.table(
        {
            "profile_id": [1, 2],
            "time": pa.array([0, 1], pa.timestamp("us", "UTC")),
            "video_id": [[7, 8], [9]],
            "label": pa.array([[1, 0], [1]], FLOATS),
            "age": pa.array([[0.5, 0.25], [1]], FLOATS),
            "taste": pa.array(taste, pa.list_(kind)),
        }
    )


@pytest.mark.parametrize("kind", [FLOATS, pa.list_(pa.float32(), 3), pa.large_list(pa.float32())], ids=str)
@pytest.mark.parametrize("where", ["arrow", "delta"])
def test_a_vector_becomes_a_column_for_each_of_its_values(kind: pa.DataType, where: str, tmp_path: Path) -> None:
    source: str | pa.Table = vectors(kind)
    if where == "delta":
        write_deltalake(str(tmp_path / "set"), source)
        source = str(tmp_path / "set")
    data = read_feature_set(source, ["taste", "age"], ["video_id"], ["profile_id"])
    assert data.names == ("taste[0]", "taste[1]", "taste[2]", "age")
    nan = np.nan
    expected = [[1, 2, 3, 0.5], [nan, nan, nan, 0.25], [4, nan, 6, 1]]
    np.testing.assert_array_equal(data.features, np.float32(expected))


def test_vectors_of_different_lengths_or_none_are_named() -> None:
    table = vectors(FLOATS)
    ragged = table.set_column(5, "taste", pa.array([[[1, 2], [3]], [[4, 5]]], pa.list_(FLOATS)))
    with pytest.raises(TrainingError, match="'taste' has vectors of 2 and of 1 values → give all"):
        read_feature_set(ragged, ["taste"], [], [])
    empty = table.set_column(5, "taste", pa.array([[None, None], [None]], pa.list_(FLOATS)))
    with pytest.raises(TrainingError, match="'taste' has no vector with values"):
        read_feature_set(empty, ["taste"], [], [])


NUMBERS = {"label": [[1, 0], [1]], "count": [[3, 4], [16_777_216]], "old": [[True, False], [True]]}


def test_what_pandas_polars_and_others_write_is_read_where_float32_holds_every_value(tmp_path: Path) -> None:
    """Pandas writes doubles and 64-bit integers, Polars large lists, both booleans."""
    times = pd.to_datetime([0, 1], unit="us", utc=True)
    frame = pd.DataFrame({"profile_id": [1, 2], "time": times, **NUMBERS, "half": [[0.5, np.nan], [2.0]]})
    frame.to_parquet(tmp_path / "pandas.parquet")
    written = pl.DataFrame(
        {"profile_id": [1, 2], "time": list(times.to_pydatetime()), **NUMBERS, "half": [[0.5, None], [2.0]]}
    )
    tables = [pa.parquet.read_table(tmp_path / "pandas.parquet"), written.to_arrow()]
    for table in tables:
        table = table.set_column(1, "time", table["time"].cast(pa.timestamp("us", "UTC")))
        data = read_feature_set(table, ["count", "old", "half"], [], ["profile_id"])
        expected = [[3, 1, 0.5], [4, 0, np.nan], [16_777_216, 1, 2]]
        np.testing.assert_array_equal(data.features, np.float32(expected))
        assert data.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([[16_777_217, 1]]), r"float32 cannot hold 1 of its values, such as 16777217 → round"),
        (pa.array([[2**63 - 1, 1]]), r"float32 cannot hold 1 of its values, such as 9223372036854775807"),
        (pa.array([[0.1, 1e300]]), r"float32 cannot hold 2 of its values, such as 0\.1"),
        (pa.array([["US", "DE"]]), r"'f' is list<.*string>, expected list<float> → texts become categories by"),
        (pa.array([[{"a": 1}, {"a": 2}]]), r"'f' is list<.*struct"),
    ],
)
def test_numbers_that_float32_cannot_hold_and_other_values_are_named(values: pa.Array, message: str) -> None:
    time = pa.array([0], pa.timestamp("us", "UTC"))
    table = pa.table({"time": time, "label": pa.array([[1.0, 0.0]], FLOATS), "f": values})
    with pytest.raises(TrainingError, match=message):
        read_feature_set(table, ["f"], [], [])


def test_ranking_data_of_other_shapes_is_rejected_when_it_is_built(feature_set: pa.Table) -> None:
    data = read_parts(feature_set, COLUMNS, Split()).test
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"labels": data.labels[1:]}, "offsets describe"),
        ({"offsets": data.offsets[1:]}, "offsets describe"),
        ({"features": data.features.astype(np.float64)}, r"features is float64 .* expected float32"),
        ({"names": ("a",)}, r"features is float32 .*, expected float32 \(\d+, 1\)"),
        ({"weights": np.ones(3)}, r"weights is float64 \(3,\), expected float64"),
        ({"own_item_weights": [1.0]}, "own_item_weights is list, expected float32"),
        ({"other_labels": {"liked": data.labels[1:]}}, "label 'liked' is float32"),
    ]
    for fields, message in wrong:
        with pytest.raises(TrainingError, match=message):
            replace(data, **fields)


def test_a_matrix_that_does_not_fit_on_its_disk_is_an_error_before_it_is_written(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
from delorean.ranking_data.matrix import new_matrix
new_matrix(1 << 16, 8, in_memory=0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "2,097,152 bytes of features do not fit into" in done.stderr, (done.stderr, limit)
    assert new_matrix(0, 3, in_memory=0).shape == (0, 3)


def test_a_mapped_matrix_does_not_count_as_memory_of_the_process(tmp_path: Path) -> None:
    """What the system cannot evict, anonymous memory, stays far below the matrix."""
    program = """
import numpy as np
from delorean.ranking_data.matrix import new_matrix
def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = anonymous()
matrix = new_matrix(1 << 21, 16, in_memory=0)
matrix[:] = 1
print(anonymous() - before, matrix.nbytes, float(matrix[7, 3]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    used, size, value = done.stdout.split()
    assert int(used) < int(size) / 10
    assert float(value) == 1

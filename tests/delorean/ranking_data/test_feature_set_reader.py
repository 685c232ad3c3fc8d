from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.stable_hash import unit_hash
from schemas.errors import TrainingError

FEATURES = ["affinity", "rare"]


def read(source: str | pa.Table, max_items: int | None = None) -> RankingData:
    return read_feature_set(source, FEATURES, ["video_id"], ["profile_id", "country"], max_items=max_items)


def assert_equal(a: RankingData, b: RankingData) -> None:
    assert a.contexts == b.contexts
    assert a.items == b.items
    for name in ("offsets", "labels", "features"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_delta_table_and_its_arrow_table_are_the_same_data(feature_set: pa.Table, tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    for start in (0, 250):
        write_deltalake(path, feature_set.slice(start, 250 if start == 0 else 350), mode="append")
    assert_equal(read(path), read(feature_set))


def test_the_order_of_rows_does_not_matter(feature_set: pa.Table) -> None:
    shuffled = feature_set.take(np.random.default_rng(1).permutation(len(feature_set)))
    assert_equal(read(shuffled), read(feature_set))
    assert_equal(read(shuffled, 2_000), read(feature_set, 2_000))


def test_items_stay_with_their_context(feature_set: pa.Table) -> None:
    data = read(feature_set)
    by_time = feature_set.sort_by("time")
    np.testing.assert_array_equal(data.features[:, 0], pc.list_flatten(by_time["affinity"]).to_numpy())
    assert data.items["video_id"].to_pylist() == pc.list_flatten(by_time["video_id"]).to_pylist()
    some = data.take(np.array([7, 3]))
    np.testing.assert_array_equal(some.features, np.concatenate([data.features[84:96], data.features[36:48]]))
    assert some.items["video_id"].to_pylist()[12:] == data.items["video_id"].to_pylist()[36:48]


def test_lists_of_different_lengths_and_empty_ones_are_read(feature_set: pa.Table) -> None:
    first = feature_set.slice(0, 3)
    short = {
        name: pa.array([(values := first[name].to_pylist())[0][:5], [], values[2]], first.schema.field(name).type)
        for name in ("label", "video_id", *FEATURES)
    }
    ragged = first
    for name, values in short.items():
        ragged = ragged.set_column(ragged.schema.get_field_index(name), name, values)
    data = read(ragged)
    assert sorted(np.diff(data.offsets)) == [0, 5, 12]
    row = data.contexts["time"].to_pylist().index(first["time"].to_pylist()[0])
    assert data.items["video_id"].to_pylist()[data.offsets[row] :][:5] == first["video_id"].to_pylist()[0][:5]


def test_more_items_than_wanted_are_sampled_by_context(feature_set: pa.Table) -> None:
    assert len(read(feature_set, 2_000).labels) == pytest.approx(2_000, rel=0.25)


@pytest.mark.parametrize("most", [1, 60, 250, 2_000, 7_199, 7_200, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_is_the_contexts_of_the_lowest_hashes_wherever_they_stand(
    feature_set: pa.Table, most: int, seed: int
) -> None:
    """The bound that is lowered while contexts pass by never costs one that belongs to the sample."""
    data = read_feature_set(feature_set, FEATURES, ["video_id"], ["profile_id", "country"], max_items=most, seed=seed)
    items = 12 * len(feature_set)
    hashes = unit_hash([feature_set[name] for name in ("profile_id", "country", "time")], seed)
    expected = feature_set.filter(pa.array(hashes < most / items)) if items > most else feature_set
    assert data.contexts.num_rows == len(expected)
    assert_equal(replace(data, unread=(0, 0)), read(expected)) if len(expected) else None
    assert data.unread == (len(feature_set) - len(expected), items - 12 * len(expected))


def test_memory_follows_the_sample_not_the_feature_set(tmp_path: Path) -> None:
    rows, items, at_once = 60_000, 100, 3_000  # small files: what is read ahead is little beside what is kept
    path = str(tmp_path / "set")
    for start in range(0, rows, at_once):
        profiles = pa.array(range(start, start + at_once), pa.int64())
        offsets = pa.array(range(0, at_once * items + 1, items), pa.int32())
        values = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(at_once * items, np.float32)))
        ids = pa.ListArray.from_arrays(offsets, pa.array(np.arange(at_once * items)))
        times = pa.array(np.arange(at_once)).cast(pa.timestamp("us", "UTC"))
        columns = {"profile_id": profiles, "time": times, "video_id": ids, "label": values, "f": values}
        write_deltalake(path, pa.table(columns), mode="append")
    program = f"""
def peak():  # of this process alone: what rusage says includes the process that started it
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
from delorean.ranking_data.feature_set_reader import read_feature_set
read = lambda most: read_feature_set({path!r}, ["f"], ["video_id"], ["profile_id"], max_items=most)
read(1_000)
before = peak()
sampled = read(20_000)
between = peak()
whole = read(None)
print(len(whole), between - before, peak() - between)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    contexts, sampled, whole = map(int, done.stdout.split())
    assert contexts == rows
    assert sampled < whole / 2, done.stdout


def test_weights_follow_their_contexts(feature_set: pa.Table) -> None:
    weighted = feature_set.append_column("w", pc.cast(feature_set["profile_id"], pa.float64()))
    data = read_feature_set(weighted, FEATURES, ["video_id"], ["profile_id", "country"], weight="w")
    assert data.weights is not None
    assert data.weights.tolist() == data.contexts["profile_id"].to_pylist()
    assert "w" not in data.contexts.schema.names
    with pytest.raises(TrainingError, match="weight column 'w'"):
        read_feature_set(
            weighted.set_column(len(weighted.schema) - 1, "w", pa.array([-1.0] * 600)), FEATURES, [], [], weight="w"
        )


def test_wrong_feature_sets_are_one_clear_error_each(feature_set: pa.Table, tmp_path: Path) -> None:
    def with_column(name: str, values: pa.Array) -> pa.Table:
        return feature_set.slice(0, 2).set_column(feature_set.schema.get_field_index(name), name, values)

    floats = pa.list_(pa.float32())
    wrong: list[tuple[str | pa.Table, str]] = [
        (str(tmp_path / "none"), "no feature set to train on: there is no Delta table at .*none → generate one first"),
        (feature_set.slice(0, 0), "the feature set is empty"),
        (feature_set.drop_columns(["rare"]), "'rare'"),
        (feature_set.drop_columns(["label"]), "'label'"),
        (with_column("rare", pa.array([[1.0], [2.0]], floats)), "'rare' has 1 values in row 0, expected 12"),
        (with_column("rare", pa.array([1.0, 2.0])), "'rare' is double, expected a list"),
        (with_column("rare", pa.array([[0.1] * 12] * 2)), "'rare' is list<.*double>, expected list<float>"),
        (with_column("label", pa.array([None, [1.0] * 12], floats)), "'label' is null in 1 rows"),
        (with_column("label", pa.array([[-1.0] * 12] * 2, floats)), "'label' has nulls or values below 0"),
        (with_column("label", pa.array([[None] * 12] * 2, floats)), "'label' has nulls or values below 0"),
        (with_column("time", pa.array([1, 2])), "'time' is int64, expected timestamp"),
        (with_column("time", pa.array([None, None], pa.timestamp("us", "UTC"))), "'time' has nulls"),
    ]
    for source, message in wrong:
        with pytest.raises(TrainingError, match=message):
            read(source)


def test_the_stable_hash_tells_columns_apart_and_spreads_evenly() -> None:
    assert unit_hash([pa.array(["a"]), pa.array(["bc"])], 0) != unit_hash([pa.array(["ab"]), pa.array(["c"])], 0)
    hashes = unit_hash([pa.array(range(10_000))], 0)
    assert np.histogram(hashes, 10, (0, 1))[0] == pytest.approx(np.full(10, 1_000), rel=0.15)
    assert hashes.min() >= 0
    assert hashes.max() < 1

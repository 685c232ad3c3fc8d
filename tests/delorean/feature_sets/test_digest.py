"""Digests: every bit and every row counts, the order of rows and their files do not."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import add

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from project_at_rest import HISTORY, long_labels

from delorean.feature_sets.digest import FeatureDigest, digest_rows
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.labels.row_hashes import row_hashes
from encoders import FeatureModel, feature_encoder
from schemas.errors import DataKeyError
from schemas.tables import TIME

START = datetime(2026, 5, 1, tzinfo=UTC)
FEATURES = ["minutes", "age"]
SCHEMA = pa.schema(
    [
        ("profile_id", pa.int64()),
        ("country", pa.string()),
        ("time", TIME),
        ("outcome_at", TIME),
        ("video_id", pa.list_(pa.int64())),
        ("label", pa.list_(pa.float32())),
        *((name, pa.list_(pa.float32())) for name in FEATURES),
    ]
)

BITS = st.sampled_from([0, 1 << 31, 0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800000, 0x3F800000]) | st.integers(
    0, 2**32 - 1
)
VALUE = st.none() | BITS  # a float's bits, or null


def float_lists(lists):
    flat = [bits for values in lists for bits in values]
    known = np.array([0 if bits is None else bits for bits in flat], dtype=np.uint32).view(np.float32)
    values = pa.Array.from_buffers(
        pa.float32(),
        len(flat),
        [pa.array([bits is not None for bits in flat]).buffers()[1] if flat else None, pa.py_buffer(known.tobytes())],
    )
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, lists)]), pa.int32()), values)


def table(rows):
    """Rows of (profile, country, minute, items, labels, minutes, age), floats as their bits."""
    profile, country, minute, items, *floats = zip(*rows, strict=True) if rows else [[]] * 7
    times = [START + timedelta(minutes=m) for m in minute]
    outcomes = [time + timedelta(minutes=1) for time in times]
    plain = [profile, country, times, outcomes, items]
    arrays = [pa.array(values, SCHEMA.types[i]) for i, values in enumerate(plain)]
    return pa.table([*arrays, *(float_lists(lists) for lists in floats)], schema=SCHEMA)


def digest(rows):
    return digest_rows(table(rows), ["profile_id", "country"], ["video_id"], FEATURES)


@st.composite
def a_row(draw):
    length = draw(st.integers(0, 4))
    lists = [draw(st.lists(values, min_size=length, max_size=length)) for values in (st.integers(0, 9), *[VALUE] * 3)]
    return (
        draw(st.integers(-3, 3)),
        draw(st.sampled_from(["", "US", "U", "S", "ü" * 9])),
        draw(st.integers(0, 3)),
        *lists,
    )


ROWS = st.lists(a_row(), min_size=1, max_size=8, unique_by=lambda row: row[:3])


@settings(max_examples=50)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_neither_the_order_of_rows_nor_their_files_change_a_digest(rows, random, files):
    whole = digest(rows)
    random.shuffle(rows)
    parts = [digest(rows[i::files]) for i in range(files)]
    assert digest(rows) == whole
    assert reduce(add, parts) == reduce(add, reversed(parts), FeatureDigest.empty(FEATURES)) == whole
    assert msgspec.json.decode(msgspec.json.encode(whole), type=FeatureDigest) == whole


@settings(max_examples=50)
@given(ROWS, st.data())
def test_each_bit_of_each_value_changes_its_feature_and_no_other(rows, data):
    whole = digest(rows)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from([4, 5, 6]))
    assume(rows[row][column])
    at = data.draw(st.integers(0, len(rows[row][column]) - 1))
    values = list(rows[row][column])
    values[at] = (
        0 if values[at] is None else data.draw(st.sampled_from([None, *(values[at] ^ 1 << b for b in range(32))]))
    )
    changed = digest([*rows[:row], (*rows[row][:column], values, *rows[row][column + 1 :]), *rows[row + 1 :]])
    assert whole.moved(changed) == ([] if column == 4 else [FEATURES[column - 5]])
    assert (whole.keys != changed.keys) == (column == 4)


@settings(max_examples=50)
@given(ROWS, st.data())
def test_each_change_of_a_row_s_key_changes_everything(rows, data):
    row = data.draw(st.integers(0, len(rows) - 1))
    column, by = data.draw(st.sampled_from([(0, 100), (1, "x"), (2, 100)]))
    moved = [*rows[row][:column], rows[row][column] + by, *rows[row][column + 1 :]]
    before, after = digest(rows), digest([*rows[:row], tuple(moved), *rows[row + 1 :]])
    assert before.keys != after.keys
    assert before.moved(after) == FEATURES


@settings(max_examples=50)
@given(ROWS, st.data())
def test_values_swapped_between_rows_change_what_differs_between_them(rows, data):
    assume(len(rows) > 1)
    one, other = data.draw(st.permutations(range(len(rows))))[:2]
    swapped = list(rows)
    swapped[one], swapped[other] = rows[one][:3] + rows[other][3:], rows[other][:3] + rows[one][3:]
    before, after = digest(rows), digest(swapped)
    apart = [name for i, name in enumerate(FEATURES) if rows[one][5 + i] != rows[other][5 + i]]
    assert before.moved(after) == apart
    assert (before.keys != after.keys) == (rows[one][3:5] != rows[other][3:5])


@settings(max_examples=50)
@given(ROWS, st.data())
def test_values_swapped_between_items_change_their_feature(rows, data):
    row = data.draw(st.integers(0, len(rows) - 1))
    values = data.draw(st.permutations(rows[row][5]))
    before, after = digest(rows), digest([*rows[:row], (*rows[row][:5], values, rows[row][6]), *rows[row + 1 :]])
    assert before.moved(after) == (["minutes"] if values != rows[row][5] else [])


@settings(max_examples=50)
@given(ROWS)
def test_features_swapped_change_both(rows):
    before, after = digest(rows), digest([(*row[:5], row[6], row[5]) for row in rows])
    assert before.moved(after) == (FEATURES if any(row[5] != row[6] for row in rows) else [])


@settings(max_examples=50)
@given(ROWS, st.data())
def test_a_row_that_is_there_twice_or_not_at_all_changes_everything(rows, data):
    row = data.draw(st.sampled_from(rows))
    whole = digest(rows)
    for other in (digest([*rows, row]), digest([r for r in rows if r != row])):
        assert whole.keys != other.keys
        assert whole.moved(other) == FEATURES


def test_values_that_move_from_one_list_into_the_next_change_the_digest():
    before = digest([(1, "", 0, [5, 6], [0, 0], [0, 0], [0, 0]), (2, "", 0, [7], [0], [0], [0])])
    after = digest([(1, "", 0, [5], [0], [0], [0]), (2, "", 0, [6, 7], [0, 0], [0, 0], [0, 0])])
    assert (before.rows, before.items) == (after.rows, after.items) == (2, 3)
    assert before.keys != after.keys
    assert before.moved(after) == FEATURES


def test_composite_keys_that_join_to_one_text_are_different_keys():
    rows = pa.table({"a": ["x", "xy"], "b": ["yz", "z"], "time": pa.array([START] * 2, TIME)})
    lists = pa.array([[1.0], [1.0]], pa.list_(pa.float32()))
    rows = rows.append_column("outcome_at", rows["time"]).append_column("label", lists).append_column("f", lists)
    one, other = (digest_rows(rows[i : i + 1], ["a", "b"], [], ["f"]) for i in (0, 1))
    assert one.features != other.features


@pytest.mark.parametrize(
    ("type", "values"),
    [
        (pa.int8(), [1, 2]),
        (pa.uint64(), [1, 2**63 + 1]),
        (pa.string(), ["a", "b"]),
        (pa.large_string(), ["", "a" * 100]),
        (pa.string_view(), ["a", "a much longer text"]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
        (pa.binary(), [b"", b"\0"]),
        (pa.bool_(), [False, True]),
        (pa.date32(), [date(2026, 5, 1), date(2026, 5, 2)]),
        (pa.decimal128(30, 2), [Decimal("1e20"), Decimal("1e20") + Decimal("0.01")]),
        (pa.timestamp("us", "UTC"), [START, START + timedelta(microseconds=1)]),
        (pa.float64(), [0.0, -0.0]),
    ],
)
def test_context_and_items_of_every_type_count_wherever_they_lie_in_memory(type, values):  # noqa: A002
    def one(column, at, video):
        rows = pa.table({"key": column, "video": pa.array([[values[video]]] * 4, pa.list_(type))})
        time = pa.array([START] * 4, TIME)
        floats = pa.array([[1.0]] * 4, pa.list_(pa.float32()))
        rows = rows.append_column("time", time).append_column("outcome_at", time)
        rows = rows.append_column("label", floats).append_column("f", floats)
        return digest_rows(rows[at : at + 1], ["key"], ["video"], ["f"])

    column = pa.array(values * 2, type)
    chunked = pa.chunked_array([column[:1], column[1:]])
    assert one(column, 0, 0) == one(column, 2, 0) == one(chunked, 2, 0)
    assert one(column, 0, 0).features != one(column, 1, 0).features
    assert one(column, 0, 0).keys != one(column, 0, 1).keys


def test_single_bits_scatter_over_all_of_a_digest():
    rng = np.random.default_rng(3)
    flips = np.zeros(128)
    seen = set()
    for bit in range(32):
        for at in range(20):
            values = rng.integers(0, 2**32, 20).tolist()
            found = []
            for change in (0, 1 << bit):
                values[at] ^= change
                row = (1, "US", 0, list(range(20)), [0] * 20, values, [0] * 20)
                found.append(int(digest([row]).features["minutes"], 16))
            flips += np.array([(found[0] ^ found[1]) >> b & 1 for b in range(128)])
            seen |= set(found)
    assert len(seen) == 2 * 32 * 20
    assert (flips / 640).min() > 0.4
    assert (flips / 640).max() < 0.6


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=4, unique=True))
def test_sums_of_signs_do_not_cancel(signs):
    """Differences in the highest bits alone, which a multiplication by itself would leave where they are."""

    def of(flipped):
        values = [0x3F800000 ^ (0x80000000 if i in flipped else 0) for i in range(6)]
        found = digest([(1, "", 0, [0] * 6, [0] * 6, values, [0] * 6)]).features["minutes"]
        return found[:16], found[16:]

    for shift in range(4):
        plain, flipped = of([]), of([sign + shift for sign in signs])
        assert plain[0] != flipped[0]
        assert plain[1] != flipped[1]


def test_what_lies_below_a_null_means_nothing():
    hidden = pa.Array.from_buffers(pa.float32(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(np.float32([1, 9]).tobytes())])
    rows = table([(1, "US", 0, [5, 6], [0, 0], [0x3F800000, None], [0, 0])])
    again = rows.set_column(6, "minutes", pa.ListArray.from_arrays([0, 2], hidden))
    assert digest_rows(again, ["profile_id"], ["video_id"], FEATURES) == digest_rows(
        rows, ["profile_id"], ["video_id"], FEATURES
    )


@feature_encoder(data=[HISTORY], features=["watched", "odd"])
def watched(context, items, data, out):
    for i in range(len(items.video_id)):
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.watched[i] = data.history.minutes[j]
                out.odd[i] = -0.0


def test_a_feature_set_read_back_has_the_digest_of_its_buckets(project):
    project.history([((p,), 0, [{"video_id": v, "minutes": float(v)} for v in range(p % 4)]) for p in range(40)], "r")
    rows = long_labels([(p, m, v, v % 2) for p in range(40) for m in (1, 2) for v in range(p % 5 + 1)])
    found = []
    for buckets in (1, 8):
        labels = materialise_labels(rows, LabelColumns(items=("video_id",)), project.storage, buckets=buckets)
        stored = generate(labels, FeatureModel([watched]), project.index, project.storage, f"f{buckets}").to_arrow()
        found.append(digest_rows(stored, ["profile_id"], ["video_id"], ["watched", "odd"]))
    assert found[0] == found[1]
    assert (found[0].rows, found[0].items) == (80, rows.num_rows)


def test_wrong_columns_are_named():
    rows = table([(1, "US", 0, [5], [0], [0], [0])])
    with pytest.raises(DataKeyError, match="did you mean 'minutes'"):
        digest_rows(rows, ["profile_id"], ["video_id"], ["minute"])
    with pytest.raises(DataKeyError, match="'profile_id' is int64, expected a list"):
        digest_rows(rows, ["country"], ["profile_id"], FEATURES)
    with pytest.raises(DataKeyError, match="'video_id' holds list"):
        digest_rows(rows, ["video_id"], [], FEATURES)
    with pytest.raises(DataKeyError, match="only one of two digests has age"):
        digest(rows.to_pylist()[:0]) + FeatureDigest.empty(["minutes"])
    nulls = rows.set_column(6, "minutes", pa.nulls(1, pa.list_(pa.float32())))
    with pytest.raises(DataKeyError, match="'minutes' is null in 1 rows"):
        digest_rows(nulls, ["profile_id"], ["video_id"], FEATURES)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, -1, None]),
        pa.array([True, False, None]),
        pa.array(["", "a", "b", None]),
        pa.array([date(2026, 1, 1), date(2026, 1, 2), None]),
        pa.array([Decimal("1.10"), Decimal("1.20"), None]),
        pa.array([0.5, 1.5, None]),
        pa.array([2**63, 2**63 + 1, 0, None], pa.uint64()),
        pa.array(["a", "b", None]).dictionary_encode(),
        pa.array([1, 2, None], TIME),
    ],
    ids=lambda values: str(values.type),
)
def test_rows_hash_by_value_wherever_they_lie(values):
    rows = pa.table({"key": values})
    hashes = row_hashes(rows, ["key"])
    assert len(set(hashes.tolist())) == len(values)
    assert np.array_equal(row_hashes(rows.slice(1), ["key"]), hashes[1:])
    assert not np.array_equal(row_hashes(rows, ["key"], seed=1), hashes)


def test_row_hashes_tell_columns_apart_and_are_spread_evenly():
    rows = pa.table({"a": [1, 2, 0, None], "b": [2, 1, None, 0]})
    assert len(set(row_hashes(rows, ["a", "b"]).tolist())) == 4
    many = row_hashes(pa.table({"a": np.arange(64_000)}), ["a"])
    for part in (many % np.uint64(64), many >> np.uint64(58)):
        counts = np.bincount(part.astype(np.int64), minlength=64)
        assert ((counts > 800) & (counts < 1_200)).all()

"""Comparisons against a plain Python one: by keys and by value, never by position."""

import json
import struct
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delorean.audit.comparison import ChangeStatus, compare_feature_sets
from delorean.display.description import describe
from delorean.display.html import to_html
from delorean.feature_sets.digest import digest_rows
from schemas.errors import ConfigError, DataKeyError, LabelError
from schemas.tables import TIME

START = datetime(2026, 5, 1, tzinfo=UTC)
NAN, OTHER_NAN = 0x7FC00000, 0xFFC00001
KEYS = {"context": ["profile_id", "country"], "items": ["video_id", "row"]}


def bits_of(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def as_float(bits):
    return np.uint32(bits).view(np.float32)


def float_lists(lists):
    flat = [bits for values in lists for bits in values]
    values = np.array([0 if bits is None else bits for bits in flat], dtype=np.uint32).view(np.float32)
    known = pa.array([bits is not None for bits in flat], pa.bool_())
    array = pa.Array.from_buffers(pa.float32(), len(flat), [known.buffers()[1], pa.py_buffer(values.tobytes())])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, lists)]), pa.int32()), array)


def table(rows, features):
    """Rows of (profile, country, minute, outcome, [(video, row, label, {feature: bits})])."""
    times = [START + timedelta(minutes=row[2]) for row in rows]
    outcomes = [START + timedelta(minutes=row[2] + row[3]) for row in rows]
    columns = {
        "profile_id": pa.array([row[0] for row in rows], pa.int64()),
        "country": pa.array([row[1] for row in rows], pa.string()),
        "time": pa.array(times, TIME),
        "outcome_at": pa.array(outcomes, TIME),
        "video_id": pa.array([[item[0] for item in row[4]] for row in rows], pa.list_(pa.int64())),
        "row": pa.array([[item[1] for item in row[4]] for row in rows], pa.list_(pa.string())),
        "label": float_lists([[bits_of(item[2]) for item in row[4]] for row in rows]),
    }
    for name in features:
        columns[name] = float_lists([[item[3][name] for item in row[4]] for row in rows])
    return pa.table(columns)


def naive(before, after, features):
    """Compare row by row and item by item, in dictionaries."""
    counts = Counter()
    changes = {name: Counter() for name in features}
    differences = {name: [] for name in features}
    pairs = {name: [] for name in features}
    old_rows, new_rows = ({row[:3]: row for row in rows} for rows in (before, after))
    counts["rows_only_before"] = len(old_rows.keys() - new_rows.keys())
    counts["rows_only_after"] = len(new_rows.keys() - old_rows.keys())
    for key in old_rows.keys() & new_rows.keys():
        old, new = numbered(old_rows[key][4]), numbered(new_rows[key][4])
        counts["compared_rows"] += 1
        counts["compared_items"] += len(old.keys() & new.keys())
        counts["items_only_before"] += len(old.keys() - new.keys())
        counts["items_only_after"] += len(new.keys() - old.keys())
        counts["reordered_rows"] += old.keys() == new.keys() and [i[:2] for i in old_rows[key][4]] != [
            i[:2] for i in new_rows[key][4]
        ]
        counts["changed_outcomes"] += old_rows[key][3] != new_rows[key][3]
        counts["changed_labels"] += sum(old[item][2] != new[item][2] for item in old.keys() & new.keys())
        for name in features:
            moved = 0
            for item in old.keys() & new.keys():
                one, other = old[item][3][name], new[item][3][name]
                floats = [np.nan if bits is None else float(as_float(bits)) for bits in (one, other)]
                if np.isfinite(floats).all():
                    pairs[name].append(floats)
                if one == other:
                    continue
                moved += 1
                unknown = tuple(np.isnan(floats))
                changes[name][
                    {(True, False): "known", (False, True): "unknown", (True, True): "both"}.get(unknown)
                ] += 1
                if not any(unknown):
                    differences[name].append(abs(floats[1] - floats[0]))
            changes[name]["items"] += moved
            changes[name]["rows"] += bool(moved)
    return counts, changes, differences, pairs


def numbered(items):
    seen, found = Counter(), {}
    for item in items:
        found[(*item[:2], seen[item[:2]])] = item
        seen[item[:2]] += 1
    return found


def check(comparison, before, after, features):
    counts, changes, differences, pairs = naive(before, after, features)
    for name, value in comparison.summary.items():
        if name not in ("equal", "before", "after"):
            assert value == counts[name], name
    for name in features:
        change, expected = comparison[name], changes[name]
        found = (change.rows, change.items, change.became_known, change.became_unknown, change.unknown_otherwise)
        assert found == tuple(expected[what] for what in ("rows", "items", "known", "unknown", "both"))
        assert change.status is (ChangeStatus.CHANGED if expected["items"] else ChangeStatus.EQUAL)
        check_differences(change, differences[name])
        check_correlation(change.correlation, np.array(pairs[name]).reshape(-1, 2))
    disagree = any(counts[n] for n in counts if n not in ("compared_rows", "compared_items", "reordered_rows"))
    assert comparison.equal == (not disagree and not any(changes[name]["items"] for name in features))


def check_differences(change, differences):
    if not differences:
        assert (change.mean_difference, change.max_difference, change.p50, change.p99) == (None,) * 4
        return
    assert change.max_difference == max(differences)
    assert change.mean_difference == pytest.approx(np.mean(differences), rel=1e-12)
    for found, share in ((change.p50, 0.5), (change.p90, 0.9), (change.p99, 0.99)):
        exact = np.quantile(np.array(differences), share, method="inverted_cdf")
        assert found == pytest.approx(exact, rel=0.01, abs=1e-38) or exact > np.finfo(np.float32).max


def check_correlation(found, pairs):
    if len(pairs) == 0 or (np.ptp(pairs, axis=0) == 0).any():
        assert found is None
    elif np.ptp(np.abs(pairs[:, 0])) > 1e-3 and np.abs(pairs).max() < 1e4:  # else the oracle itself is mostly rounding
        with np.errstate(all="ignore"):
            exact = np.corrcoef(pairs.T)[0, 1]
        if np.isfinite(exact):
            assert found == pytest.approx(exact, abs=1e-6)


BITS = st.sampled_from(
    [None, NAN, OTHER_NAN, 0, 1 << 31, bits_of(1.0), bits_of(1.5), bits_of(np.inf), 1]
) | st.integers(0, 2**32 - 1)
ITEM = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["top", "new"]),
    st.sampled_from([0.0, 1.0]),
    st.fixed_dictionaries({"f": BITS, "g": BITS}),
)
ROW = st.tuples(
    st.integers(0, 6), st.sampled_from(["US", "DE"]), st.integers(0, 2), st.integers(1, 2), st.lists(ITEM, max_size=5)
)
ROWS = st.lists(ROW, max_size=8, unique_by=lambda row: row[:3])


@st.composite
def two_sides(draw):
    """Two versions of much the same rows: rows, items and values come, go, change and are shuffled."""
    before = draw(ROWS)
    after = []
    for row in before:
        if draw(st.integers(0, 4)) == 0:
            continue
        items = [
            (*item[:3], {"f": item[3]["f"], "g": draw(BITS)}) if draw(st.booleans()) else item
            for item in row[4]
            if draw(st.integers(0, 4))
        ]
        if draw(st.booleans()):
            items = draw(st.permutations(items))
        after.append((*row[:3], draw(st.sampled_from([row[3], 1])), list(items)))
    taken = {row[:3] for row in after}
    after += [row for row in draw(ROWS) if row[:3] not in taken]
    return before, draw(st.permutations(after))


@settings(max_examples=80, deadline=None)
@given(two_sides(), st.sampled_from([50, 10**6]))
def test_a_comparison_is_that_of_each_row_and_item_by_hand(sides, values_at_once):
    before, after = sides
    tables = [table(rows, ["f", "g"]) for rows in (before, after)]
    check(compare_feature_sets(*tables, **KEYS, values_at_once=values_at_once), before, after, ["f", "g"])


@settings(max_examples=20, deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.integers(0, 8))
def test_the_same_rows_are_equal_in_any_order_and_in_any_chunks(rows, random, cut):
    one = table(rows, ["f", "g"])
    random.shuffle(rows)
    other = table(rows, ["f", "g"])
    chunked = pa.concat_tables([other.slice(0, cut), other.slice(cut)])
    assert compare_feature_sets(one, chunked, **KEYS).equal
    digests = [digest_rows(side, KEYS["context"], KEYS["items"], ["f", "g"]) for side in (one, chunked)]
    assert digests[0] == digests[1]


def one_row(values, features=("f",), items=None):
    items = items or [(i, "top") for i in range(len(values))]
    return table(
        [(1, "US", 0, 1, [(*item, 0.0, dict.fromkeys(features, v)) for item, v in zip(items, values, strict=True)])],
        features,
    )


def test_equal_is_bit_for_bit():
    values = [0, NAN, None, bits_of(1.0), None]
    others = [1 << 31, OTHER_NAN, NAN, bits_of(1.0), None]
    change = compare_feature_sets(one_row(values), one_row(others), **KEYS)["f"]
    assert (change.items, change.unknown_otherwise, change.became_known, change.became_unknown) == (3, 2, 0, 0)
    assert (change.max_difference, change.mean_difference, change.p99) == (0.0, 0.0, 0.0)


def test_new_and_gone_features_are_named():
    before, after = one_row([1, 2], ["old", "same"]), one_row([1, 2], ["same", "new"])
    comparison = compare_feature_sets(before, after, **KEYS)
    assert [(row["feature"], row["status"]) for row in comparison.rows] == [
        ("same", "equal"),
        ("new", "new"),
        ("old", "gone"),
    ]
    assert not comparison.equal


def test_an_item_that_comes_several_times_is_matched_one_by_one():
    items = [(5, "top"), (6, "top"), (5, "top")]
    again = [(6, "top"), (5, "top"), (5, "top")]
    ones, twos = bits_of(1.0), bits_of(2.0)
    comparison = compare_feature_sets(
        one_row([ones, 0, twos], items=items), one_row([0, ones, twos], items=again), **KEYS
    )
    assert comparison.equal
    assert comparison.reordered_rows == 1
    swapped = compare_feature_sets(one_row([ones, 0, twos], items=items), one_row([0, twos, ones], items=again), **KEYS)
    assert swapped["f"].items == 2


def test_quantiles_and_means_add_up_over_parts():
    rng = np.random.default_rng(5)
    size, per_row = 20_000, 20
    offsets = pa.array(np.arange(0, size + 1, per_row), pa.int32())

    def lists(values):
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    rows = size // per_row
    old = rng.normal(size=size).astype(np.float32)
    new = np.where(rng.random(size) < 0.3, old * np.float32(1.1) + np.float32(0.1), old).astype(np.float32)
    common = {
        "profile_id": np.arange(rows) % 97,
        "time": pa.array(np.arange(rows) * 10**6).cast(TIME),
        "outcome_at": pa.array(np.arange(rows) * 10**6 + 1).cast(TIME),
        "video_id": lists(np.arange(size)),
        "label": lists(np.zeros(size, dtype=np.float32)),
    }
    sides = [pa.table({**common, "f": lists(values)}) for values in (old, new)]
    found = [
        compare_feature_sets(*sides, context=["profile_id"], items=["video_id"], values_at_once=most)["f"]
        for most in (10**9, 3_000)
    ]
    assert found[0].items == found[1].items == int((old != new).sum())
    assert found[0].p50 == found[1].p50
    check_differences(found[1], np.abs(new.astype(float) - old)[old != new].tolist())
    assert found[1].correlation == pytest.approx(np.corrcoef(old, new)[0, 1], rel=1e-9)


def test_a_feature_that_does_not_vary_has_no_correlation():
    values = [bits_of(0.1)] * 7
    change = compare_feature_sets(one_row(values), one_row([bits_of(0.3 + i) for i in range(7)]), **KEYS)["f"]
    assert change.correlation is None


def test_a_comparison_is_a_table_json_and_html():
    before = one_row([bits_of(1.0), NAN, bits_of(np.inf)], ["f", "g<b>"])
    after = one_row([bits_of(3.5), 0, bits_of(-np.inf)], ["f", "g<b>"])
    comparison = compare_feature_sets(before, after, **KEYS)
    rows = comparison.to_arrow().to_pylist()
    assert rows == comparison.rows
    assert comparison.to_polars().equals(pl.from_arrow(comparison.to_arrow()))
    assert (rows[0]["max_difference"], rows[0]["p50"], rows[0]["became_known"]) == (np.inf, 2.5, 1)
    written = json.loads(json.dumps(describe(comparison).document(), allow_nan=False))
    assert written["features"][0]["max_difference"] == "inf"
    assert (written["equal"], written["compared_items"]) == (False, 3)
    shown = to_html(comparison)
    assert "g&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert "2 changed over 1 rows, 3 items" in shown


def test_polars_and_other_widths_of_numbers_compare_alike():
    before, after = one_row([1, 2, 3]), one_row([1, 2, 4])
    narrow = after.set_column(0, "profile_id", after["profile_id"].cast(pa.int32()))
    narrow = narrow.set_column(4, "video_id", narrow["video_id"].cast(pa.list_(pa.int32())))
    for other in (narrow, pl.from_arrow(after).to_arrow()):
        comparison = compare_feature_sets(before, other, **KEYS)
        assert (comparison.compared_items, comparison["f"].items, comparison.equal) == (3, 1, False)


def test_contexts_that_no_bucket_fits_are_compared_as_one_part():
    before, after = one_row([1, 2]), one_row([1, 3])
    sides = [side.append_column("day", side["time"].cast(pa.date32())) for side in (before, after)]
    comparison = compare_feature_sets(*sides, context=["day"], items=["video_id"], values_at_once=1)
    assert (comparison.compared_rows, comparison["f"].items) == (1, 1)


def test_what_cannot_be_compared_is_named():
    good = one_row([1, 2])
    with pytest.raises(ConfigError, match=r"context of the two sides: not named.*name them: context="):
        compare_feature_sets(good, good)
    with pytest.raises(ConfigError, match="did you mean 'profile_id'"):
        compare_feature_sets(good, good, context=["profil_id"], items=["video_id"])
    with pytest.raises(ConfigError, match="no context or item variables"):
        compare_feature_sets(good, good, context=[], items=["video_id"])
    with pytest.raises(LabelError, match="1 rows after repeat a context and time"):
        compare_feature_sets(good, pa.concat_tables([good, good]), **KEYS)
    doubles = good.set_column(7, "f", good["f"].cast(pa.list_(pa.float64())))
    with pytest.raises(DataKeyError, match=r"'label' before is list<.*double>, expected list<float>"):
        compare_feature_sets(good.set_column(6, "label", doubles["f"]), good, **KEYS)
    with pytest.raises(DataKeyError, match="'f' after does not have one value for each label"):
        compare_feature_sets(good, good.set_column(7, "f", pa.array([[1.0]], pa.list_(pa.float32()))), **KEYS)
    text = good.set_column(0, "profile_id", pa.array(["1"]))
    with pytest.raises(DataKeyError, match="cast one side"):
        compare_feature_sets(good, text, **KEYS)

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataKeyError, NaiveTimeError
from schemas.plain_types import plain_column, plain_table, plain_type

UTC = pa.timestamp("us", "UTC")
UUIDS = [uuid.UUID(int=5), None, uuid.UUID(int=6)]


def plain(*chunks: pa.Array) -> pa.ChunkedArray:
    column = plain_column("films.x", pa.chunked_array(list(chunks)))
    column.validate(full=True)
    return column


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.binary(16), pa.binary()),
        (pa.timestamp("ns", "UTC"), UTC),
        (pa.timestamp("ms", "Europe/Berlin"), UTC),
        (pa.timestamp("s", "+01:00"), UTC),
        (pa.date64(), pa.date32()),
        (pa.time32("ms"), pa.time64("us")),
        (pa.duration("ns"), pa.duration("us")),
        (pa.float16(), pa.float32()),
        (pa.decimal256(38, 2), pa.decimal128(38, 2)),
        (pa.large_list(pa.string_view()), pa.list_(pa.string())),
        (pa.list_(pa.int32(), 3), pa.list_(pa.int32())),
        (pa.list_view(pa.int64()), pa.list_(pa.int64())),
        (pa.map_(pa.string(), pa.float64()), pa.list_(pa.struct({"key": pa.string(), "value": pa.float64()}))),
        (
            pa.struct([pa.field("release-year", pa.timestamp("ms", "UTC"), nullable=False)]),
            pa.struct({"release-year": UTC}),
        ),
        (pa.list_(pa.field("element", pa.int64(), nullable=False)), pa.list_(pa.int64())),
        (pa.uuid(), pa.string()),
        (pa.json_(), pa.string()),
        (pa.bool8(), pa.bool_()),
        (pa.run_end_encoded(pa.int32(), pa.large_string()), pa.string()),
    ],
    ids=str,
)
def test_each_way_to_write_a_value_has_one_plain_type(found: pa.DataType, expected: pa.DataType) -> None:
    assert plain_type("x", found) == expected
    assert plain_type("x", expected) == expected
    assert str(plain_type("x", expected)) == str(expected).replace("element:", "item:")


LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]
leaves = st.sampled_from([pa.int64(), pa.string(), pa.large_string(), pa.string_view(), pa.float64()])
types = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(LISTS), inner).map(lambda pair: pair[0](pair[1]))
        | inner.map(lambda of: pa.list_(of, 2))
        | st.lists(inner, min_size=1, max_size=3).map(lambda of: pa.struct([(f"f-{i}", t) for i, t in enumerate(of)]))
    ),
    max_leaves=5,
)


def values(type: pa.DataType) -> st.SearchStrategy[Any]:  # noqa: A002
    if pa.types.is_struct(type):
        of = st.fixed_dictionaries({field.name: values(field.type) for field in type})
    elif pa.types.is_fixed_size_list(type):
        of = st.lists(values(type.value_type), min_size=2, max_size=2)
    elif pa.types.is_nested(type):
        of = st.lists(values(type.value_type), max_size=3)
    elif pa.types.is_integer(type):
        of = st.integers(-9, 9)
    elif pa.types.is_floating(type):
        of = st.floats(-9, 9)
    else:
        of = st.text("aä", max_size=3)
    return st.none() | of


@given(st.data())
def test_no_value_is_lost_or_changed_however_nested_and_sliced(data: st.DataObject) -> None:
    type_ = data.draw(types)
    rows = data.draw(st.lists(values(type_), max_size=6))
    start = data.draw(st.integers(0, len(rows)))
    column = plain(pa.array(rows, type_).slice(start), pa.array(rows, type_))
    assert column.to_pylist() == rows[start:] + rows


def test_encoded_values_and_identifiers_are_read() -> None:
    texts = ["a", "a", None, "b"]
    assert plain(pc.run_end_encode(pa.array(texts))).to_pylist() == texts
    assert plain(pa.array(texts).dictionary_encode(), pa.array(["c"]).dictionary_encode()).to_pylist() == [*texts, "c"]
    ids = pa.array([None if one is None else one.bytes for one in UUIDS], pa.uuid())
    expected = [None if one is None else str(one) for one in UUIDS]
    assert plain(ids).to_pylist() == expected
    assert plain(pa.ListArray.from_arrays([0, 1, 3], ids)).to_pylist() == [expected[:1], expected[1:]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1001], pa.timestamp("ns", "UTC")), r"'films.x' is timestamp\[ns.* would lose data: 1001 → round it"),
        (pa.array([[1]], pa.list_(pa.duration("ns"))), r"'films.x' is list<.*would lose data: 1 → "),
        (pa.array([10**15], pa.timestamp("s", "UTC")), "would result in out of bounds timestamp"),
        (pa.array([1767225600000], pa.timestamp("s", "UTC")), "'films.x' holds a time outside the years 1 to 9999"),
        (pa.array([None, None]), "'films.x' is null, which is not supported → write the column with the type"),
        (pa.array([1], pa.decimal256(60, 2)), "which is not supported → write it as a decimal of at most 38 digits"),
        (pa.array([{}], pa.struct([])), "is a struct without fields, which Parquet cannot store → leave it out"),
        (pa.array([[None]], pa.list_(pa.month_day_nano_interval())), r"'films.x\[\]' is month_day_nano_interval, "),
    ],
)
def test_what_cannot_be_plain_is_refused_by_its_name_with_a_way_out(array: pa.Array, message: str) -> None:
    with pytest.raises(DataKeyError, match=message):
        plain(array)


@pytest.mark.parametrize("type", [pa.timestamp("ns"), pa.list_(pa.struct({"at": pa.timestamp("ms")}))])
def test_times_without_a_zone_never_get_in(type: pa.DataType) -> None:  # noqa: A002
    with pytest.raises(NaiveTimeError, match=r"films.x.* does not identify an instant → give it one.*tz_localize"):
        plain(pa.array([None], type))


def test_a_table_is_cast_column_by_column_and_needs_names_of_its_own() -> None:
    table = pa.table({"a.b": pa.array(["x"], pa.string_view()), "[c]": [1]})
    assert plain_table("films", table).schema == pa.schema({"a.b": pa.string(), "[c]": pa.int64()})
    with pytest.raises(DataKeyError, match="films has the column 'a' twice → rename one"):
        plain_table("films", pa.table([[1], [2], [3]], ["a", "b", "a"]))

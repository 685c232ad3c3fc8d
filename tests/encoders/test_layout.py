"""Every type of element reaches an encoder, compiled and interpreted, however Arrow happens to store it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from encoders import DataMaps, Element, FeatureEncoder, feature_encoder, lookup
from schemas.data_keys import DataKey, context_variable, global_element, service_element
from schemas.errors import DataKeyError, EncoderError

Run = Callable[..., dict[str, list[float]]]
Build = Callable[..., DataMaps]


@feature_encoder(data=[service_element("score", "float")], features=["seen"])
def read_scalar(context, items, data, out):
    score = data.score
    out.seen[0] = score.value * 2.0 if score.present else -1.0


@feature_encoder(
    data=[service_element("profile", "struct<age: int64, kids: bool, tags: list<int32>>")], features=["seen"]
)
def read_struct(context, items, data, out):
    profile = data.profile
    total = 0
    for tag in profile.tags.values:
        total += tag
    out.seen[0] = profile.age * 100 + total + (1000 if profile.kids else 0) if profile.present else -1.0


@feature_encoder(data=[service_element("recent", "list<int64>")], features=["seen"])
def read_list(context, items, data, out):
    total = 0
    for value in data.recent.values:
        total += value
    out.seen[0] = total * 10 + len(data.recent.values) if data.recent.present else -1.0


@feature_encoder(
    data=[service_element("plays", "list<struct<id: uint16, minutes: float, done: bool, country: string>>")],
    features=["seen"],
)
def read_structs(context, items, data, out):
    plays = data.plays
    total = 0.0 if plays.present else -1.0
    for j in range(len(plays.id)):
        if plays.done[j] and plays.country[j] == "US":
            total += plays.id[j] * plays.minutes[j]
    out.seen[0] = total


@feature_encoder(data=[service_element("shelves", "list<struct<id: int64, genres: list<int64>>>")], features=["seen"])
def read_ragged(context, items, data, out):
    shelves = data.shelves
    genres = shelves.genres
    total = len(genres.values) * 1000
    for j in range(len(shelves.id)):
        for genre in genres.values[genres.offsets[j] : genres.offsets[j + 1]]:
            total += shelves.id[j] * genre
    out.seen[0] = total if shelves.present else -1.0


@feature_encoder(data=[service_element("deep", "list<list<struct<parts: list<int64>>>>")], features=["seen"])
def read_deep(context, items, data, out):
    deep = data.deep
    total = 0
    for j in range(len(deep.offsets) - 1):
        for k in range(deep.offsets[j], deep.offsets[j + 1]):
            for part in deep.parts.values[deep.parts.offsets[k] : deep.parts.offsets[k + 1]]:
                total += part * (10 if j else 1)
    out.seen[0] = total if deep.present else -1.0


T, F = True, False
CASES: list[tuple[FeatureEncoder, list[Any], list[float]]] = [
    (read_scalar, [1.5, None, 0.0], [3.0, -1.0, 0.0]),
    (
        read_struct,
        [{"age": 3, "kids": T, "tags": [1, 2]}, None, {"age": 1, "kids": F, "tags": []}],
        [1303.0, -1.0, 100.0],
    ),
    (read_list, [[1, 2], None, [], [5]], [32.0, -1.0, 0.0, 51.0]),
    (
        read_structs,
        [
            [
                {"id": 2, "minutes": 0.5, "done": T, "country": "US"},
                {"id": 9, "minutes": 9.0, "done": T, "country": None},
                {"id": 9, "minutes": 9.0, "done": F, "country": "US"},
            ],
            None,
            [],
        ],
        [1.0, -1.0, 0.0],
    ),
    (
        read_ragged,
        [[{"id": 1, "genres": [1, 2]}, {"id": 2, "genres": []}], None, [{"id": 3, "genres": [7]}], []],
        [2003.0, -1.0, 1021.0, 0.0],
    ),
    (
        read_deep,
        [[[{"parts": [1, 2]}], [{"parts": [3]}]], None, [], [[], [{"parts": [4]}, {"parts": []}]]],
        [33, -1, 0, 40],
    ),
]


def stored(values: list[Any], kind: pa.DataType) -> dict[str, pa.Array]:
    """The same values, as Arrow may store them: plain, as a slice of more, in chunks, null lists with content."""
    filler = next(v for v in values if v is not None)
    around = pa.array([filler, *values, filler, filler], kind)
    forms = {
        "plain": pa.array(values, kind),
        "sliced": around.slice(1, len(values)),
        "chunked": pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)]),
        "masked": pa.array([filler if v is None else v for v in values], kind),
    }
    if pa.types.is_list(kind):
        whole = forms["masked"]
        mask = pa.array([v is None for v in values])
        forms["masked"] = pa.ListArray.from_arrays(whole.offsets, whole.values, type=kind, mask=mask)
        forms["large"] = pa.array(values, pa.large_list(kind.value_type))
    else:
        del forms["masked"]
    return forms


@pytest.mark.parametrize(("encoder", "values", "expected"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_each_type_is_read_as_it_is_however_arrow_stores_it(
    encoder: FeatureEncoder, values: list[Any], expected: list[float], both_ways: Run, data_maps: Build
) -> None:
    key = encoder.data[0]
    for form, array in stored(values, key.type).items():
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        rows = np.array([*range(len(values)), -1, 0])
        maps = data_maps([0] * len(rows), [[1]] * len(rows), {key.name: Element(array, rows)})
        assert both_ways(encoder, maps)["seen"] == [*expected, -1.0, expected[0]], form


def test_data_that_lies_askew_in_memory_is_read(both_ways: Run, data_maps: Build) -> None:
    """As it may in a message of which it is a part: compiled code expects numbers at their natural addresses."""
    type = read_list.data[0].type  # noqa: A001
    numbers = b"x" + np.array([3, 4], dtype=np.int64).tobytes()
    child = pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(numbers).slice(1)])
    values = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), child, type=type)
    assert both_ways(read_list, data_maps([0], [[1]], {"recent": Element(values, np.array([0]))}))["seen"] == [72.0]


@pytest.mark.parametrize("encoder", [case[0] for case in CASES], ids=lambda e: e.name)
def test_an_element_without_any_value_is_absent(encoder: FeatureEncoder, both_ways: Run, data_maps: Build) -> None:
    key = encoder.data[0]
    maps = data_maps([0], [[1]], {key.name: Element(pa.array([], key.type), np.array([-1]))})
    assert both_ways(encoder, maps)["seen"] == [-1.0]
    assert (
        both_ways(encoder, data_maps([], [], {key.name: Element(pa.array([], key.type), np.array([], int))}))["seen"]
        == []
    )


@feature_encoder(
    data=[global_element("films", "struct<id: int64, year: int32, genres: list<string>>")],
    features=["year", "comedies"],
)
def read_global(context, items, data, out):
    films = data.films
    for i in range(len(items.video_id)):
        row = lookup(films, items.video_id[i])
        if row >= 0:
            out.year[i] = films.year[row]
            count = 0
            for genre in films.genres.values[films.genres.offsets[row] : films.genres.offsets[row + 1]]:
                if genre in ("comedy", "farce"):
                    count += 1
            out.comedies[i] = count


def versions(key: DataKey, *tables: list[dict[str, Any]]) -> pa.Array:
    return pa.array(list(tables), pa.list_(key.type))


def test_each_context_sees_its_own_version_of_a_global_element(both_ways: Run, data_maps: Build) -> None:
    key = read_global.data[0]
    old = [{"id": -5, "year": 1999, "genres": ["comedy"]}, {"id": 1 << 40, "year": 2000, "genres": ["farce", "comedy"]}]
    new = [{"id": -5, "year": 2005, "genres": []}, {"id": 7, "year": 2006, "genres": ["drama"]}]
    element = Element(versions(key, old, [], new), np.array([0, 2, 1, -1]))
    found = both_ways(read_global, data_maps([0] * 4, [[-5, 1 << 40, 7]] * 4, {"films": element}))
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert found["year"] == [1999, 2000, nan, 2005, nan, 2006, *[nan] * 6]
    assert found["comedies"] == [1, 2, nan, 0, nan, 0, *[nan] * 6]


def test_lookup_finds_every_row_of_a_large_table_and_nothing_else(both_ways: Run, data_maps: Build) -> None:
    key = read_global.data[0]
    ids = [*range(0, 200_000, 1024), *[(i << 32) + 1 for i in range(100)]]
    table = [{"id": i, "year": n, "genres": []} for n, i in enumerate(sorted(ids))]
    maps = data_maps([0], [sorted(ids) + [i + 5 for i in ids]], {"films": Element(versions(key, table), np.array([0]))})
    found = both_ways(read_global, maps)["year"]
    assert found[: len(ids)] == list(range(len(ids)))
    assert all(np.isnan(found[len(ids) :]))


NAMES = global_element("countries", "struct<code: string, size: float>")


@feature_encoder(data=[NAMES], features=["size"])
def size_compiled(context, items, data, out):
    row = lookup(data.countries, context.country)
    if row >= 0:
        out.size[0] = data.countries.size[row]


@feature_encoder(data=[NAMES], features=["size"], compiled=False)
def size_interpreted(context, items, data, out):
    row = lookup(data.countries, context.country)
    if row >= 0 and data.countries.code[row] == context.country:
        out.size[0] = data.countries.size[row]


@pytest.mark.parametrize("encoder", [size_compiled, size_interpreted])
def test_rows_are_found_by_text_and_null_matches_nothing(
    encoder: FeatureEncoder, both_ways: Run, data_maps: Build
) -> None:
    table = [{"code": None, "size": 9.0}, {"code": "DE", "size": 1.0}, {"code": "US", "size": None}]
    context = {"country": pa.array(["DE", "US", None, "FR"])}
    maps = data_maps([0] * 4, [[1]] * 4, {"countries": Element(versions(NAMES, table), np.zeros(4, int))}, context)
    found = both_ways(encoder, maps, [context_variable("country", "string")])["size"]
    assert found[0] == 1.0
    assert all(np.isnan(found[1:]))


@feature_encoder(features=["seen"])
def read_variables(context, items, data, out):
    flag = 1000 if context.kids else 0
    text = 100 if context.device == "phone" else 0
    days = (context.time - context.joined) / 86_400_000_000
    for i in range(len(items.video_id)):
        out.seen[i] = flag + text + days + context.price + context.level + items.video_id[i] / 8


def test_context_variables_of_every_scalar_type_are_read(both_ways: Run, data_maps: Build) -> None:
    keys = [
        context_variable("kids", "bool"),
        context_variable("device", "string"),
        context_variable("joined", "timestamp[us, UTC]"),
        context_variable("price", "float"),
        context_variable("level", "uint8"),
    ]
    day = 86_400_000_000
    context = {
        "kids": pa.array([True, False]),
        "device": pa.array(["phone", None]).dictionary_encode(),
        "joined": pa.array([day, 0], keys[2].type),
        "price": pa.array([0.5, None], pa.float32()),
        "level": pa.array([200, 3], pa.uint8()),
    }
    maps = data_maps([3 * day, day], [[4, 8], []], context=context)
    assert both_ways(read_variables, maps, keys)["seen"] == [1302.5 + 0.5, 1302.5 + 1.0]


def test_a_null_hidden_in_a_value_is_refused(both_ways: Run, data_maps: Build) -> None:
    key = read_list.data[0]
    maps = data_maps([0], [[1]], {"recent": Element(pa.array([[1, None]], key.type), np.array([0]))})
    with pytest.raises(DataKeyError, match="recent.* is null at position 1"):
        both_ways(read_list, maps)


def test_a_null_context_variable_is_refused_unless_it_is_a_float_or_text(both_ways: Run, data_maps: Build) -> None:
    maps = data_maps([0, None], [[1], [1]])
    with pytest.raises(DataKeyError, match="'time' is null in row 1"):
        both_ways(time_of_context, maps)


@feature_encoder(features=["seen"])
def time_of_context(context, items, data, out):
    out.seen[:] = context.time


@pytest.mark.parametrize(
    ("rows", "offsets", "problem"),
    [
        ([1], [0, 1], "rows must be"),
        ([-2], [0, 1], "rows must be"),
        ([0, 0], [0, 1], "rows must be"),
        ([0], [0, 2], "item offsets"),
    ],
)
def test_rows_and_offsets_outside_their_data_are_refused(
    rows: list[int], offsets: list[int], problem: str, both_ways: Run, data_maps: Build
) -> None:
    key = read_list.data[0]
    good = data_maps([0], [[1]], {"recent": Element(pa.array([[1]], key.type), np.array(rows))})
    with pytest.raises(DataKeyError, match=problem):
        both_ways(read_list, DataMaps(good.contexts, good.items, np.array(offsets), good.elements))


def test_data_of_another_type_is_cast_if_nothing_is_lost_and_refused_else(both_ways: Run, data_maps: Build) -> None:
    narrow = Element(pa.array([[1, 2]], pa.list_(pa.int16())), np.array([0]))
    assert both_ways(read_list, data_maps([0], [[1]], {"recent": narrow}))["seen"] == [32.0]
    wrong = Element(pa.array([["one"]], pa.list_(pa.string())), np.array([0]))
    with pytest.raises(DataKeyError, match="'recent' is list<item: string>, expected list<item: int64>"):
        both_ways(read_list, data_maps([0], [[1]], {"recent": wrong}))
    with pytest.raises(DataKeyError, match="unknown data element in the data maps 'recent'"):
        both_ways(read_list, data_maps([0], [[1]]))


def test_types_that_encoders_cannot_read_are_refused_when_declared() -> None:
    with pytest.raises(EncoderError, match=r"'picture' is binary, which encoders cannot read"):

        @feature_encoder(data=[service_element("picture", "binary")], features=["f"])
        def read(context, items, data, out):
            out.f[0] = 1


def test_a_field_with_a_reserved_name_is_refused() -> None:
    with pytest.raises(EncoderError, match="'odd' has a field 'offsets'"):

        @feature_encoder(data=[service_element("odd", "list<struct<offsets: int64>>")], features=["f"])
        def read(context, items, data, out):
            out.f[0] = 1


@feature_encoder(data=[service_element("number", "int64")], features=["seen"])
def read_number(context, items, data, out):
    out.seen[0] = data.number.value


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int8", [-128, 127]),
        ("int16", [-(1 << 15), 1]),
        ("int32", [-(1 << 31), 1]),
        ("uint8", [255, 0]),
        ("uint16", [65_535, 0]),
        ("uint32", [(1 << 32) - 1, 0]),
        ("uint64", [1 << 40, 0]),
        ("int64", [-(1 << 40), 0]),
        ("date32", [20_000, -1]),
    ],
)
def test_every_width_of_integer_is_read_as_one_kind(
    kind: str, values: list[int], both_ways: Run, data_maps: Build
) -> None:
    key = service_element("number", kind)
    array = pa.array(values, pa.int32()).cast(key.type) if kind == "date32" else pa.array(values, key.type)
    for stored_array, expected in ((array, values), (array.slice(1), values[1:])):
        element = Element(stored_array, np.arange(len(expected)))
        other = FeatureEncoder(read_number.function, (key,), ("seen",), True, {}, {}, read_number.reads)
        maps = data_maps([0] * len(expected), [[1]] * len(expected), {"number": element})
        assert both_ways(other, maps)["seen"] == [float(np.float32(value)) for value in expected]


def test_an_unsigned_integer_beyond_64_bits_signed_is_refused(both_ways: Run, data_maps: Build) -> None:
    element = Element(pa.array([1 << 63], pa.uint64()), np.array([0]))
    with pytest.raises(DataKeyError, match="expected int64"):
        both_ways(read_number, data_maps([0], [[1]], {"number": element}))

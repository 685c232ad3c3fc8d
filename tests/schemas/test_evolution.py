from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.arrow_types import parse_type
from schemas.data_keys import DataKey, global_element, service_element
from schemas.errors import DataKeyError
from schemas.evolution import adapt

TIME, MILLIS = pa.timestamp("us", "UTC"), pa.timestamp("ms", "UTC")
INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
LEAVES = [*INTEGERS, pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), TIME, MILLIS, pa.date32()]
NAMES = "abcd"
OLDER = {name: f"old_{name}" for name in NAMES}
MOMENT, DAY = datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("UTC")), date(2026, 1, 31)  # as Arrow gives it
NULLABLE = (pa.float32(), pa.float64(), pa.string(), pa.large_string())


class RefusedError(Exception):
    """The oracle allows no conversion at this path."""


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def bounds(integer: pa.DataType) -> tuple[int, int]:
    bits = integer.bit_width
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(integer) else (0, 2**bits - 1)


def leaf_allowed(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Decide by what the values are, not by the widths of types."""
    if stored == wanted:
        return True
    if stored in INTEGERS and wanted in INTEGERS:
        (low, high), (least, most) = bounds(stored), bounds(wanted)
        return least <= low and high <= most
    if stored in INTEGERS:
        return wanted == pa.float64() and all(abs(end) <= 2**53 for end in bounds(stored))
    pairs = [(pa.float32(), pa.float64()), (MILLIS, TIME), *[(a, b) for a in NULLABLE[2:] for b in NULLABLE[2:]]]
    return (stored, wanted) in pairs


def oracle_default(wanted: pa.DataType, declared: Mapping[str, Any], path: str) -> Any:
    if path in declared:
        value = declared[path]
        return MOMENT if wanted in (TIME, MILLIS) else DAY if wanted == pa.date32() else value
    if is_list(wanted):
        return []
    if pa.types.is_struct(wanted):
        return {each.name: oracle_default(each.type, declared, f"{path}.{each.name}") for each in wanted}
    if wanted in NULLABLE:
        return None
    raise RefusedError(path)


def oracle_check(stored: pa.DataType, wanted: pa.DataType, declared: Mapping[str, Any], path: str) -> None:
    """Raise RefusedError where the types allow no conversion, whatever the values."""
    if stored == wanted:
        return
    if is_list(stored) and is_list(wanted):
        oracle_check(stored.value_type, wanted.value_type, declared, path)
    elif pa.types.is_struct(stored) and pa.types.is_struct(wanted):
        fields = {each.name: each.type for each in stored}
        for each in wanted:
            below = f"{path}.{each.name}".lstrip(".")
            source = fields.get(each.name, fields.get(OLDER[each.name]))
            if source is None:
                oracle_default(each.type, declared, below)
            else:
                oracle_check(source, each.type, declared, below)
    elif not leaf_allowed(stored, wanted):
        raise RefusedError(path)


def oracle(value: Any, wanted: pa.DataType, declared: Mapping[str, Any], path: str = "") -> Any:
    if value is None:
        return None
    if is_list(wanted):
        return [oracle(each, wanted.value_type, declared, path) for each in value]
    if not pa.types.is_struct(wanted):
        return float(value) if wanted in (pa.float32(), pa.float64()) else value
    converted = {}
    for each in wanted:
        below = f"{path}.{each.name}".lstrip(".")
        name = each.name if each.name in value else OLDER[each.name]
        there = name in value
        converted[each.name] = (
            oracle(value[name], each.type, declared, below) if there else oracle_default(each.type, declared, below)
        )
    return converted


def structs(child: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.dictionaries(st.sampled_from(NAMES), child, min_size=1, max_size=4).map(
        lambda fields: pa.struct(list(fields.items()))
    )


types = st.recursive(
    st.sampled_from(LEAVES),
    lambda child: st.one_of(child.map(pa.list_), child.map(pa.large_list), structs(child)),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, wanted: pa.DataType, other_leaves: bool = True) -> pa.DataType:
    """Draw a type that differs from another in ways that the rules allow, and in some that they forbid."""
    if is_list(wanted):
        inner = draw(changed(wanted.value_type, other_leaves))
        return draw(st.sampled_from([pa.list_, pa.large_list]))(inner)
    if pa.types.is_struct(wanted):
        kept = [each for each in draw(st.permutations(list(wanted))) if draw(st.integers(0, 4))]
        fields = {
            (OLDER[each.name] if draw(st.booleans()) else each.name): draw(changed(each.type, other_leaves))
            for each in kept
        }
        if draw(st.booleans()) or not fields:
            fields["extra"] = pa.int64()
        return pa.struct(list(fields.items()))
    if not draw(st.integers(0, 9)) and other_leaves:
        return draw(types)
    narrower = [leaf for leaf in LEAVES if leaf_allowed(leaf, wanted)]
    return draw(st.sampled_from(narrower))


def paths(kind: pa.DataType, parent: str = "") -> list[tuple[str, pa.DataType]]:
    while is_list(kind):
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return []
    own = [(f"{parent}{each.name}", each.type) for each in kind]
    return own + [path for each in kind for path in paths(each.type, f"{parent}{each.name}.")]


def default_of(leaf: pa.DataType) -> Any:
    if leaf in (TIME, MILLIS):
        return "2026-01-31T12:00:00Z"
    return {pa.bool_(): True, pa.date32(): "2026-01-31", pa.string(): "x", pa.large_string(): "x"}.get(
        leaf, 0.5 if leaf in NULLABLE else 7
    )


@st.composite
def keys(draw: st.DrawFn, wanted: st.SearchStrategy[pa.DataType] = types) -> DataKey:
    kind = draw(wanted)
    leaves = [(path, each) for path, each in paths(kind) if not is_list(each) and not pa.types.is_struct(each)]
    defaults = {path: default_of(each) for path, each in leaves if draw(st.integers(0, 3))}
    aliases = {path: [OLDER[path.split(".")[-1]]] for path, _ in paths(kind)}
    return service_element("history", kind, defaults=defaults, aliases=aliases)


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if is_list(kind):
        return st.none() | st.lists(values(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({each.name: values(each.type) for each in kind})
    if kind in INTEGERS:
        return st.sampled_from(bounds(kind)) | st.integers(*bounds(kind))
    if kind in (pa.float32(), pa.float64()):
        return st.none() | st.floats(width=kind.bit_width, allow_nan=False)
    if kind in NULLABLE:
        return st.none() | st.text(max_size=3)
    if kind == pa.bool_():
        return st.booleans()
    return st.just(DAY) if kind == pa.date32() else st.sampled_from([MOMENT, datetime(1, 1, 1, tzinfo=UTC)])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_conversion_gives_what_plain_python_gives_and_a_refusal_names_the_field(data: st.DataObject) -> None:
    key = data.draw(keys())
    stored = data.draw(changed(key.type) | types)
    try:
        oracle_check(stored, key.type, key.defaults, "")
    except RefusedError as refused:
        with pytest.raises(DataKeyError) as error:
            key.adapter(stored)
        place = f"history.{refused}".removesuffix(".")
        assert f": '{place}" in str(error.value)
        assert str(stored) in str(error.value)
        assert str(key.type) in str(error.value)
        assert "declare a new element 'history@2'" in str(error.value)
        return
    rows = data.draw(st.lists(values(stored), max_size=6))
    array = pa.array(rows, stored)
    start = data.draw(st.integers(0, len(rows)))
    adapted = key.adapter(stored)(array.slice(start))
    adapted.validate(full=True)
    assert adapted.type == key.type
    assert repr(adapted.to_pylist()) == repr(oracle_rows(array.slice(start), key))


def oracle_rows(array: pa.Array, key: DataKey) -> list[Any]:
    return [oracle(value, key.type, key.defaults) for value in array.to_pylist()]


@pytest.mark.parametrize("wanted", LEAVES, ids=str)
@pytest.mark.parametrize("stored", LEAVES, ids=str)
def test_each_pair_of_scalars_is_allowed_exactly_where_no_value_of_the_stored_type_changes(
    stored: pa.DataType, wanted: pa.DataType
) -> None:
    key = service_element("history", pa.struct({"x": wanted}))
    assert key.reads(pa.struct({"x": stored})) is leaf_allowed(stored, wanted)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_two_steps_give_what_one_gives_where_the_middle_type_has_the_fields_that_the_others_share(
    data: st.DataObject,
) -> None:
    """The middle version has every field of the last, so that a default is only ever given for what the first lacks."""
    last = data.draw(keys())
    middle = DataKey("history", last.kind, data.draw(widened(last.type)), last.defaults, last.aliases)
    first = data.draw(changed(middle.type, other_leaves=False))
    if not (middle.reads(first) and last.reads(middle.type) and last.reads(first)):
        return
    array = pa.array(data.draw(st.lists(values(first), max_size=5)), first)
    in_two_steps = last.adapter(middle.type)(middle.adapter(first)(array))
    assert repr(in_two_steps.to_pylist()) == repr(last.adapter(first)(array).to_pylist())


@st.composite
def widened(draw: st.DrawFn, kind: pa.DataType) -> pa.DataType:
    """Draw a type with all fields of another, in another order and with narrower leaves that its defaults fit."""
    if is_list(kind):
        return draw(st.sampled_from([pa.list_, pa.large_list]))(draw(widened(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, draw(widened(each.type))) for each in draw(st.permutations(list(kind)))])
    same_family = [leaf for leaf in LEAVES if leaf_allowed(leaf, kind) and (leaf in INTEGERS) == (kind in INTEGERS)]
    return draw(st.sampled_from(same_family))


def test_equal_types_are_not_copied_and_neither_are_the_columns_that_stay() -> None:
    stored = pa.list_(pa.struct({"id": pa.int64(), "minutes": pa.float32()}))
    key = service_element("history", pa.list_(pa.struct({"minutes": pa.float64(), "id": pa.int64()})))
    array = pa.array([[{"id": i, "minutes": 1.0}] for i in range(100)], stored)
    assert service_element("history", stored).adapter(stored)(array) is array
    before, after = array.values.field("id"), key.adapter(stored)(array).values.field("id")
    assert before.buffers()[1].address == after.buffers()[1].address


def test_a_dual_written_field_is_read_by_its_name_and_two_older_names_are_ambiguous() -> None:
    key = service_element("h", "struct<minutes: double>", aliases={"minutes": ["watched", "seen"]})
    both = pa.struct({"watched": pa.float64(), "minutes": pa.float64()})
    assert key.adapter(both)(pa.array([{"watched": 1.0, "minutes": 2.0}], both)).to_pylist() == [{"minutes": 2.0}]
    with pytest.raises(DataKeyError, match=r"'h\.minutes' is stored under several of its older names: watched, seen"):
        key.adapter(pa.struct({"seen": pa.float64(), "watched": pa.float64()}))


def test_an_integer_without_a_default_is_refused_with_the_default_to_declare() -> None:
    key = service_element("h", "list<struct<id: int64, on: struct<plays: int32>>>")
    with pytest.raises(DataKeyError, match=r"'h\.on\.plays' is missing.*\{ \"on\.plays\" = … \}, or declare"):
        key.adapter(parse_type("list<struct<id: int64>>"))


def test_a_field_that_must_not_be_null_is_not_read_from_one_that_may() -> None:
    wanted = pa.struct([pa.field("device", pa.string(), nullable=False)])
    assert adapt(wanted, pa.struct({"device": pa.string()})).wanted.field(0).nullable
    with pytest.raises(DataKeyError, match=r"'value\.device' may be null"):
        adapt(pa.struct({"device": pa.string()}), wanted)
    with pytest.raises(DataKeyError, match=r"'value\.device' is missing"):
        adapt(pa.struct({"other": pa.string()}), wanted)


def test_a_time_that_no_finer_unit_can_hold_is_an_error_of_ours() -> None:
    key = service_element("h", pa.struct({"at": pa.timestamp("ns", "UTC")}))
    stored = pa.struct({"at": pa.timestamp("s", "UTC")})
    far = pa.StructArray.from_arrays([pa.array([2**62]).cast(stored.field(0).type)], fields=list(stored))
    with pytest.raises(DataKeyError, match="a value of 'h'"):
        key.adapter(stored)(far)


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"plays": "1"}, r"default of 'h\.plays' is '1', which does not fit int8 → expected an integer of int8"),
        ({"plays": 128}, "does not fit int8"),
        ({"plays": True}, "does not fit int8"),
        ({"plays": None}, "does not fit int8"),
        ({"new": 1}, "expected true or false"),
        ({"minutes": float("nan")}, "a finite number"),
        ({"minutes": 1e300}, "does not fit float"),
        ({"at": datetime(2026, 1, 31)}, "a time with a zone"),
        ({"day": datetime(2026, 1, 31, tzinfo=UTC)}, "a date, such as"),
        ({"tags": ["x"]}, "a missing list is empty → remove it"),
        ({"on": {}}, r"'h\.on' is a struct, which has no default of its own"),
        ({"play": 1}, r"'play' → did you mean 'plays'|plays"),
        ({"raw": b""}, "fields of this type cannot have one"),
    ],
)
def test_a_default_that_does_not_fit_is_one_clear_error(defaults: Mapping[str, Any], problem: str) -> None:
    kind = pa.list_(
        pa.struct(
            {
                "plays": pa.int8(),
                "new": pa.bool_(),
                "minutes": pa.float32(),
                "at": TIME,
                "day": pa.date32(),
                "tags": pa.list_(pa.string()),
                "on": pa.struct({"plays": pa.int8()}),
                "raw": pa.binary(),
            }
        )
    )
    with pytest.raises(DataKeyError, match=problem):
        service_element("h", kind, defaults=defaults)


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ({"minutes": ["id"]}, "the alias 'id' of 'minutes' is taken: it is a field of the same struct"),
        ({"minutes": ["x"], "id": ["x"]}, "the alias 'x' of 'minutes' is taken: it is an alias of 'id'"),
        ({"minutes": ["x", "x"]}, "the alias 'x' of 'minutes' is taken: it is an alias of 'minutes'"),
        ({"minutes": "watched"}, r"expected a list of older names"),
        ({"minute": ["x"]}, "minutes"),
    ],
)
def test_an_alias_that_is_taken_is_one_clear_error(aliases: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(DataKeyError, match=problem):
        service_element("h", "list<struct<id: int64, minutes: double>>", aliases=aliases)


def test_what_a_missing_field_is_anyway_changes_no_declaration() -> None:
    plain = service_element("h", "struct<device: string, tags: list<string>>")
    assert service_element("h", plain.type, defaults={"device": None, "tags": []}, aliases={"device": []}) == plain
    assert plain.to_json() == {
        "name": "h",
        "kind": "service_element",
        "type": "struct<device: string, tags: list<item: string>>",
    }


def test_defaults_and_aliases_are_part_of_records_and_equality() -> None:
    at = datetime(2026, 1, 31, 13, tzinfo=UTC)
    key = service_element(
        "h", "struct<at: timestamp[us, UTC], plays: int32>", defaults={"plays": 0, "at": at}, aliases={"at": ["time"]}
    )
    assert key.to_json() == {
        "name": "h",
        "kind": "service_element",
        "type": "struct<at: timestamp[us, tz=UTC], plays: int32>",
        "defaults": {"at": "2026-01-31T13:00:00Z", "plays": 0},
        "aliases": {"at": ["time"]},
    }
    assert DataKey.from_json(key.to_json()) == key
    assert hash(DataKey.from_json(key.to_json())) == hash(key)
    assert key != service_element("h", key.type, defaults={"plays": 1, "at": at}, aliases={"at": ["time"]})


def test_the_key_of_a_global_elements_rows_stays_the_key() -> None:
    videos = global_element("videos", "struct<video_id: int64, title: string>", aliases={"video_id": ["id"]})
    assert videos.reads(pa.struct({"id": pa.int32(), "title": pa.string()}))
    for stored in ({"title": pa.string(), "video_id": pa.int64()}, {"title": pa.string()}):
        with pytest.raises(DataKeyError, match="videos"):
            videos.adapter(pa.struct(stored))


@pytest.mark.parametrize(
    ("name", "spelling"), [("history@2", "history_2"), ("history@12", "history_12"), ("history", "history")]
)
def test_the_successor_of_an_element_is_read_under_a_name_with_its_number(name: str, spelling: str) -> None:
    assert service_element(name, "int64").name == spelling


@pytest.mark.parametrize("name", ["history@", "history@1", "history@02", "history@x", "@2", "a@2@3"])
def test_other_spellings_of_a_successor_are_refused(name: str) -> None:
    with pytest.raises(DataKeyError, match="data key"):
        service_element(name, "int64")

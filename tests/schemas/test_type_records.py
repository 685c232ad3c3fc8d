from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow_types import parse_type, type_text
from schemas.data_keys import DataKey, Kind, service_element
from schemas.errors import DataKeyError
from schemas.printed_types import parse_printed_type
from schemas.type_records import type_from_json, type_to_json

ANY = [  # whatever a file may hold, which earlier releases published as Arrow prints it
    pa.timestamp("ms", "UTC"),
    pa.timestamp("ns", "Europe/Berlin"),
    pa.timestamp("s", "+01:00"),
    pa.time32("s"),
    pa.time64("ns"),
    pa.duration("ms"),
    pa.date64(),
    pa.null(),
    pa.float16(),
    pa.decimal32(5, 2),
    pa.decimal256(60, -3),
    pa.binary(16),
    pa.large_binary(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.large_string(), ordered=True),
    pa.map_(pa.string(), pa.int64()),
    pa.uuid(),
    pa.json_(),
]
CONFIGURABLE = ["int64", "double", "string", "timestamp[us, UTC]", "time64[us]", "duration[us]", "decimal128(5, 2)"]
texts = st.text(max_size=6)
simple = st.sampled_from([*map(parse_type, CONFIGURABLE), *ANY])
configurable = st.sampled_from([parse_type(text) for text in CONFIGURABLE])


def nested(leaves: st.SearchStrategy[pa.DataType], nullable: st.SearchStrategy[bool]) -> st.SearchStrategy[pa.DataType]:
    return st.recursive(
        leaves,
        lambda inner: (
            inner.map(pa.list_)
            | st.dictionaries(texts, st.tuples(inner, nullable), min_size=1, max_size=4).map(
                lambda of: pa.struct(
                    [pa.field(name, one, may_be or one == pa.null()) for name, (one, may_be) in of.items()]
                )
            )
        ),
        max_leaves=6,
    )


@given(nested(simple | simple.map(pa.large_list) | simple.map(lambda of: pa.list_(of, 3)), st.booleans()))
def test_any_type_comes_back_from_its_record(type: pa.DataType) -> None:  # noqa: A002
    fields = json.loads(json.dumps(type_to_json(type)))
    assert type_from_json(fields) == type
    assert DataKey.from_json(DataKey("x", Kind.ITEM, type).to_json()).type == type


@given(nested(configurable, st.just(True)))
def test_a_type_that_configuration_can_say_needs_only_text_whatever_its_fields_are_called(type: pa.DataType) -> None:  # noqa: A002
    assert parse_type(type_text(type)) == type
    assert type_to_json(type).keys() == {"type"}


@pytest.mark.parametrize("name", ["release-year", "a b", "a.b", "Länge", "[x]", "1st", "a(b)", "x=y", "it's"])
def test_a_name_is_read_as_arrow_prints_it(name: str) -> None:
    type = pa.list_(pa.struct([(name, pa.int64()), ("b", pa.struct([(name, pa.string())]))]))  # noqa: A001
    assert parse_type(str(type)) == type
    assert type_to_json(type) == {"type": str(type)}


@pytest.mark.parametrize("name", ["a, b", "a: b", "a:b", "<", ">", '"', "a\nb", "", " a "])
def test_a_name_that_arrow_prints_ambiguously_is_quoted(name: str) -> None:
    type = pa.struct([("first", pa.int64()), (name, pa.list_(pa.string()))])  # noqa: A001
    assert json.dumps(name) in type_text(type)
    assert parse_type(type_text(type)) == type


def test_a_slip_in_a_type_never_becomes_a_field_s_name() -> None:
    for slip in (
        "struct<a: in64, b: int64>",
        "struct<a: list<int64, b: int64>",
        'struct<"a: int64>',
        "struct<: int64>",
    ):
        with pytest.raises(DataKeyError, match="at character"):
            parse_type(slip)


@pytest.mark.parametrize("type", ANY, ids=str)
def test_what_earlier_releases_recorded_as_text_is_read(type: pa.DataType) -> None:  # noqa: A002
    whole = pa.struct([pa.field("id", pa.int64(), nullable=False), pa.field("release-year", type, type == pa.null())])
    assert type_from_json({"type": str(whole)}) == whole
    listed = pa.list_(pa.field("element", pa.struct([("a", type), ("b: c", pa.int64())]), nullable=False))
    assert parse_printed_type(str(listed)) == listed


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "int64", "arrow": "no base64!"},
        {"type": "int64", "arrow": "AAAA"},
        {"type": "int64", "arrow": 7},
        {"type": "extension<pandas.period>"},
        {"type": "fixed_size_list<item: int64>[-3]"},
        {"type": "struct<" * 40},
        {"type": "struct<a" + ":" * 9_999},
    ],
)
def test_what_is_no_type_is_our_error(fields: dict[str, object]) -> None:
    with pytest.raises(DataKeyError):
        type_from_json(fields)


def test_keys_of_configuration_are_written_as_they_always_were() -> None:
    key = service_element("my_list", "list<struct<video_id: int64, added_at: timestamp[us, UTC]>>")
    text = "list<item: struct<video_id: int64, added_at: timestamp[us, tz=UTC]>>"
    assert key.to_json() == {"name": "my_list", "kind": "service_element", "type": text}

from __future__ import annotations

import contextlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow_types import parse_type
from schemas.errors import DataKeyError

PLAIN = [
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us", "UTC"),
    pa.timestamp("us"),
]
names = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,8}", fullmatch=True)
types = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: (
        inner.map(pa.list_) | st.dictionaries(names, inner, max_size=4).map(lambda of: pa.struct(list(of.items())))
    ),
    max_leaves=8,
)


@given(types)
def test_what_arrow_prints_is_read_back(type: pa.DataType) -> None:  # noqa: A002
    printed = str(type).replace("date32[day]", "date32")
    assert parse_type(printed) == type


@given(types)
def test_shorter_forms_and_spaces_mean_the_same(type: pa.DataType) -> None:  # noqa: A002
    shorter = str(type).replace("date32[day]", "date").replace("item: ", "").replace("tz=", "")
    assert parse_type(shorter) == type
    for token in "<>:,[]":
        shorter = shorter.replace(token, f" {token}  ")
    assert parse_type(f" {shorter}\n") == type


@pytest.mark.parametrize(
    ("text", "expected"),
    [("float32", pa.float32()), ("float64", pa.float64()), ("double", pa.float64()), ("utf8", pa.string())],
)
def test_other_names_of_a_type(text: str, expected: pa.DataType) -> None:
    assert parse_type(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1: expected a type"),
        ("int65", "character 1: expected one of bool, int8"),
        ("list", "character 5: expected '<'"),
        ("list<int64", "character 11: expected '>'"),
        ("list<int64>>", "character 12: expected the end"),
        ("list<int64, int64>", "character 11: expected '>'"),
        ("struct<a int64>", "character 10: expected ':'"),
        ("struct<a: int64 b: int64>", "character 17: expected ','"),
        ("struct<a: int64,>", "expected"),
        ("struct<a: int64, a: string>", "names the field 'a' twice"),
        ("timestamp", "expected '['"),
        ("timestamp[ns, UTC]", "expected us: times are microseconds everywhere"),
        ("timestamp[us, CET]", "character 15: expected UTC"),
        ("int64;", "character 6: expected a type"),
        ("list<" * 20 + "int64" + ">" * 20, "nests deeper than 16"),
    ],
)
def test_what_is_no_type_is_told_where(text: str, message: str) -> None:
    with pytest.raises(DataKeyError) as raised:
        parse_type(text)
    assert message in str(raised.value)


@given(st.text(alphabet="listrucmeap<>:,[]=64 \n", max_size=40))
def test_any_text_is_a_type_that_can_be_written_and_read_again_or_our_error(text: str) -> None:
    parsed = None
    with contextlib.suppress(DataKeyError):
        parsed = parse_type(text)
    assert parsed is None or parse_type(str(parsed)) == parsed

"""What is no number, no integer of its width or no usable time is refused when it arrives, by every protocol alike."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.answers import Reply, refuse_times_outside
from prana_proxy.gateway.decoded_values import AnswerType, python_type, to_arrow
from prana_proxy.gateway.services.http.json_answers import JsonDecoder
from prana_proxy.gateway.services.python import _reply
from prana_proxy.gateway.services.thrift.binary_protocol import (
    DOUBLE,
    I64,
    LIST,
    STRING,
    STRUCT,
    MessageKind,
    message_head,
)
from prana_proxy.gateway.services.thrift.idl import method_of
from prana_proxy.gateway.services.thrift.reply_decoder import ReplyDecoder
from schemas.arrow_types import parse_type
from schemas.errors import ConfigError
from schemas.services import Status

TIME = "timestamp[us, UTC]"
LAST, FIRST = 253_402_300_799_999_999, -62_135_596_800_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)
ROUNDS_TO_INFINITY = 3.4028235677973366e38
SHAPES = {
    "alone": ("{}", lambda value: value, "{}"),
    "in a list": ("list<{}>", lambda value: [value], "[{}]"),
    "in many rows": (
        "list<struct<v: {}>>",
        lambda value: [{"v": value}] * 20,
        "[" + ", ".join(['{{"v": {}}}'] * 20) + "]",
    ),
}
IDL = """
struct D { 1: double v } struct I { 1: i64 v } struct S { 1: string v }
service Answers {
    double d_alone(1: i64 id), list<double> d_list(1: i64 id), list<D> d_rows(1: i64 id),
    i64 i_alone(1: i64 id), list<i64> i_list(1: i64 id), list<I> i_rows(1: i64 id),
    string s_alone(1: i64 id), list<string> s_list(1: i64 id), list<S> s_rows(1: i64 id)
}
"""
METHODS = {"alone": "alone", "in a list": "list", "in many rows": "rows"}


def fits(reply: Reply, kind: str) -> bool:
    """Say whether an answer was taken; then it must become Arrow whose values can be read."""
    assert reply.status in (Status.OK, Status.INVALID)
    if reply.status is Status.OK:
        to_arrow([reply.value], parse_type(kind)).to_pylist()
    return reply.status is Status.OK


def by_json(kind: str, text: str, shape: str) -> bool:
    """Decode what a JSON text says, alone and in a batch."""
    whole, _, body = SHAPES[shape]
    answer = JsonDecoder(AnswerType(parse_type(whole.format(kind))), "", 1 << 20)
    output = body.format(*[text] * body.count("{}"))
    single = fits(answer.decode(output.encode(), 5), whole.format(kind))
    batch = answer.decode_batch(f'{{"answers": [{{"value": {output}}}]}}'.encode(), 1, 5)[0]
    assert single == fits(batch, whole.format(kind))
    return single


def by_python(kind: str, value: Any, shape: str) -> bool:
    whole, wrap, _ = SHAPES[shape]
    arrow = parse_type(whole.format(kind))
    return fits(refuse_times_outside(_reply(wrap(value), python_type(arrow), 5), AnswerType(arrow)), whole.format(kind))


@pytest.fixture(scope="module")
def by_thrift(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bool]:
    idl = tmp_path_factory.mktemp("idl") / "answers.thrift"
    idl.write_text(IDL)

    def decode(kind: str, value: Any, shape: str) -> bool:
        code, letter, content = _written(value)
        method = f"{letter}_{METHODS[shape]}"
        whole = SHAPES[shape][0].format(kind)
        table = {"type": whole, "key": {"id": "int64"}, "idl": str(idl), "url": f"thrift://host/Answers/{method}"}
        config = gateway_config({"services": {"one": table}}).services[0]
        if shape == "in a list":
            code, content = LIST, struct.pack(">bi", code, 1) + content
        if shape == "in many rows":
            code, content = LIST, struct.pack(">bi", STRUCT, 20) + (struct.pack(">bh", code, 1) + content + b"\0") * 20
        message = message_head(method, MessageKind.REPLY, 1) + struct.pack(">bh", code, 0) + content + b"\0"
        return fits(ReplyDecoder(method_of(str(idl), "Answers", method), config).decode(message, 5), whole)

    return decode


def _written(value: Any) -> tuple[int, str, bytes]:
    if isinstance(value, float):
        return DOUBLE, "d", struct.pack(">d", value)
    if isinstance(value, int):
        return I64, "i", struct.pack(">q", value)
    return STRING, "s", struct.pack(">i", len(value)) + value.encode()


NO_NUMBERS = [
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (math.inf, "1e999"),
    (-math.inf, "-1e999"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize(("value", "text"), NO_NUMBERS)
def test_what_is_no_number_is_refused_whatever_the_protocol_and_the_width(
    by_thrift: Callable[..., bool],
    value: float,
    text: str,
    kind: str,
    shape: str,
) -> None:
    assert not by_json(kind, text, shape)
    assert not by_thrift(kind, value, shape)
    assert not by_python(kind, value, shape)
    assert not by_python(kind, np.float32(value), shape)
    if shape == "in a list":
        for width in (np.float16, np.float32, np.float64):
            reply = _reply(np.array([1.0, value], width), python_type(parse_type(f"list<{kind}>")), 5)
            assert reply.status is Status.INVALID


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("value", "text", "in_float", "in_double"),
    [
        (FLOAT32_MAX, "3.4028235e38", True, True),
        (math.nextafter(ROUNDS_TO_INFINITY, 0), "3.4028235677973362e38", True, True),
        (ROUNDS_TO_INFINITY, "3.4028235677973366e38", False, True),
        (-1e39, "-1e39", False, True),
        (1.7976931348623157e308, "1.7976931348623157e308", False, True),
        (1e-320, "1e-320", True, True),
        (-0.0, "-0.0", True, True),
    ],
)
def test_a_float_fits_if_it_is_rounded_to_a_number(
    by_thrift: Callable[..., bool], value: float, text: str, in_float: bool, in_double: bool, shape: str
) -> None:
    for kind, expected in (("float", in_float), ("double", in_double)):
        assert by_json(kind, text, shape) == expected
        assert by_thrift(kind, value, shape) == expected
        assert by_python(kind, value, shape) == expected


@given(st.floats(), st.sampled_from(["float", "double"]), st.sampled_from(list(SHAPES)))
def test_all_protocols_take_the_same_floats(
    by_thrift: Callable[..., bool], value: float, kind: str, shape: str
) -> None:
    with np.errstate(over="ignore"):
        expected = math.isfinite(value) and (kind == "double" or bool(np.isfinite(np.float32(value))))
    assert by_thrift(kind, value, shape) == by_python(kind, value, shape) == expected
    assert by_json(kind, repr(value).replace("inf", "Infinity").replace("nan", "NaN"), shape) == expected


WIDTHS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}
EDGES = sorted({sign * 2**bits + by for bits in (7, 8, 15, 16, 31, 32, 63, 64) for by in (-1, 0) for sign in (1, -1)})


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_fit_their_width_and_those_of_uint64_what_encoders_have(
    by_thrift: Callable[..., bool],
    kind: str,
    shape: str,
) -> None:
    sign, bits = WIDTHS[kind]
    low, high = (0, 2 ** min(bits, 63) - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for value in EDGES:
        expected = low <= value <= high
        assert by_json(kind, str(value), shape) == by_python(kind, value, shape) == expected, value
        if -(2**63) <= value < 2**63:
            assert by_thrift(kind, value, shape) == expected, value


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1.0"), (1e3, "1e3"), (True, "true"), ("1", '"1"'), (Decimal(1), "1.0"), (None, "null")]
)
@pytest.mark.parametrize("kind", ["int8", "int64", "uint64"])
def test_what_is_written_as_something_else_is_no_integer(kind: str, value: Any, text: str, shape: str) -> None:
    assert not by_json(kind, text, shape)
    assert not by_python(kind, value, shape)


GOOD_TIMES = [
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59+05:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00-05:00",
    "2026-01-01T00:00:00.1234567Z",
    "2024-02-29T23:59:59-23:59",
]
BAD_TIMES = [
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T01:00:00-23:59",
    "9999-12-31T23:59:59.9999999Z",
    "0001-01-01T00:00:00+05:00",
    "0001-01-01T23:58:59.999999+23:59",
    "0000-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "2026-06-30T23:59:60Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:00:00",
    "2026-01-01",
    "2026-02-29T00:00:00Z",
    "",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("text", "expected"), [*((text, True) for text in GOOD_TIMES), *((text, False) for text in BAD_TIMES)]
)
def test_a_time_as_text_is_one_of_the_years_1_to_9999_in_utc(
    by_thrift: Callable[..., bool], text: str, expected: bool, shape: str
) -> None:
    assert by_json(TIME, f'"{text}"', shape) == expected
    assert by_thrift(TIME, text, shape) == expected
    assert by_python(TIME, text, shape) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("value", "expected"), [(LAST, True), (LAST + 1, False), (FIRST, True), (FIRST - 1, False), (2**63 - 1, False)]
)
def test_a_time_as_a_number_is_one_of_the_years_1_to_9999(
    by_thrift: Callable[..., bool], value: int, expected: bool, shape: str
) -> None:
    assert by_json(TIME, str(value), shape) == expected
    assert by_thrift(TIME, value, shape) == expected
    assert by_python(TIME, value, shape) == expected


@given(
    st.datetimes(timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))))
    | st.integers(0, 2 * 1440).flatmap(
        lambda minutes: st.sampled_from([datetime(1, 1, 1), datetime(9999, 12, 30)]).flatmap(
            lambda day: st.integers(-1439, 1439).map(
                lambda zone: (day + timedelta(minutes=min(minutes, 2879))).replace(
                    tzinfo=timezone(timedelta(minutes=zone))
                )
            )
        )
    ),
    st.sampled_from(list(SHAPES)),
)
def test_all_protocols_take_the_same_times(by_thrift: Callable[..., bool], time: datetime, shape: str) -> None:
    try:
        time.astimezone(UTC)
    except OverflowError:
        expected = False
    else:
        expected = True
    assert by_json(TIME, f'"{time.isoformat()}"', shape) == expected
    assert by_thrift(TIME, time.isoformat(), shape) == expected
    assert by_python(TIME, time, shape) == expected


def test_a_time_that_is_refused_says_why() -> None:
    reply = JsonDecoder(AnswerType(parse_type(f"list<{TIME}>")), "", 1000).decode(b'["9999-12-31T23:59:59-05:00"]', 5)
    assert reply.reason == (
        "the answer does not fit list<item: timestamp[us, tz=UTC]>: a time is outside the years 1 to 9999 in UTC"
    )


@pytest.mark.parametrize(
    ("kind", "value"), [("double", math.nan), ("float", 1e39), (TIME, "9999-12-31T23:59:59-05:00"), ("uint64", 2**63)]
)
def test_a_fallback_s_value_obeys_the_same_rule(kind: str, value: Any, tmp_path: Path) -> None:
    table = {"type": kind, "key": {"id": "int64"}, "url": "http://host/{id}", "fallback": {"value": value}}
    with pytest.raises(ConfigError, match=r"services\.one\.fallback\.value: does not fit"):
        gateway_config({"services": {"one": table}})

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prana_proxy.gateway.answers import Answers, Reply
from prana_proxy.gateway.decoded_values import python_type, to_arrow
from schemas.arrow_types import parse_type
from schemas.data_keys import context_variable, service_element
from schemas.errors import DataKeyError
from schemas.services import Service, Status
from schemas.tables import refuse_hidden_nulls

HISTORY = "list<struct<video_id: int64, minutes: float, watched_at: timestamp[us, UTC]>>"


def decoded(type: str, text: str) -> Any:  # noqa: A002
    """Decode one answer of a type into Arrow and back into Python."""
    arrow = parse_type(type)
    array = to_arrow([msgspec.json.decode(text, type=python_type(arrow))], arrow)
    assert array.type == arrow
    array.validate(full=True)
    refuse_hidden_nulls("answer", array)
    return array[0].as_py()


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        ("bool", "true", True),
        ("int8", "-128", -128),
        ("int64", str(2**63 - 1), 2**63 - 1),
        ("int64", str(-(2**63)), -(2**63)),
        ("uint8", "255", 255),
        ("uint64", str(2**63 - 1), 2**63 - 1),
        ("float", "3.4028235e38", float(np.finfo(np.float32).max)),  # as services write the greatest float
        ("float", "1", 1.0),
        ("float", "0.1", float(np.float32(0.1))),
        ("double", "0.1", 0.1),
        ("string", '"naïve 🎬"', "naïve 🎬"),
        ("large_string", '""', ""),
        ("binary", '"aGk="', b"hi"),
        ("date32", '"2026-01-31"', date(2026, 1, 31)),
        ("timestamp[us, UTC]", '"2026-01-01T02:00:00.123456+02:00"', datetime(2026, 1, 1, 0, 0, 0, 123456, UTC)),
        ("timestamp[us, UTC]", '"1969-12-31T23:59:59.999999Z"', datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)),
        ("timestamp[us, UTC]", "1767225600000001", datetime(2026, 1, 1, 0, 0, 0, 1, UTC)),
        ("list<int64>", "[]", []),
        ("list<float>", "[null, 1.5]", [None, 1.5]),
        ("list<string>", '[null, "x"]', [None, "x"]),
        ("list<large_string>", '[null, "x"]', [None, "x"]),
        ("list<list<int8>>", "[[1], [], [2, 3]]", [[1], [], [2, 3]]),
        ("list<timestamp[us, UTC]>", '[0, "1970-01-01T00:00:00Z"]', [datetime(1970, 1, 1, tzinfo=UTC)] * 2),
        ("struct<class: int64, f1: string>", '{"f1": null, "class": 1, "more": [{}]}', {"class": 1, "f1": None}),
        ("struct<>", '{"more": 1}', {}),
        (HISTORY, "[]", []),
        (
            HISTORY,
            '[{"video_id": 1, "minutes": null, "watched_at": "2026-01-01T00:00:00Z"}]',
            [{"video_id": 1, "minutes": None, "watched_at": datetime(2026, 1, 1, tzinfo=UTC)}],
        ),
    ],
)
def test_an_answer_that_fits_becomes_exactly_its_type(type: str, text: str, value: Any) -> None:  # noqa: A002
    assert decoded(type, text) == value


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("bool", "1"),
        ("bool", '"true"'),
        ("int8", "128"),
        ("int32", str(2**31)),
        ("int64", str(2**63)),
        ("int64", "true"),
        ("int64", "1.0"),
        ("int64", '"1"'),
        ("uint8", "-1"),
        ("uint8", "256"),
        ("uint64", "-1"),
        ("uint64", str(2**63)),
        ("float", "3.4028236e38"),
        ("float", "1e39"),
        ("float", '"1.5"'),
        ("double", "1e400"),
        ("double", "NaN"),
        ("string", "1"),
        ("binary", '"no base64"'),
        ("date32", '"2026-01-01T00:00:00Z"'),
        ("timestamp[us, UTC]", '"2026-01-01T00:00:00"'),
        ("timestamp[us, UTC]", '"yesterday"'),
        ("timestamp[us, UTC]", "1.5"),
        ("timestamp[us, UTC]", str(2**62)),
        ("list<int64>", "[null]"),
        ("list<int64>", "{}"),
        ("list<bool>", "[null]"),
        ("list<binary>", "[null]"),
        ("list<list<int64>>", "[null]"),
        ("list<struct<a: int64>>", "[null]"),
        ("struct<a: float>", "{}"),
        ("struct<a: int64>", '{"a": null}'),
        ("struct<a: int64>", "[1]"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(type: str, text: str) -> None:  # noqa: A002
    with pytest.raises(msgspec.DecodeError):
        decoded(type, text)


@pytest.mark.parametrize("type", ["float", "string", "int64", "list<int64>", "struct<a: float>", "timestamp[us, UTC]"])
def test_null_as_a_whole_is_no_answer(type: str) -> None:  # noqa: A002
    with pytest.raises(msgspec.ValidationError):
        decoded(type, "null")


@pytest.mark.parametrize(
    "type",
    [
        pa.decimal128(5),
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.duration("us")),
        pa.time64("us"),
        pa.struct({'the "price"': pa.int64()}),
        pa.list_(pa.struct({"a\nb": pa.int64()})),
    ],
)
def test_a_type_that_json_cannot_carry_is_refused(type: pa.DataType) -> None:  # noqa: A002
    with pytest.raises(DataKeyError, match="no service can answer with"):
        python_type(type)


zones = st.timezones() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.lists(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=zones)))
def test_times_arrive_to_the_microsecond_whatever_their_zone(times: list[datetime]) -> None:
    moments = [time.astimezone(timezone(time.utcoffset() or timedelta())) for time in times]
    moments = [
        moment for moment in moments if (moment.utcoffset() or timedelta()) % timedelta(minutes=1) == timedelta()
    ]
    text = json.dumps([moment.isoformat() for moment in moments])
    assert decoded("list<timestamp[us, UTC]>", text) == moments


service = Service("s", service_element("s", "list<uint64>"), (context_variable("c", "int64"),))


def test_an_answer_that_only_arrow_can_refuse_fails_alone() -> None:
    answers = Answers(service, 3)
    answers.add([2, 0, 1], [Reply(Status.OK, [3], 30), Reply(Status.OK, [2**64], 10), Reply(Status.OK, [2], 20)])
    rows = answers.batch([0, 1, 2, 1]).to_pylist()
    assert [row["status"] for row in rows] == ["invalid", "ok", "ok", "ok"]
    assert [row["value"] for row in rows] == [None, [2], [3], [2]]
    assert rows[0]["captured_at"] is None
    assert rows[0]["reason"] == "the answer does not fit list<item: uint64>: OverflowError"


def test_a_time_that_no_protocol_refused_is_refused_when_it_becomes_arrow() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5)))
    times = Service("s", service_element("s", "list<timestamp[us, UTC]>"), (context_variable("c", "int64"),))
    for value in ([last], [0, last]):
        answers = Answers(times, 2)
        answers.add([0, 1], [Reply(Status.OK, value, 1), Reply(Status.OK, [0], 2)])
        rows = answers.batch([0, 1]).to_pylist()
        assert [row["status"] for row in rows] == ["invalid", "ok"]
        assert "a time is outside the years 1 to 9999 in UTC" in rows[0]["reason"]


@given(st.permutations(range(600)))
def test_answers_come_out_in_the_order_asked_for_however_they_came_in(order: list[int]) -> None:
    answers = Answers(service, 600)
    for key in order:
        late = Reply.failed(Status.TIMEOUT, "late")
        answers.add([key], [late if key % 3 == 0 else Reply(Status.OK, [key], key)])
    batch = answers.batch(range(600))
    assert batch["value"].to_pylist() == [None if key % 3 == 0 else [key] for key in range(600)]


def test_a_reason_is_short_and_printable() -> None:
    reply = Reply.failed(Status.ERROR, "a\nb\x00" + "c" * 1000)
    assert reply.reason is not None
    assert reply.reason.startswith("a b ccc")
    assert reply.reason.endswith("…")
    assert len(reply.reason) == 300

"""An answer with an error in it is an error, by one rule for every protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import thriftpy2
from hypothesis import given
from hypothesis import strategies as st
from thriftpy2.protocol.cybin import TCyBinaryProtocol
from thriftpy2.transport.memory import TCyMemoryBuffer

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.answers import Reply
from prana_proxy.gateway.decoded_values import AnswerType
from prana_proxy.gateway.error_fields import error_at, error_text
from prana_proxy.gateway.services.http.json_answers import JsonDecoder
from prana_proxy.gateway.services.python import _error_in, _reply  # how the values of functions are read
from prana_proxy.gateway.services.thrift.binary_protocol import MessageKind, message_head
from prana_proxy.gateway.services.thrift.idl import method_of
from prana_proxy.gateway.services.thrift.reply_decoder import ReplyDecoder
from schemas.arrow_types import parse_type
from schemas.errors import ConfigError
from schemas.services import Status

SAID = "the service answered with an error: "
LIST = "list<int64>"
NONE = [None, False, 0, "", "  ", [], {}, [None, ""], {"code": 0, "message": ""}, [{"message": None}]]
ERRORS = [
    ("database is down", "database is down"),
    (True, "without a text"),
    (17, "17"),
    ({"message": "gone"}, "gone"),
    ({"code": 5, "message": ""}, "5"),
    ({"why": "unknown"}, "without a text"),
    ([{"message": "gone"}, {"message": "too"}], "gone"),
    (["", "late"], "late"),
]


def both(body: Any, pointer: str = "", type: str = LIST, error: str | None = None) -> Reply:  # noqa: A002
    """Decode an answer alone and in a batch, which must come to the same."""
    answer = JsonDecoder(AnswerType(parse_type(type)), pointer, 10_000, error)
    single = answer.decode(json.dumps(body).encode(), 5)
    batch = {"answers": [{"value": body}, {"value": body}]}
    in_batch = answer.decode_batch(json.dumps(batch).encode(), 2, 5)
    assert [(reply.status, reply.value) for reply in in_batch] == [(single.status, single.value)] * 2
    return single


@pytest.mark.parametrize("name", ["error", "errors"])
@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_an_error_beside_a_value_fails_the_answer(name: str, error: Any, text: str) -> None:
    reply = both({"history": [], name: error}, "/history")
    assert (reply.status, reply.reason) == (Status.ERROR, SAID + text)
    reply = both({"views": [], "minutes": 1.0, name: error}, type="struct<views: list<int64>, minutes: double>")
    assert (reply.status, reply.reason) == (Status.ERROR, SAID + text)


@pytest.mark.parametrize("name", ["error", "errors"])
@pytest.mark.parametrize("error", NONE)
def test_what_is_empty_is_no_error(name: str, error: Any) -> None:
    assert both({"history": [1], name: error}, "/history").value == [1]
    assert both({"minutes": 1.0, name: error}, type="struct<minutes: double>").status is Status.OK


@pytest.mark.parametrize("error", NONE)
def test_an_empty_error_in_a_batch_is_none(error: Any) -> None:
    body = json.dumps({"answers": [{"value": [1], "error": error, "errors": error}], "error": error}).encode()
    [reply] = JsonDecoder(AnswerType(parse_type(LIST)), "", 10_000).decode_batch(body, 1, 5)
    assert (reply.status, reply.value) == (Status.OK, [1])


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_the_error_of_a_batch_is_that_of_all_its_answers(error: Any, text: str) -> None:
    answer = JsonDecoder(AnswerType(parse_type(LIST)), "", 10_000)
    for body in ({"answers": [{"value": [1]}, {"value": [2]}], "error": error}, {"answers": [], "errors": error}):
        replies = answer.decode_batch(json.dumps(body).encode(), 2, 5)
        assert [(reply.status, reply.reason) for reply in replies] == [(Status.ERROR, SAID + text)] * 2


def test_an_error_says_more_than_a_value_that_does_not_fit() -> None:
    assert both({"history": None, "error": "down"}, "/history").reason == f"{SAID}down"
    assert both({"error": "down"}, "/history").reason == f"{SAID}down"
    assert both({"error": "down"}).reason == f"{SAID}down"
    assert both({"history": None, "error": ""}, "/history").status is Status.INVALID


def test_a_field_of_the_declared_type_is_data_and_no_error() -> None:
    reply = both({"error": "in 5 % of cases", "x": 1}, type="struct<error: string, x: int64>")
    assert reply.status is Status.OK
    assert both({"error": [1]}, "/error").value == [1]
    assert both({"errors": {"history": [1]}}, "/errors/history").value == [1]


@pytest.mark.parametrize("path", ["/status/error", "/data/error", "/fault"])
def test_a_pointer_says_where_errors_are(path: str) -> None:
    body: dict[str, Any] = {"data": {"history": [1], "error": ""}, "status": {}, "error": 0.3}
    assert both(body, "/data/history", error=path).value == [1]
    place = body
    *way, last = path.split("/")[1:]
    for name in way:
        place = place[name]
    place[last] = {"detail": "no such profile"}
    assert both(body, "/data/history", error=path).reason == f"{SAID}no such profile"
    assert both(body, "/data/history", error="").value == [1]


@pytest.mark.parametrize("status", [None, "fine", 7, [], {"error": None}])
def test_a_pointer_that_leads_nowhere_finds_no_error(status: Any) -> None:
    assert both({"history": [1], "status": status}, "/history", error="/status/error").value == [1]


def test_an_error_may_stand_within_the_declared_value_beside_its_fields() -> None:
    row = {"views": 1, "meta": {"error": "stale"}}
    assert both({"data": row}, "/data", "struct<views: int64>", "/data/meta/error").reason == f"{SAID}stale"
    assert both({"data": {"views": 1}}, "/data", "struct<views: int64>", "/data/meta/error").status is Status.OK


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"error": "error"}, "error is 'error', expected a JSON pointer → write '/error'"),
        ({"error": "/history", "answer": "/history"}, "error: is '/history', which is part of the value"),
        ({"error": "/a", "answer": "/a/b"}, "error: is '/a', which is part of the value"),
        ({"error": "/x", "type": "struct<x: int64>"}, "error: is '/x', which is part of the value → name a field"),
    ],
)
def test_a_pointer_to_the_value_itself_is_refused(fields: dict[str, Any], reported: str) -> None:
    table = {"type": LIST, "key": {"profile_id": "int64"}, "url": "http://host/{profile_id}", **fields}
    with pytest.raises(ConfigError, match=rf"services\.one.*{reported}"):
        gateway_config({"services": {"one": table}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["error", "errors"]))
def test_alone_in_a_batch_and_from_python_the_rule_is_the_same(error: Any, name: str) -> None:
    text = error_text(error)
    reply = both({"minutes": 1.0, name: error}, type="struct<minutes: double>")
    assert reply.status is (Status.OK if text is None else Status.ERROR)
    value = {"minutes": 1.0, name: error}
    assert (_error_in(value, [(name,)]) is None) == (text is None) == (error_at(value, (name,)) is None)


IDL = """
struct Fault { 1: i32 code, 2: string message }
struct Meta { 1: string error, 2: list<Fault> faults }
struct Text { 1: list<i64> history, 2: string error, 3: Meta meta }
struct Number { 1: list<i64> history, 2: i32 error }
struct Flag { 1: list<i64> history, 2: bool error }
struct Object { 1: list<i64> history, 2: optional Fault error }
struct Many { 1: list<i64> history, 2: list<Fault> errors }
struct Texts { 1: list<i64> history, 2: list<string> errors }
struct Map { 1: list<i64> history, 2: map<string, string> errors }
struct Row { 1: required i64 views, 2: string error }
service Lists {
    Text text(1: i64 id), Number number(1: i64 id), Flag flag(1: i64 id), Object object(1: i64 id),
    Many many(1: i64 id), Texts texts(1: i64 id), Map map_(1: i64 id), Row row(1: i64 id),
    list<Text> text_many(1: list<i64> ids), map<i64, Text> text_map(1: list<i64> ids),
    list<Row> row_many(1: list<i64> ids)
}
"""


@pytest.fixture
def thrift(tmp_path: Path) -> Callable[..., Reply]:
    """Decode what a method gives: the fields of its struct, by keyword."""
    idl = tmp_path / "lists.thrift"
    idl.write_text(IDL)

    def decode(name: str, fields: Callable[[Any], dict[str, Any]], **table: Any) -> Reply:
        kind = "batch_url" if table.pop("batch", False) else "url"
        method = method_of(str(idl), "Lists", name)
        service = {"type": LIST, "key": {"id": "int64"}, "answer": "/history", "idl": str(idl), **table}
        service[kind] = f"thrift://host/Lists/{name}"
        config = gateway_config({"services": {"one": service}}).services[0]
        result = method.result.element if kind == "batch_url" and method.result.code == 15 else method.result
        result = method.result.entry[1] if kind == "batch_url" and method.result.code == 13 else result
        module = thriftpy2.load(str(idl), module_name="lists_thrift")
        value = getattr(module, str(result))(**fields(module))
        if kind == "batch_url":
            value = {1: value} if method.result.code == 13 else [value]
        buffer = TCyMemoryBuffer()
        results = getattr(module.Lists, f"{name}_result")
        TCyBinaryProtocol(buffer).write_struct(results(success=value))
        message = message_head(name, MessageKind.REPLY, 1) + buffer.getvalue()
        answers = ReplyDecoder(method, config)
        return answers.decode_batch(message, [{"id": 1}], 5)[0] if kind == "batch_url" else answers.decode(message, 5)

    return decode


@pytest.mark.parametrize("batch", [None, "text_many", "text_map"])
def test_a_thrift_struct_s_error_fails_the_answer_alone_and_in_a_batch(thrift: Any, batch: str | None) -> None:
    way = {"batch": True} if batch else {}
    name = batch or "text"
    assert thrift(name, lambda _: {"history": [], "error": "down"}, **way).reason == f"{SAID}down"
    assert thrift(name, lambda _: {"error": "down"}, **way).reason == f"{SAID}down"
    for none in ({}, {"error": ""}, {"error": " "}):
        assert thrift(name, lambda _, none=none: {"history": [1], **none}, **way).value == [1]
    assert thrift(name, lambda _: {"history": [1], "error": "down"}, error="", **way).value == [1]
    meta: dict[str, Any] = {"error": "/meta/error", **way}
    assert thrift(name, lambda _: {"history": [1], "error": "down"}, **meta).value == [1]
    stale = thrift(name, lambda module: {"history": [1], "meta": module.Meta(error="stale")}, **meta)
    assert stale.reason == f"{SAID}stale"
    faults = {"error": "/meta/faults", **way}
    failed = thrift(name, lambda m: {"history": [1], "meta": m.Meta(faults=[m.Fault(0, ""), m.Fault(7, "")])}, **faults)
    assert failed.reason == f"{SAID}7"


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("number", lambda _: {"error": 7}, "7"),
        ("number", lambda _: {"error": 0}, None),
        ("flag", lambda _: {"error": True}, "without a text"),
        ("flag", lambda _: {"error": False}, None),
        ("object", lambda m: {"error": m.Fault(5, "gone")}, "gone"),
        ("object", lambda m: {"error": m.Fault(5, "")}, "5"),
        ("object", lambda m: {"error": m.Fault(0, "")}, None),
        ("many", lambda m: {"errors": [m.Fault(0, ""), m.Fault(0, "gone")]}, "gone"),
        ("many", lambda _: {"errors": []}, None),
        ("texts", lambda _: {"errors": ["", "late"]}, "late"),
        ("texts", lambda _: {"errors": []}, None),
        ("map_", lambda _: {"errors": {"a": "b"}}, "without a text"),
        ("map_", lambda _: {"errors": {}}, None),
    ],
)
def test_an_error_in_thrift_may_have_any_type(thrift: Any, name: str, error: Any, text: str | None) -> None:
    reply = thrift(name, lambda module: {"history": [1], **error(module)})
    assert (reply.status, reply.reason) == ((Status.OK, None) if text is None else (Status.ERROR, SAID + text))


@pytest.mark.parametrize("way", [{}, {"batch": True}])
def test_a_thrift_struct_that_is_the_value_has_its_error_beside_its_fields(thrift: Any, way: dict[str, Any]) -> None:
    name = "row_many" if way else "row"
    table = {"type": "struct<views: int64>", "answer": "", **way}
    assert thrift(name, lambda _: {"views": 1, "error": "down"}, **table).reason == f"{SAID}down"
    assert thrift(name, lambda _: {"error": "down"}, **table).reason == f"{SAID}down"
    assert thrift(name, lambda _: {}, **table).reason == "Object missing required field `views`"
    assert thrift(name, lambda _: {"views": 1}, **table).status is Status.OK
    table["type"] = "struct<views: int64, error: string>"
    assert thrift(name, lambda _: {"views": 1, "error": "down"}, **table).status is Status.OK


class Thing:
    def __init__(self, error: Any) -> None:
        self.minutes, self.error = 1.0, error


def answers(key: dict[str, Any]) -> Any:
    """A service in Python whose answers have errors in them."""
    return [{"minutes": 1.0, "error": "down"}, Thing("down"), {"minutes": 1.0, "error": None}, Thing("")][key["id"]]


def test_an_error_in_what_a_python_function_returns_fails_the_answer(long: timedelta) -> None:
    table = {"type": "struct<minutes: double>", "key": {"id": "int64"}, "url": f"python:{__name__}:answers"}
    with Gateway(gateway_config({"services": {"one": table}})) as gateway:
        rows = gateway.fetch("one", pa.table({"id": [0, 1, 2, 3]}), long).to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [("error", f"{SAID}down")] * 2 + [("ok", None)] * 2
    assert _reply(1, int, 5).status is Status.OK

from __future__ import annotations

import pytest

from prana_proxy.gateway.decoded_values import AnswerType
from prana_proxy.gateway.services.http.json_answers import JsonDecoder
from schemas.arrow_types import parse_type
from schemas.services import Status


def answer(pointer: str = "", type: str = "list<int64>", most: int = 1000) -> JsonDecoder:  # noqa: A002
    return JsonDecoder(AnswerType(parse_type(type)), pointer, most)


@pytest.mark.parametrize(
    ("pointer", "body"),
    [
        ("/history", b'{"history": [1]}'),
        ("/a/b", b'{"x": 1, "a": {"b": [1]}}'),
        ("/a~1b/~0c", b'{"a/b": {"~c": [1]}}'),
        ("/", b'{"": [1]}'),
        ("/0", b'{"0": [1]}'),
    ],
)
def test_a_pointer_leads_to_the_value(pointer: str, body: bytes) -> None:
    assert answer(pointer).decode(body, 5).value == [1]
    batch = b'{"answers": [{"value": %s}]}' % body
    assert [reply.value for reply in answer(pointer).decode_batch(batch, 1, 5)] == [[1]]


@pytest.mark.parametrize("body", [b"{}", b'{"a": {}}', b'{"a": null}', b"[1]", b'{"a": {"b": null}}'])
def test_a_pointer_that_leads_nowhere_is_invalid(body: bytes) -> None:
    assert answer("/a/b").decode(body, 5).status is Status.INVALID


@pytest.mark.parametrize(
    ("type", "body", "reason"),
    [
        ("struct<a: int64>", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the answer nests too deeply"),
        ("list<string>", b'["\xff"]', "not JSON"),
        ("list<int64>", b"[1] [2]", "not JSON"),
    ],
)
def test_hostile_bytes_are_invalid(type: str, body: bytes, reason: str) -> None:  # noqa: A002
    reply = answer(type=type).decode(body, 5)
    assert reply.status is Status.INVALID
    assert reason in str(reply.reason)


def test_a_reason_never_holds_what_was_answered() -> None:
    for body in (b'["secret"]', b"secret", b'{"secret": 1}', b'[{"secret": "secret"}]'):
        single = answer().decode(body, 5)
        batch = answer().decode_batch(b'{"answers": [{"value": %s}]}' % body, 1, 5)[0]
        assert single.status is batch.status is Status.INVALID
        assert "secret" not in f"{single.reason} {batch.reason}"


def test_an_answer_of_a_batch_that_is_too_large_fails_alone() -> None:
    large = b"[" + b"1," * 200 + b"1]"
    body = b'{"answers": [{"value": [1]}, {"value": %s}, {"value": [3]}]}' % large
    replies = answer(most=100).decode_batch(body, 3, 5)
    assert [reply.status for reply in replies] == [Status.OK, Status.INVALID, Status.OK]
    assert replies[1].reason == "the answer is larger than 100 bytes"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"answers": null}', b'{"answers": {}}', b'{"answers": [}'])
def test_a_broken_batch_is_invalid_for_all_its_contexts(body: bytes) -> None:
    assert [reply.status for reply in answer().decode_batch(body, 3, 5)] == [Status.INVALID] * 3

"""Answers of instances that are older than a field: it has its declared default, and nothing else is let through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prana_proxy.gateway.answers import Answers, Reply
from prana_proxy.gateway.decoded_values import AnswerType
from prana_proxy.gateway.services.http.json_answers import JsonDecoder
from prana_proxy.gateway.services.python import _reply
from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status
from schemas.tables import lacking_fields

TYPE = (
    "list<struct<plays: int32, video_id: int64, device: string, tags: list<string>,"
    " seen: struct<trailers: int32, at: timestamp[us, UTC]>>>"
)
DEFAULTS = {"plays": 1, "device": "unknown", "tags": [], "seen.trailers": 0, "seen.at": "2026-01-01T00:00:00Z"}
HISTORY = Service(
    "history", service_element("history", TYPE, defaults=DEFAULTS), (context_variable("profile_id", "int64"),)
)
ANSWER = AnswerType.of(HISTORY.element, list(DEFAULTS))
WHOLE = {"video_id": 7, "plays": 5, "device": None, "tags": ["a"], "seen": {"trailers": 2, "at": 0}}
OF_FIELD = {"plays": 1, "device": "unknown", "tags": [], "seen": {"trailers": 0, "at": "2026-01-01 00:00:00+00:00"}}


def rows(lacks: list[list[set[str]]]) -> list[list[dict[str, Any]]]:
    """Return answers of entries, each without some fields; of the struct "seen" also without one of its fields."""
    return [[_without(names) for names in answer] for answer in lacks]


def _without(names: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: value for name, value in WHOLE.items() if name not in names}
    if "seen" in row:
        row["seen"] = {name: value for name, value in row["seen"].items() if f"seen.{name}" not in names}
    return row


def expected(names: set[str]) -> dict[str, Any]:
    row = {**WHOLE, **{name: value for name, value in OF_FIELD.items() if name in names}}
    seen = {"trailers": 0 if names & {"seen", "seen.trailers"} else 2}
    seen["at"] = "2026-01-01 00:00:00+00:00" if names & {"seen", "seen.at"} else "1970-01-01 00:00:00+00:00"
    return {**row, "seen": seen}


def read(replies: list[Reply]) -> list[tuple[Any, set[str]]]:
    """Return the values and the fields that are counted as lacking."""
    answers = Answers(HISTORY, len(replies), ANSWER)
    answers.add(range(len(replies)), replies)
    batch = answers.batch(range(len(replies)))
    assert set(batch["status"].to_pylist()) <= {"ok"}, batch["reason"]
    values = json.loads(json.dumps(batch["value"].to_pylist(), default=str))
    return [
        (value, set(lacking_fields(why or ""))) for value, why in zip(values, batch["reason"].to_pylist(), strict=True)
    ]


lacking = st.lists(st.lists(st.sets(st.sampled_from([*OF_FIELD, "seen.trailers", "seen.at"])), max_size=3), min_size=1)


@settings(max_examples=60, deadline=None)
@given(lacks=lacking)
def test_fields_that_answers_lack_have_their_defaults_and_are_named(lacks: list[list[set[str]]]) -> None:
    sent = rows(lacks)
    counted = [
        {name for names in answer for name in names if not (name.startswith("seen.") and "seen" in names)}
        for answer in lacks
    ]
    wanted = list(zip([[expected(names) for names in answer] for answer in lacks], counted, strict=True))
    decoder = JsonDecoder(ANSWER, "", 1 << 20)
    assert read([decoder.decode(json.dumps(answer).encode(), 5) for answer in sent]) == wanted
    body = json.dumps({"answers": [{"value": answer} for answer in sent]}).encode()
    assert read(decoder.decode_batch(body, len(sent), 5)) == wanted
    assert read([_reply(answer, ANSWER.python(), 5) for answer in sent]) == wanted


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({**WHOLE, "plays": None}, "Expected `int`, got `null`"),  # a default replaces no null
        (_without({"video_id"}), "missing required field `video_id`"),
        ({**WHOLE, "plays": "5"}, "Expected `int`, got `str`"),
    ],
)
def test_everything_else_is_as_strict_as_without_defaults(entry: dict[str, Any], problem: str) -> None:
    reply = JsonDecoder(ANSWER, "", 1 << 20).decode(json.dumps([entry]).encode(), 5)
    assert reply.status is Status.INVALID
    assert problem in str(reply.reason)
    undeclared = JsonDecoder(AnswerType(HISTORY.element.type), "", 1 << 20)
    assert undeclared.decode(json.dumps([_without({"device"})]).encode(), 5).status is Status.INVALID

"""What is given in place of an answer, on a clock of its own; then through a whole gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prana_proxy.gateway import Gateway, fallbacks
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.batching import OnInterim
from prana_proxy.gateway.config import Fallback, ServiceConfig
from prana_proxy.gateway.fallbacks import Fallbacks
from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status

TYPE = pa.int64()
K, C = context_variable("k", "int64"), context_variable("c", "string")
SERVICE = Service("s", service_element("s", TYPE), (K, C))
OTHER = ServiceConfig(Service("other", service_element("o", TYPE), (C,)), "http://o:1/", batched=True, batch_size=2)
FAILURES = {
    "timeout": Reply.failed(Status.TIMEOUT, "no answer within 1 s"),
    "late": Reply.failed(Status.TIMEOUT, "no answer before the caller's deadline", Cause.DEADLINE),
    "error": Reply.failed(Status.ERROR, "HTTP 500"),
    "invalid": Reply.failed(Status.INVALID, "the answer is empty"),
    "rejected": Reply.failed(Status.REJECTED, "not sent: its limits", Cause.DEADLINE),
    "open": Reply.failed(Status.SHORT_CIRCUITED, "not sent: the breaker is open"),
}
Keys = Sequence[tuple[Any, ...]]


@dataclass
class World:
    """A service, one that stands in, and the time. does: what the service does for a key; else it answers."""

    does: dict[int, str] = field(default_factory=dict)
    other_does: dict[str, str] = field(default_factory=dict)
    now: float = 0.0
    answer: int = 1
    asked: list[Keys] = field(default_factory=list)
    others: list[Keys] = field(default_factory=list)

    async def ask(self, keys: Keys, deadline: float, on_interim: OnInterim) -> Sequence[Reply]:
        self.asked.append(keys)
        return [FAILURES.get(self.does.get(k, ""), Reply(Status.OK, self.answer, int(self.now))) for k, _ in keys]

    async def ask_other(self, keys: Keys, deadline: float, on_interim: OnInterim) -> Sequence[Reply]:
        self.others.append(keys)
        return [FAILURES.get(self.other_does.get(c, ""), Reply(Status.OK, 1_000, int(self.now))) for (c,) in keys]

    def fallbacks(self, fallback: Fallback | None) -> Fallbacks:
        made = Fallbacks(ServiceConfig(SERVICE, "http://s:1/", fallback=fallback), self.ask, lambda: self.now)
        if fallback is not None and fallback.service:
            made.use_service(OTHER, self.ask_other)
        return made


def ask(made: Fallbacks, *keys: tuple[int, str], on_interim: OnInterim = lambda _: None) -> Sequence[Reply]:
    return asyncio.run(made(keys, 1e9, on_interim))  # type: ignore[arg-type]  # a coroutine


@settings(max_examples=200, deadline=None)
@given(
    does=st.dictionaries(st.integers(0, 5), st.sampled_from(list(FAILURES))),
    other_does=st.dictionaries(st.sampled_from("xyz"), st.sampled_from(list(FAILURES))),
    fallback=st.builds(
        Fallback, st.sampled_from([None, 10.0]), st.sampled_from([None, "other"]), st.just(-1) | st.none()
    ),
    earlier=st.dictionaries(st.integers(0, 5), st.sampled_from([5.0, 10.0, 10.5])),
)
def test_the_first_there_is_of_an_earlier_answer_another_service_and_a_fixed_value(
    does: dict[int, str], other_does: dict[str, str], fallback: Fallback, earlier: dict[int, float]
) -> None:
    world, keys = World(now=100.0), [(k, "xyz"[k % 3]) for k in range(6)]
    made = world.fallbacks(fallback)
    for age, now in ((10.5, 89.5), (10.0, 90.0), (5.0, 95.0)):
        world.now = now
        for k in (k for k, old in earlier.items() if old == age):
            ask(made, keys[k])
    world.now, world.answer, world.does, world.other_does, world.others = 100.0, 2, does, other_does, []
    for (k, c), reply in zip(keys, ask(made, *keys), strict=True):
        failure = FAILURES.get(does.get(k, ""))
        if failure is None:
            assert reply == Reply(Status.OK, 2, 100)
            continue
        reason = f"{failure.status}: {failure.reason}"
        if fallback.cached_seconds and earlier.get(k, 99.0) <= 10.0:
            assert reply == Reply(Status.FALLBACK, 1, int(100 - earlier[k]), reason, failure.cause)
        elif fallback.service and c not in other_does:
            assert reply == Reply(Status.FALLBACK, 1_000, 100, reason, failure.cause)
        elif fallback.value is not None:
            assert reply == Reply(Status.FALLBACK, -1, None, reason, failure.cause)
        else:
            assert reply == failure
        without = made.at_once((k, c), failure)  # what there is when there is no time to ask anybody
        assert without == (reply if reply.value != 1_000 else without)
        assert without.status is (Status.FALLBACK if without.value in (1, -1) else failure.status)
    assert all(len(part) <= OTHER.batch_size for part in world.others)
    assert max(Counter(key for part in world.others for key in part).values(), default=0) <= 1


def test_what_has_an_answer_is_left_as_it_is() -> None:
    world = World()
    good = Reply(Status.OK, 5, 5)
    assert world.fallbacks(Fallback(value=-1)).at_once((1, "x"), good) is good
    assert world.fallbacks(None).at_once((1, "x"), FAILURES["error"]) is FAILURES["error"]


def test_while_another_service_is_asked_what_there_is_is_known() -> None:
    world, interim = World(does={1: "error"}), list[Sequence[Reply]]()
    ask(
        world.fallbacks(Fallback(service="other")),
        (1, "x"),
        (2, "y"),
        on_interim=lambda replies: interim.append(list(replies)),
    )
    assert interim == [[FAILURES["error"], Reply(Status.OK, 1, 0)]]


def test_a_fallback_is_never_kept_as_an_answer() -> None:
    world = World(does={1: "error"})
    made = world.fallbacks(Fallback(cached_seconds=10.0, service="other"))
    ask(made, (1, "x"))
    world.other_does = {"x": "error"}
    assert ask(made, (1, "x")) == [FAILURES["error"]]


def test_no_more_answers_are_kept_than_there_is_room_for_the_oldest_go_first(monkeypatch: Any) -> None:
    monkeypatch.setattr(fallbacks, "_MOST_CACHED", 3)
    world = World()
    made = world.fallbacks(Fallback(cached_seconds=10.0))
    for k in (1, 2, 3, 1, 4, 5):
        ask(made, (k, "x"))
    assert len(made._cache) == 3
    world.does = dict.fromkeys(range(6), "error")
    statuses = [reply.status for reply in ask(made, *((k, "x") for k in range(1, 6)))]
    assert [str(status) for status in statuses] == ["fallback", "error", "error", "fallback", "fallback"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "/500/{profile_id}"}, "error: HTTP 500"),
        ({"url": "/wrong_type/{profile_id}"}, "invalid: Expected `int`, got `str` - at `$[0]`"),
        ({"url": "/hang/{profile_id}", "timeout_seconds": 0.2}, "timeout: no answer within 0.2 s"),
        ({"url": "/hang/{profile_id}"}, "timeout: no answer before the caller's deadline"),
        ({"url": "/ok/{profile_id}", "breaker": {"forced": "open"}}, "short_circuited: not sent: the service failed"),
    ],
)
def test_whatever_fails_falls_back_through_the_gateway(
    config_of: Any, profiles: Any, fields: dict[str, Any], reason: str
) -> None:
    config = config_of(one={**fields, "fallback": {"value": [-1]}})
    with Gateway(config) as gateway:
        (row,) = gateway.fetch("one", profiles(1), timedelta(seconds=0.5)).to_pylist()
    assert row["reason"].startswith(reason)
    assert (row["status"], row["value"], row["captured_at"]) == ("fallback", [-1], None)


def test_what_was_never_asked_falls_back_too(config_of: Any, service: Any, profiles: Any) -> None:
    one = {"url": "/hang/{profile_id}", "max_concurrent": 1, "fallback": {"value": [-1]}}
    with Gateway(config_of(one=one)) as gateway:
        rows = gateway.fetch("one", profiles(1, 2, 3), timedelta(seconds=0.3)).to_pylist()
    assert service.keys == {"hang": ["1"]}
    assert [(row["status"], row["value"]) for row in rows] == [("fallback", [-1])] * 3
    assert [row["reason"].partition(":")[0] for row in rows] == ["timeout", "rejected", "rejected"]


def test_an_earlier_answer_keeps_its_time_and_the_rest_is_asked_of_another_service(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    cached = {"cached_seconds": 60.0, "service": "other", "value": [-1]}
    one = {"url": "/once/{profile_id}", "fallback": cached}
    config = config_of(one=one, other={"url": "/ok/{profile_id}"})
    with Gateway(config) as gateway:
        (before,) = gateway.fetch("one", profiles(7), long).to_pylist()
        rows = gateway.fetch("one", profiles(7, 8), long).to_pylist()
    assert before["status"] == "ok"
    assert [(row["status"], row["value"], row["reason"]) for row in rows] == [
        ("fallback", [7, 7], "error: HTTP 500"),
        ("fallback", [8, 7], "error: HTTP 500"),
    ]
    assert rows[0]["captured_at"] == before["captured_at"] < rows[1]["captured_at"]


def test_services_that_stand_in_for_each_other_are_asked_once_each(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    config = config_of(
        a={"url": "/500/{profile_id}", "fallback": {"service": "b", "value": [-1]}},
        b={"url": "/503/{profile_id}", "fallback": {"service": "a", "value": [-2]}},
    )
    with Gateway(config) as gateway:
        answers = gateway.fetch_all({"a": profiles(1), "b": profiles(2)}, long)
    assert {name: batch["value"].to_pylist() for name, batch in answers.items()} == {"a": [[-1]], "b": [[-2]]}
    assert {behaviour: sorted(keys) for behaviour, keys in service.keys.items()} == {
        "500": ["1", "2"],
        "503": ["1", "2"],
    }

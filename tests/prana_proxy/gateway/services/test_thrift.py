from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from thrift_service import ThriftService

from prana_proxy.clock import system_clock
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.services.thrift import ThriftProtocol, connections
from schemas.arrow_types import parse_type
from schemas.tables import lacking_fields

OK = {"video_id": 5, "minutes": 7.5, "title": "title 5"}
SAID = "the service answered with an error: "
LARGER = "the answer is larger than 10000 bytes"
NO_THRIFT = "the answer is not of Thrift's binary protocol, or of another transport"
NO_FRAME = "the answer is not a frame: does the service use ?transport=buffered"
FAILURES = {
    "hang": ("timeout", "no answer within 1 s"),
    "late": ("timeout", "no answer within 1 s"),
    "half_close": ("error", "unreachable: localhost:PORT: the connection was closed"),
    "close": ("error", "unreachable: localhost:PORT: the connection was closed"),
    "cut": ("error", "the connection was cut within the answer"),
    "huge": ("invalid", LARGER),
    "unframed": ("invalid", NO_FRAME),
    "garbage": ("invalid", NO_FRAME),
    "http": ("invalid", LARGER),
    "empty_frame": ("invalid", NO_FRAME),
    "wrong_sequence": ("invalid", "the answer has another sequence id than the call"),
    "a_call": ("invalid", "the answer is a message of kind 1, expected a reply"),
    "trailing": ("invalid", "the answer goes on after its end"),
    "neither": ("invalid", "the answer has neither a value nor an exception"),
    "not_found": ("error", f"{SAID}NotFound: no profile 7"),
    "broken": ("error", f"{SAID}Broken"),
    "broken_why": ("error", f"{SAID}Broken: the disk is full"),
    "undeclared": ("error", f"{SAID}exception 3, which the interface file does not declare"),
    "internal_error": ("error", f"{SAID}KeyError"),
    "unknown_method": ("error", f"{SAID}no get_history"),
    "no_struct": ("invalid", "Expected `struct`, got `string`"),
    "no_list": ("invalid", "Expected `list`, got `i64` - at `$.history`"),
    "list_of_texts": ("invalid", "Expected `struct`, got `string` - at `$.history[0]`"),
    "text_for_number": ("invalid", "Expected `i64`, got `string` - at `$.history[0].video_id`"),
    "float_for_number": ("invalid", "Expected `i64`, got `double` - at `$.history[0].video_id`"),
    "number_for_float": ("invalid", "Expected `double`, got `i64` - at `$.history[0].minutes`"),
    "number_for_text": ("invalid", "Expected `string`, got `i32` - at `$.history[0].title`"),
    "no_text": ("invalid", "Expected UTF-8 - at `$.history[0].title`"),
    "lacking": ("invalid", "Object missing required field `video_id` - at `$.history[0]`"),
    "long_list": ("invalid", "the answer ends within a value - at `$.history`"),
    "deep": ("invalid", "the answer nests too deeply"),
    "bomb": ("invalid", "the answer ends within a value"),
    "no_type": ("invalid", "the answer has a value of type 99, which Thrift does not have"),
}
# Without frames only the message itself says where it ends.
BUFFERED = {
    "huge": ("invalid", NO_THRIFT),
    "unframed": ("invalid", LARGER),
    "garbage": ("invalid", NO_THRIFT),
    "http": ("invalid", NO_THRIFT),
    "empty_frame": ("timeout", "no answer within 1 s"),
    "trailing": ("ok", None),
    "long_list": ("invalid", LARGER),
    "bomb": ("invalid", LARGER),
}
FINE = {
    "slow": [OK],
    "extra": [OK],
    "newer": [OK],
    "absent": [{"video_id": 7, "minutes": None, "title": None}],
}


def test_each_failure_has_its_status_and_the_next_call_works(
    thrift_either: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    failures = FAILURES if thrift_either.framed else FAILURES | BUFFERED
    config = thrift_config(thrift_either, max_concurrent=1, max_answer_bytes=10_000, timeout_seconds=1.0)
    with Gateway(config) as gateway:
        for failure, (status, reason) in failures.items():
            rows = gateway.fetch("views", behaviours(failure, f"ok after {failure}-5"), long).to_pylist()
            reported = None if reason is None else reason.replace("PORT", str(thrift_either.port))
            assert (failure, rows[0]["status"], rows[0]["reason"]) == (failure, status, reported)
            assert (failure, rows[1]["value"]) == (failure, [OK])
            assert (rows[0]["captured_at"] is None) == (status != "ok")


def test_an_answer_that_is_odd_but_right_is_read(
    thrift_either: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift_either)) as gateway:
        rows = gateway.fetch("views", behaviours(*FINE), long).to_pylist()
    assert {name: row["value"] for name, row in zip(FINE, rows, strict=True)} == FINE


def test_fields_that_an_answer_or_the_interface_file_lacks_have_their_declared_defaults(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    defaults = {"video_id": 3, "title": "none", "year": 1999}
    kind = "list<struct<video_id: int64, minutes: double, title: string, year: int32>>"
    with Gateway(thrift_config(thrift, type=kind, defaults=defaults)) as gateway:
        lacking, absent = gateway.fetch("views", behaviours("lacking", "absent"), long).to_pylist()
    assert (lacking["status"], lacking["value"][0]["video_id"], lacking["value"][0]["year"]) == ("ok", 3, 1999)
    assert lacking_fields(lacking["reason"]) == ["video_id", "year"]
    # A text that is missing is null: nothing says that the service does not have it.
    assert absent["value"] == [{"video_id": 7, "minutes": None, "title": None, "year": 1999}]
    assert lacking_fields(absent["reason"]) == ["year"]


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        ("unknown_method", Cause.REQUEST),
        ("not_found", Cause.REQUEST),
        ("broken", Cause.SERVICE),
        ("internal_error", Cause.SERVICE),
        ("no_list", Cause.SERVICE),
        ("close", Cause.CONNECTION),
        ("cut", Cause.CONNECTION),
    ],
)
def test_a_failure_says_whose_doing_it_is(
    thrift: ThriftService, thrift_config: Any, behaviour: str, cause: Cause
) -> None:
    assert asyncio.run(_ask(thrift_config(thrift).services[0], behaviour)).cause is cause


async def _ask(config: ServiceConfig, behaviour: str) -> Reply:
    protocol = ThriftProtocol(system_clock)
    try:
        [reply] = await protocol.asking(config)(protocol.own_instance(config), [{"behaviour": behaviour}], 0.0)
    finally:
        await protocol.close()
    return reply


def test_a_refused_connection_and_an_unknown_host_are_unreachable(
    thrift_config: Any, behaviours: Any, long: timedelta, free_port: int
) -> None:
    for host, reported in {
        f"127.0.0.1:{free_port}": "Connection refused",
        "no-such-host.invalid:1": "no such host",
    }.items():
        url = f"thrift://{host}/History/get_history"
        with Gateway(thrift_config(None, url=url)) as gateway:
            row = gateway.fetch("views", behaviours("ok-5"), long).to_pylist()[0]
        assert (row["status"], row["reason"]) == ("error", f"unreachable: {host}: {reported}")


def test_connections_are_used_again_and_there_are_no_more_than_calls_at_a_time(
    thrift_either: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift_either, max_concurrent=3)) as gateway:
        answers = gateway.fetch("views", behaviours(*(f"{i}-5" for i in range(100))), long)
        assert set(answers["status"].to_pylist()) == {"ok"}
        assert 1 <= thrift_either.connections <= 3
        before = thrift_either.connections
        assert gateway.fetch("views", behaviours("not_found"), long)["status"].to_pylist() == ["error"]
        gateway.fetch("views", behaviours("ok-5"), long)
    assert thrift_either.connections == before


def test_a_connection_on_which_more_came_than_was_asked_for_is_not_used_again(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift)) as gateway:
        for _ in range(2):
            assert gateway.fetch("views", behaviours("extra"), long)["value"].to_pylist() == [[OK]]
    assert thrift.connections == 2


def test_a_service_that_closed_its_connections_is_asked_on_new_ones(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift)) as gateway:
        gateway.fetch("views", behaviours("ok-5"), long)
        thrift.hang_up()
        wait_until(lambda: not thrift.open)
        assert gateway.fetch("views", behaviours("ok-5"), long)["status"].to_pylist() == ["ok"]
    assert thrift.connections == 2


def test_idle_connections_are_closed_and_so_are_all_with_the_gateway(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gateway(thrift_config(thrift)) as gateway:
        gateway.fetch("views", behaviours("ok-5"), long)
        assert thrift.open
        monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.01)
        gateway.fetch("views", behaviours("ok-5"), long)
        wait_until(lambda: not thrift.open)
        monkeypatch.undo()
        gateway.fetch("views", behaviours("ok-5"), long)
        assert thrift.open
    wait_until(lambda: not thrift.open)


@pytest.mark.timeout(60)  # the service would hang for longer
def test_a_call_that_outlives_its_caller_ends_at_the_service_by_the_service_s_timeout(
    thrift: ThriftService, thrift_config: Any, behaviours: Any
) -> None:
    with Gateway(thrift_config(thrift, timeout_seconds=1.0)) as gateway:
        answers = gateway.fetch("views", behaviours("hang"), timedelta(seconds=0.2))
        assert thrift.given_up.acquire(timeout=50)
    assert answers["status"].to_pylist() == ["timeout"]


def test_a_hanging_call_holds_up_no_other(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift, max_concurrent=2)) as gateway:
        hanging = gateway.start({"views": behaviours("hang")}, long)
        wait_until(lambda: thrift.calls["hang"] > 0)
        answers = gateway.fetch("views", behaviours(*(f"{i}-5" for i in range(20))), long)
        assert not thrift.given_up.acquire(blocking=False)
        hanging.cancel()
        assert thrift.given_up.acquire(timeout=50)
    assert set(answers["status"].to_pylist()) == {"ok"}


def test_an_inherited_method_and_one_without_a_pointer_are_asked(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift, "get_plain", answer="")) as gateway:
        assert gateway.fetch("views", behaviours("ok-5"), long)["value"].to_pylist() == [[OK]]


def test_arguments_are_the_key_s_variables_by_name(thrift: ThriftService, thrift_config: Any, long: timedelta) -> None:
    times = "timestamp[us, UTC]"
    key = {"since": times, "small": "uint8", "flag": "bool", "day": "date32", "at": times, "behaviour": "string"}
    time = datetime(2026, 1, 31, 12, 0, 0, 7, UTC)
    context = {"since": time, "small": 200, "flag": True, "day": time.date(), "at": time, "behaviour": "ü-5"}
    schema = pa.schema([(name, parse_type(reported)) for name, reported in key.items()])
    with Gateway(thrift_config(thrift, "get_for", answer="", key=key)) as gateway:
        answers = gateway.fetch("views", pa.Table.from_pylist([context], schema), long)
    assert answers["value"].to_pylist() == [[OK]]
    micros = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    reported = "2026-01-31T12:00:00.000007+00:00"
    assert thrift.arguments == {1: "ü-5", 2: "2026-01-31", 3: micros, 4: True, 5: 200, 6: reported}


BATCHES = {"get_many": "/history", "get_lists": "", "get_map": ""}


@pytest.mark.parametrize("method", BATCHES)
def test_a_batch_is_answered_in_the_order_asked(
    thrift_either: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta, method: str
) -> None:
    config = thrift_config(thrift_either, method, "batch_url", answer=BATCHES[method], batch_size=7)
    names = [f"ok-{i}" for i in range(1, 31)]
    with Gateway(config) as gateway:
        rows = gateway.fetch("views", behaviours(*names), long).to_pylist()
    assert [[view["video_id"] for view in row["value"]] for row in rows] == [[i] for i in range(1, 31)]
    assert sum(thrift_either.calls.values()) == 5


def test_contexts_of_several_variables_are_asked_as_structs(
    thrift: ThriftService, thrift_config: Any, long: timedelta
) -> None:
    key = {"country": "int32", "behaviour": "string"}
    config = thrift_config(thrift, "get_by_keys", "batch_url", key=key, answer="/history")
    contexts = pa.table({"behaviour": ["a", "b"], "country": pa.array([7, 8], pa.int32())})
    with Gateway(config) as gateway:
        rows = gateway.fetch("views", contexts, long).to_pylist()
    assert [row["value"][0]["video_id"] for row in rows] == [7, 8]


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("error", "error", f"{SAID}no such profile"),
        ("neither", "invalid", "the answer has neither value nor error"),
        ("no_error", "ok", None),
        ("lying", "invalid", "Expected `list`, got `string` - at `$.history`"),
        ("large", "invalid", "the answer is larger than 2000 bytes"),
    ],
)
def test_one_bad_answer_in_a_batch_leaves_the_others(
    thrift: ThriftService,
    thrift_config: Any,
    behaviours: Any,
    long: timedelta,
    behaviour: str,
    status: str,
    reason: str | None,
) -> None:
    config = thrift_config(thrift, "get_many", "batch_url", answer="/history", max_answer_bytes=2000)
    with Gateway(config) as gateway:
        rows = gateway.fetch("views", behaviours("ok-5", behaviour, "also-5"), long).to_pylist()
    assert (rows[1]["status"], rows[1]["reason"]) == (status, reason)
    assert [rows[0]["value"], rows[2]["value"]] == [[OK], [OK]]


def test_a_key_that_a_map_lacks_has_no_answer(
    thrift: ThriftService, thrift_config: Any, behaviours: Any, long: timedelta
) -> None:
    with Gateway(thrift_config(thrift, "get_map", "batch_url")) as gateway:
        rows = gateway.fetch("views", behaviours("ok-5", "unknown"), long).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "invalid"]
    assert rows[1]["reason"] == "the batch has no answer for this key"


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("one_too_few", "invalid", "the batch has 1 answers, expected 2"),
        ("list_of_numbers", "invalid", "Expected `struct`, got `i64` - at `$[0]`"),
        ("internal_error", "error", f"{SAID}KeyError"),
        ("hang", "timeout", "no answer within 1 s"),
        ("cut", "error", "the connection was cut within the answer"),
    ],
)
def test_a_batch_that_is_wrong_as_a_whole_fails_its_own_contexts_only(
    thrift: ThriftService,
    thrift_config: Any,
    behaviours: Any,
    long: timedelta,
    behaviour: str,
    status: str,
    reason: str,
) -> None:
    config = thrift_config(
        thrift, "get_many", "batch_url", answer="/history", batch_size=2, max_concurrent=1, timeout_seconds=1.0
    )
    with Gateway(config) as gateway:
        rows = gateway.fetch("views", behaviours(behaviour, "x-5", "y-5", "z-5"), long).to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [(status, reason)] * 2 + [("ok", None)] * 2


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what a service sees of its connections."""
    while not done():
        time.sleep(0.005)

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from schemas.errors import ConfigError

BASKETS = "list<struct<product_id: int64, added_at: timestamp[us, UTC]>>"
NOON, EPOCH = datetime(2026, 1, 5, 12, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module of functions, which a test puts there."""
    made = ModuleType("services_of_a_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.fixture
def ask(module: ModuleType, long: timedelta) -> Callable[..., list[dict[str, Any]]]:
    """Ask a function for some customers: give (status, value or reason) of each."""

    def asked(function: Any, *customers: int, budget: timedelta = long, kind: str = "url", **fields: Any) -> Any:
        with Gateway(configured(module, function, kind, **fields)) as gateway:
            rows = gateway.fetch("basket", customers_of(*customers), budget).to_pylist()
        return [(row["status"], row["value"] if row["status"] == "ok" else row["reason"]) for row in rows]

    return asked


def configured(module: ModuleType, function: Any, kind: str = "url", **fields: Any) -> Any:
    module.function = function  # type: ignore[attr-defined]  # made by the test
    table = {
        "type": "list<int64>",
        "key": {"customer_id": "int64"},
        kind: f"python:{module.__name__}:function",
        "timeout_seconds": 30.0,
        **fields,
    }
    return gateway_config({"services": {"basket": table}})


def customers_of(*ids: int) -> pa.Table:
    return pa.table({"customer_id": pa.array(ids, pa.int64())})


def doubled(key: dict[str, Any]) -> list[int]:
    return [key["customer_id"] * 2]


async def doubled_in_time(key: dict[str, Any]) -> list[int]:
    await asyncio.sleep(0)
    return doubled(key)


def all_doubled(keys: list[dict[str, Any]]) -> list[list[int]]:
    return [doubled(key) for key in keys]


async def all_doubled_in_time(keys: list[dict[str, Any]]) -> list[list[int]]:
    return all_doubled(keys)


@pytest.mark.parametrize("function", [doubled, doubled_in_time, lambda key: doubled_in_time(key)])
def test_a_function_answers_for_one_key(ask: Any, function: Any) -> None:
    assert ask(function, 1, 2) == [("ok", [2]), ("ok", [4])]


@pytest.mark.parametrize("function", [all_doubled, all_doubled_in_time, lambda keys: tuple(all_doubled(keys))])
def test_a_function_answers_for_many_keys_in_their_order(ask: Any, function: Any) -> None:
    assert ask(function, *range(250), kind="batch_url") == [("ok", [2 * i]) for i in range(250)]


def test_what_a_function_does_to_its_key_is_its_own_affair(ask: Any) -> None:
    assert ask(lambda key: [key.pop("customer_id")], 1, 2) == [("ok", [1]), ("ok", [2])]


@pytest.mark.parametrize(
    ("value", "type", "read"),
    [
        ([{"product_id": 1, "added_at": NOON}], BASKETS, [{"product_id": 1, "added_at": NOON}]),
        (
            ({"product_id": 1, "added_at": 0},),
            BASKETS,
            [{"product_id": 1, "added_at": EPOCH}],
        ),
        ([SimpleNamespace(product_id=1, added_at=NOON)], BASKETS, [{"product_id": 1, "added_at": NOON}]),
        (np.array([1, 2]), "list<int64>", [1, 2]),
        ([np.int32(1), 2], "list<int64>", [1, 2]),
        ({"a": np.float32(0.5), "b": np.array(["x"])}, "struct<a: float, b: list<string>>", {"a": 0.5, "b": ["x"]}),
        (np.float64(0.5), "double", 0.5),
        ({"a": None}, "struct<a: float>", {"a": None}),
    ],
)
def test_values_are_read_as_people_write_them(ask: Any, value: Any, type: str, read: Any) -> None:  # noqa: A002
    assert ask(lambda _: value, 1, type=type) == [("ok", read)]


@pytest.mark.parametrize(
    ("value", "type", "reason"),
    [
        (None, "list<int64>", "Expected `array`, got `null`"),
        ([1, "2"], "list<int64>", "Expected `int`, got `str` - at `$[1]`"),
        ([1.0], "list<int64>", "Expected `int`, got `float` - at `$[0]`"),
        (np.array([0.5]), "list<int64>", "Expected `int`, got `float` - at `$[0]`"),
        ([300], "list<int8>", "Expected `int` <= 127 - at `$[0]`"),
        ({}, "struct<a: float>", "Object missing required field `a`"),
        (datetime(2026, 1, 5), "timestamp[us, UTC]", "Expected `datetime` with a timezone component"),
        (object(), "int64", "Expected `int`, got `object`"),
    ],
)
def test_what_does_not_fit_the_type_is_invalid(ask: Any, value: Any, type: str, reason: str) -> None:  # noqa: A002
    assert ask(lambda _: value, 1, type=type) == [("invalid", reason)]


class Unhappy(BaseException):
    pass


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("customer"), "KeyError: 'customer'"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 287}…"),
        (Unhappy("so"), "Unhappy: so"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_what_a_function_raises_is_an_error(ask: Any, error: BaseException, reason: str, is_async: bool) -> None:
    def fail(_: Any) -> None:
        raise error

    async def fail_in_time(_: Any) -> None:
        raise error

    for kind in ("url", "batch_url"):
        assert ask(fail_in_time if is_async else fail, 1, kind=kind) == [("error", reason)]


def test_an_exception_in_a_batch_is_one_context_s_error(ask: Any) -> None:
    answer = [[1], ValueError("no such customer"), ["x"]]
    assert ask(lambda _: answer, 1, 2, 3, kind="batch_url") == [
        ("ok", [1]),
        ("error", "ValueError: no such customer"),
        ("invalid", "Expected `int`, got `str` - at `$[0]`"),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([[1]], "the batch has 1 answers, expected 2"),
        ({1: [1], 2: [2]}, "the function returned a dict, expected a list"),
        (None, "the function returned a NoneType, expected a list"),
    ],
)
def test_a_batch_that_is_no_list_of_answers_is_invalid(ask: Any, answer: Any, reason: str) -> None:
    assert ask(lambda _: answer, 1, 2, kind="batch_url") == [("invalid", reason)] * 2


def test_a_slow_function_holds_up_nobody(module: ModuleType, long: timedelta) -> None:
    may_go = threading.Event()

    def slow(key: dict[str, Any]) -> list[int]:
        if key["customer_id"] == 0:
            may_go.wait(30)
        return [key["customer_id"]]

    with (
        Gateway(configured(module, slow, max_concurrent=2)) as gateway,
        ThreadPoolExecutor(1) as caller,
    ):
        first = caller.submit(gateway.fetch, "basket", customers_of(0), long)
        others = gateway.fetch("basket", customers_of(*range(1, 20)), long)
        assert set(others["status"].to_pylist()) == {"ok"}
        assert not first.done()
        may_go.set()
        assert first.result()["status"].to_pylist() == ["ok"]


def test_a_thread_that_is_not_done_keeps_its_place(module: ModuleType, long: timedelta) -> None:
    may_go, running, most = threading.Event(), [0], [0]

    def slow(key: dict[str, Any]) -> list[int]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        if key["customer_id"] == 0:
            may_go.wait(30)
        running[0] -= 1
        return [key["customer_id"]]

    brief = timedelta(seconds=0.8)
    with Gateway(configured(module, slow, max_concurrent=1, timeout_seconds=0.4)) as gateway:
        assert gateway.fetch("basket", customers_of(0), brief)["status"].to_pylist() == ["timeout"]
        assert gateway.fetch("basket", customers_of(1), brief)["status"].to_pylist() == ["rejected"]
        may_go.set()
        assert gateway.fetch("basket", customers_of(2), long)["status"].to_pylist() == ["ok"]
    assert most == [1]


def test_an_async_function_is_cancelled_when_its_time_is_over(module: ModuleType, long: timedelta) -> None:
    ended = []

    async def hang(key: dict[str, Any]) -> list[int]:
        if key["customer_id"] == 0:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(key["customer_id"])
        return [key["customer_id"]]

    with Gateway(configured(module, hang, max_concurrent=1, timeout_seconds=0.5)) as gateway:
        assert gateway.fetch("basket", customers_of(0, 1), long)["status"].to_pylist() == ["timeout", "ok"]
    assert ended == [0]


def test_functions_of_main_are_found(monkeypatch: pytest.MonkeyPatch, long: timedelta) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "basket", doubled, raising=False)
    table = {"type": "list<int64>", "key": {"customer_id": "int64"}, "url": "python:__main__:basket"}
    with Gateway(gateway_config({"services": {"basket": table}})) as gateway:
        assert gateway.fetch("basket", customers_of(7), long)["value"].to_pylist() == [[14]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"url": "python:no_such_module:f"},
            "module 'no_such_module' cannot be imported: ModuleNotFoundError",
        ),
        (
            {"url": "python:services_of_a_test:functoin"},
            "unknown function of services_of_a_test 'functoin' → did",
        ),
        ({"url": "python:services_of_a_test:number"}, "services_of_a_test:number is a int, expected a function"),
        ({"url": "python:services_of_a_test"}, "is 'python:services_of_a_test', expected a function → write python:"),
        ({"url": "python://host/f"}, "is 'python://host/f', expected a function"),
        ({"url": "python::f"}, "is 'python::f', expected a function"),
        ({"url": "python:a:f:g"}, "is 'python:a:f:g', expected a function"),
        ({"answer": "/value"}, "is a function, which has no answer → remove answer"),
        ({"discovery": "static://host:1"}, "is a function, which has no discovery → remove discovery"),
    ],
)
def test_what_names_no_function_is_refused_at_load(module: ModuleType, fields: dict[str, Any], message: str) -> None:
    module.number = 7  # type: ignore[attr-defined]  # made by the test
    with pytest.raises(ConfigError) as raised:
        configured(module, doubled, **fields)
    assert str(raised.value).startswith(f"services.basket.url: {message}")

"""What becomes of each context is exact, whatever faults there are: by the service's own log, and by the counters."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from proxy_process import until

from prana_proxy.gateway import Gateway
from prana_proxy.gateway.shared_counters import LATENCIES, ProcessField
from schemas.services import Status

KINDS = {
    "ok": "ok",
    "jitter": "ok",
    "500": "error",
    "404": "error",
    "302": "error",
    "says_error": "error",
    "cut": "error",
    "half_close": "error",
    "hang_up": "error",
    "wrong_type": "invalid",
    "no_json": "invalid",
    "half": "invalid",
    "empty": "invalid",
    "null": "invalid",
    "huge": "invalid",
    "endless": "invalid",
    "hang": "timeout",
    "later": "timeout",
}
IN_BATCH = {"ok": "ok", "error": "error", "wrong": "invalid", "null": "invalid"}
FORCED = {"breaker": {"forced": "closed"}}
NEVER_ASKED = ("rejected", "short_circuited")
LONG, SHORT = timedelta(seconds=60), timedelta(seconds=1)
BUDGETS = {"hanging": SHORT, "limited": timedelta(seconds=1.8)}  # of 80 that are limited, 59 may be asked, and 20 will


def services(service: Any, free_port: int) -> dict[str, dict[str, Any]]:
    by_key = {"url": "/by_key/{key}", "timeout_seconds": 2.0, "max_answer_bytes": 10_000, **FORCED}
    both = ",".join(url.removeprefix("http://") for url in (service.url, service.other_url))
    tables: dict[str, dict[str, Any]] = {
        "mixed": {**by_key, "max_concurrent": 20},
        "falling": {**by_key, "max_concurrent": 20, "fallback": {"value": [-1]}},
        "batched": {"batch_url": "/batch/by_key", "batch_size": 7, **FORCED},
        "limited": {"url": "/ok/{key}", "calls_per_second": 30, "burst": 5, "max_concurrent": 4},
        "tripping": {"url": "/500/{key}", "max_concurrent": 3, "breaker": {"sleep_seconds": 60}},
        "down": {"url": f"http://127.0.0.1:{free_port}/{{key}}", **FORCED},
        "doubled": {"url": "/first_fails/{key}", "discovery": f"static://{both}", "retry_share": 0.25, **FORCED},
        "hanging": {"url": "/hang/{key}", "max_concurrent": 3, "timeout_seconds": 2.0, **FORCED},
        "forced": {"url": "/ok/{key}", "breaker": {"forced": "open"}},
    }
    return {name: {"key": {"key": "string"}, **table} for name, table in tables.items()}


@pytest.fixture
def tables(service: Any, free_port: int) -> dict[str, dict[str, Any]]:
    return services(service, free_port)


def contexts(name: str, number: int, turn: int) -> list[str]:
    """Make keys that no other service and no other turn has."""
    kinds = {"batched": IN_BATCH, "mixed": KINDS, "falling": KINDS}.get(name, {"any": ""})
    each = 4 if len(kinds) > 1 else 40
    keys = [f"{kind}-{number}{turn}{i:03}" for kind in kinds for i in range(each)]
    random.shuffle(keys)
    return keys


def check_rows(name: str, rows: list[tuple[str, str, str]], reached: Counter[str]) -> None:
    for key, status, reason in rows:
        expected = {**KINDS, **IN_BATCH}.get(key.split("-")[0])
        times = reached[key]
        if name == "down":
            assert (status, times) == ("error", 0)
            continue
        assert (times == 0) == (status in NEVER_ASKED), (name, key, status)
        again = name == "doubled" or key.startswith("hang_up")  # over a new connection, if the first was a kept one
        assert times <= (2 if again else 1), (name, key, status)
        if name in ("mixed", "batched"):
            assert status == expected, (key, reason)
        if name == "falling":
            assert status == ("ok" if expected == "ok" else "fallback")
            assert status == "ok" or reason.startswith(f"{expected}: ")


def test_each_status_is_what_the_service_did_and_the_counters_count_the_same(
    config_of: Any, service: Any, tables: Any
) -> None:
    rows: dict[str, list[tuple[str, str, str]]] = {name: [] for name in tables}

    def fetch(gateway: Gateway, name: str, number: int, turn: int) -> None:
        keys = contexts(name, number, turn)
        answers = gateway.fetch(name, pa.table({"key": keys}), BUDGETS.get(name, LONG))
        rows[name] += zip(keys, answers["status"].to_pylist(), answers["reason"].to_pylist(), strict=True)

    with Gateway(config_of(**tables)) as gateway:
        with ThreadPoolExecutor(20) as threads:
            turns = [(name, i, turn) for i, name in enumerate(tables) for turn in range(1 if name == "hanging" else 2)]
            for one in [threads.submit(fetch, gateway, *turn) for turn in turns]:
                one.result()
        until(
            lambda: not any(gateway.counters.page(name).own[ProcessField.OUT] for name in tables)
        )  # some outlive their callers
        counted = {name: list(gateway.counters.page(name).own) for name in tables}

    reached = Counter(key for call in service.log for key in call.keys)
    statuses = {name: Counter(status for _, status, _ in reported) for name, reported in rows.items()}
    for name, own in counted.items():
        check_rows(name, rows[name], reached)
        keys = {key for key, _, _ in rows[name]}
        calls = [call for call in service.log if keys.intersection(call.keys)]
        by_counters = {str(status): own[ProcessField.STATUS + i] for i, status in enumerate(Status)}
        assert by_counters == {str(status): statuses[name][status] for status in Status}, name
        assert sum(by_counters.values()) == len(rows[name])
        assert own[ProcessField.CALLS] == (len(rows[name]) if name == "down" else len(calls)), name
        assert own[ProcessField.RETRIES] == sum(max(0, reached[key] - 1) for key in keys), name
        assert sum(own[ProcessField.LATENCY : ProcessField.LATENCY + len(LATENCIES)]) == own[ProcessField.CALLS]
        assert own[ProcessField.QUEUED] == own[ProcessField.IN_FLIGHT] == own[ProcessField.WAITING_SINCE] == 0.0
    assert statuses["forced"] == {"short_circuited": 80}
    assert statuses["hanging"] == {"timeout": 3, "rejected": 37}
    assert 20 <= statuses["tripping"]["error"] <= 22
    assert statuses["limited"]["ok"] >= 20
    assert statuses["limited"]["rejected"] >= 20
    assert 10 <= counted["doubled"][ProcessField.RETRIES] <= 20
    assert statuses["doubled"]["ok"] > 40


def test_a_service_that_hangs_up_is_asked_once_more_over_a_new_connection_and_no_more(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    one = {"key": {"key": "string"}, "url": "/by_key/{key}", "max_concurrent": 1}
    with Gateway(config_of(one=one, careful={**one, "resend": False})) as gateway:
        for i in range(5):  # on a connection that was kept
            statuses = gateway.fetch("one", pa.table({"key": [f"ok-{i}", f"hang_up-{i}"]}), long)["status"].to_pylist()
            assert statuses == ["ok", "error"]
        reached = Counter(service.keys["by_key"])
        assert {reached[f"ok-{i}"] for i in range(5)} == {1}
        assert reached["hang_up-0"] == 2
        assert max(reached.values()) == 2
        service.forget()
        keys = [f"{behaviour}-{i}" for i in range(5) for behaviour in ("ok", "hang_up")]
        gateway.fetch("careful", pa.table({"key": keys}), long)
    assert set(Counter(service.keys["by_key"]).values()) == {1}


def test_a_value_that_fits_its_type_only_as_json_is_counted_as_invalid(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    answer = quote('{"value":[99999999999999999999]}', safe="")
    big = {"type": "list<uint64>", "batch_url": f"/batch/fourth_is?answer={answer}"}
    with Gateway(config_of(big=big)) as gateway:
        answers = gateway.fetch("big", profiles(1, 2, 3, 4, 5), long)
        own = gateway.counters.page("big").own
        by_counters = {
            str(status): own[ProcessField.STATUS + i] for i, status in enumerate(Status) if own[ProcessField.STATUS + i]
        }
    assert answers["status"].to_pylist() == ["ok", "ok", "ok", "invalid", "ok"]
    assert by_counters == {"ok": 4.0, "invalid": 1.0}

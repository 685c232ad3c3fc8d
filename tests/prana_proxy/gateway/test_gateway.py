from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from prana_proxy.clock import FileClock
from prana_proxy.gateway import Gateway
from schemas.errors import ConfigError, DataKeyError, NaiveTimeError, ServiceError
from schemas.tables import answers_schema

NOT_ASKED = "not sent: its limits, {} at a time, left no call before the caller's deadline"
BY_KEY = {"key": {"behaviour": "string"}, "url": "/by_key/{behaviour}", "timeout_seconds": 1.0}


def test_each_failure_is_its_own_context_s_status_and_the_others_are_answered(config_of: Any, long: timedelta) -> None:
    expected = {
        "ok-1": ("ok", None),
        "hang": ("timeout", "no answer within 1 s"),
        "500": ("error", "HTTP 500"),
        "404": ("error", "HTTP 404"),
        "302": ("error", "HTTP 302: redirects are not followed"),
        "wrong_type": ("invalid", "Expected `int`, got `str` - at `$[0]`"),
        "no_json": ("invalid", "the answer is not JSON: DecodeError"),
        "half": ("invalid", "the answer is not JSON: DecodeError"),
        "empty": ("invalid", "the answer is empty"),
        "null": ("invalid", "Expected `array`, got `null`"),
        "huge": ("invalid", "the answer is larger than 10000 bytes"),
        "endless": ("invalid", "the answer is larger than 10000 bytes"),
        "says_error": ("error", "the service answered with an error: profile is being moved"),
        "compressed-1": ("invalid", "the answer is not gzip, as its header says"),
        "cut": ("error", "the connection was cut within the answer"),
        "ok-2": ("ok", None),
    }
    with Gateway(config_of(mixed={**BY_KEY, "max_answer_bytes": 10_000})) as gateway:
        answers = gateway.fetch("mixed", pa.table({"behaviour": list(expected)}), long)
    assert answers.schema == answers_schema(config_of(mixed=BY_KEY).services[0].service)
    found = [(row["status"], row["reason"]) for row in answers.to_pylist()]
    assert found == list(expected.values())
    assert [row["value"] for row in answers.to_pylist() if row["status"] == "ok"] == [[1, 7], [2, 7]]
    for row in answers.to_pylist():
        assert (row["captured_at"] is not None) == (row["value"] is not None) == (row["status"] == "ok")


@pytest.mark.parametrize("kind", ["url", "batch_url"])
def test_a_refused_connection_is_unreachable(
    config_of: Any, free_port: int, kind: str, profiles: Any, long: timedelta
) -> None:
    path = "/{profile_id}" if kind == "url" else "/"
    with Gateway(config_of(down={kind: f"http://127.0.0.1:{free_port}{path}"})) as gateway:
        answers = gateway.fetch("down", profiles(1, 2), long)
    assert answers["status"].to_pylist() == ["error"] * 2
    assert answers["reason"][0].as_py() == f"unreachable: 127.0.0.1:{free_port}: Connection refused"


def test_a_connection_closed_without_an_answer_is_unreachable(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(gone={"url": "/hang_up/{profile_id}"})) as gateway:
        assert gateway.fetch("gone", profiles(1), long)["status"].to_pylist() == ["error"]


def test_equal_keys_are_asked_once_and_every_row_gets_its_answer(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    with Gateway(config_of(one={"url": "/ok/{profile_id}"}, many={"batch_url": "/batch/ok"})) as gateway:
        for name in ("one", "many"):
            answers = gateway.fetch(name, profiles(3, 1, 3, 2, 1), long)
            assert answers["value"].to_pylist() == [[3, 7], [1, 7], [3, 7], [2, 7], [1, 7]]
            assert Counter(service.keys["ok"]) == {"1": 1, "2": 1, "3": 1}
            service.forget()


def test_a_null_in_the_key_is_never_asked(config_of: Any, service: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(one={"url": "/ok/{profile_id}"})) as gateway:
        answers = gateway.fetch("one", profiles(1, None), long)
    assert answers["status"].to_pylist() == ["ok", "invalid"]
    assert answers["reason"][1].as_py() == "not sent: the context's 'profile_id' is null"
    assert service.keys == {"ok": ["1"]}


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ('{"value": ["a"]}', "invalid", "Expected `int`, got `str` - at `$.value[0]`"),
        ('{"value": null}', "invalid", "Expected `array`, got `null` - at `$.value`"),
        ('{"value": [1.5]}', "invalid", "Expected `int`, got `float` - at `$.value[0]`"),
        ('{"value": [true]}', "invalid", "Expected `int`, got `bool` - at `$.value[0]`"),
        ('{"error": "no such profile"}', "error", "the service answered with an error: no such profile"),
        ('{"error": {"code": 7}, "value": null}', "error", "the service answered with an error: 7"),
        ('{"value": null, "error": "gone"}', "error", "the service answered with an error: gone"),
        ('{"value": [1], "error": "stale"}', "error", "the service answered with an error: stale"),
        ("{}", "invalid", "the answer has neither value nor error"),
        ("7", "invalid", "Expected `object`, got `int`"),
        ('{"value": [4, 7], "error": null, "more": {}}', "ok", None),
    ],
)
def test_one_bad_answer_in_a_batch_leaves_the_others(
    config_of: Any, profiles: Any, long: timedelta, answer: str, status: str, reason: str | None
) -> None:
    with Gateway(config_of(many={"batch_url": f"/batch/fourth_is?answer={quote(answer, safe='')}"})) as gateway:
        rows = gateway.fetch("many", profiles(1, 2, 3, 4, 5), long).to_pylist()
    assert (rows[3]["status"], rows[3]["reason"]) == (status, reason)
    assert [row["value"] for i, row in enumerate(rows) if i != 3] == [[1, 7], [2, 7], [3, 7], [5, 7]]


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("one_too_few", "invalid", "the batch has 1 answers, expected 2"),
        ("says_error", "error", "the service answered with an error: no more"),
    ],
)
def test_a_batch_that_is_wrong_as_a_whole_fails_its_own_contexts_only(
    config_of: Any, profiles: Any, long: timedelta, behaviour: str, status: str, reason: str
) -> None:
    with Gateway(config_of(many={"batch_url": f"/batch/{behaviour}", "batch_size": 2})) as gateway:
        answers = gateway.fetch("many", profiles(1, 2), long)
    assert answers["status"].to_pylist() == [status] * 2
    assert answers["reason"].to_pylist() == [reason] * 2


def test_a_batch_with_a_wrong_count_does_not_fail_another_batch(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(
        config_of(many={"batch_url": "/batch/fourth_is?answer=[]", "batch_size": 4, "max_batch_bytes": 120})
    ) as gateway:
        statuses = gateway.fetch("many", profiles(*range(8)), long)["status"].to_pylist()
    assert statuses == ["ok", "ok", "ok", "invalid"] * 2


def test_batches_are_no_larger_than_allowed(config_of: Any, service: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(many={"batch_url": "/batch/ok", "batch_size": 3})) as gateway:
        answers = gateway.fetch("many", profiles(*range(10)), long)
    assert service.asked["ok"] == 4
    assert answers["value"].to_pylist() == [[i, 7] for i in range(10)]


def test_never_more_calls_in_flight_than_allowed_over_all_callers(
    config_of: Any, service: Any, profiles: Any, long: timedelta
) -> None:
    with Gateway(config_of(capped={"url": "/brief/{profile_id}", "max_concurrent": 4})) as gateway:
        with ThreadPoolExecutor(4) as callers:
            asked = [callers.submit(gateway.fetch, "capped", profiles(*range(i, i + 15)), long) for i in range(4)]
        assert all(set(one.result()["status"].to_pylist()) == {"ok"} for one in asked)
    assert service.most_in_flight == 4  # reached by its own count, and never passed


def test_a_waiting_service_does_not_hold_up_another(config_of: Any, profiles: Any, long: timedelta) -> None:
    # The first service answers only after the second has answered five times, so one after the other would time out.
    config = config_of(
        waits={"url": "/after_five_ok/{profile_id}"}, other={"url": "/ok/{profile_id}", "max_concurrent": 1}
    )
    with Gateway(config) as gateway:
        answers = gateway.fetch_all({"waits": profiles(1), "other": profiles(*range(5))}, long)
    assert answers["waits"]["status"].to_pylist() == ["ok"]
    assert answers["other"]["status"].to_pylist() == ["ok"] * 5


def test_a_hanging_service_costs_only_its_own_contexts(config_of: Any, profiles: Any) -> None:
    config = config_of(hangs={"url": "/hang/{profile_id}"}, other={"batch_url": "/batch/ok"})
    with Gateway(config) as gateway:
        answers = gateway.fetch_all({"hangs": profiles(1, 2), "other": profiles(1, 2)}, timedelta(seconds=1))
    assert answers["hangs"]["status"].to_pylist() == ["timeout"] * 2
    assert answers["other"]["status"].to_pylist() == ["ok"] * 2


@pytest.mark.timeout(20)  # the service's own timeout is an hour
def test_the_callers_deadline_comes_before_a_service_s_timeout(config_of: Any, profiles: Any) -> None:
    with Gateway(
        config_of(hangs={"url": "/hang/{profile_id}", "max_concurrent": 2, "timeout_seconds": 3600})
    ) as gateway:
        answers = gateway.fetch("hangs", profiles(1, 2, 3), timedelta(seconds=0.3))
    assert answers["status"].to_pylist() == ["timeout", "timeout", "rejected"]
    assert answers["reason"].to_pylist() == ["no answer before the caller's deadline"] * 2 + [NOT_ASKED.format(2)]


def test_waiting_for_a_place_ends_at_the_deadline(config_of: Any, service: Any, profiles: Any) -> None:
    with Gateway(config_of(full={"url": "/hang/{profile_id}", "max_concurrent": 1})) as gateway:
        holder = threading.Thread(target=gateway.fetch, args=("full", profiles(1), timedelta(seconds=2)))
        holder.start()
        while not service.asked["hang"]:
            pass
        answers = gateway.fetch("full", profiles(2), timedelta(seconds=0.1))
        holder.join()
    assert answers["reason"].to_pylist() == [NOT_ASKED.format(1)]
    assert service.keys["hang"] == ["1"]


def test_an_answer_carries_the_company_s_time_when_it_was_received(
    config_of: Any, profiles: Any, long: timedelta, tmp_path: Path
) -> None:
    clock = FileClock(tmp_path / "clock")
    moments = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)]
    clock.set(moments[0])
    services = {"one": {"url": "/ok/{profile_id}"}, "many": {"batch_url": "/batch/ok"}}
    with Gateway(config_of(clock=f"file://{clock.path}", **services)) as gateway:
        for moment in moments:
            clock.set(moment)
            for name in services:
                assert gateway.fetch(name, profiles(1), long)["captured_at"].to_pylist() == [moment]


def test_without_a_clock_file_answers_carry_the_system_s_time(config_of: Any, profiles: Any, long: timedelta) -> None:
    before = datetime.now(UTC)
    with Gateway(config_of(one={"url": "/ok/{profile_id}"})) as gateway:
        captured_at = gateway.fetch("one", profiles(1), long)["captured_at"][0].as_py()
    assert before <= captured_at <= datetime.now(UTC)


def test_a_gateway_without_its_clock_does_not_open(config_of: Any, tmp_path: Path) -> None:
    config = config_of(clock=f"file://{tmp_path}/none", one={"url": "/ok/{profile_id}"})
    with pytest.raises(ConfigError, match=r"clock .*/none cannot be read: No such file"):
        Gateway(config)


def test_no_contexts_give_no_answers(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(one={"url": "/ok/{profile_id}"})) as gateway:
        answers = gateway.fetch("one", profiles(), long)
    assert answers.num_rows == 0
    assert answers.schema.field("value").type == pa.list_(pa.int64())


def test_more_columns_are_ignored_and_missing_or_mistyped_ones_refused(config_of: Any, long: timedelta) -> None:
    one = {"url": "/ok/{profile_id}"}
    seen = {"key": {"seen_at": "timestamp[us, UTC]"}, "url": "/ok/{seen_at}"}
    with Gateway(config_of(one=one, seen=seen)) as gateway:
        contexts = pa.table({"country": ["US"], "profile_id": [5]})
        assert gateway.fetch("one", contexts, long)["value"].to_pylist() == [[5, 7]]
        with pytest.raises(DataKeyError, match="'profile_id' → did you mean 'profile'"):
            gateway.fetch("one", pa.table({"profile": [5]}), long)
        with pytest.raises(DataKeyError, match="column 'profile_id' is string, expected int64"):
            gateway.fetch("one", pa.table({"profile_id": ["5"]}), long)
        with pytest.raises(NaiveTimeError, match="seen_at"):
            gateway.fetch("seen", pa.table({"seen_at": pa.array([0], pa.timestamp("us"))}), long)


def test_an_unknown_service_is_refused_by_name(config_of: Any, profiles: Any, long: timedelta) -> None:
    with (
        Gateway(config_of(my_list={"url": "/ok/{profile_id}"})) as gateway,
        pytest.raises(ServiceError, match="unknown service 'my_lists' → did you mean 'my_list'"),
    ):
        gateway.fetch("my_lists", profiles(1), long)


def test_no_cookie_is_sent_back(config_of: Any, service: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(one={"url": "/ok/{profile_id}"})) as gateway:
        gateway.fetch("one", profiles(1), long)
        gateway.fetch("one", profiles(2), long)
    assert service.cookies == ["", ""]


def test_a_closed_gateway_says_so_and_ends_its_thread(config_of: Any, profiles: Any, long: timedelta) -> None:
    gateway = Gateway(config_of(one={"url": "/ok/{profile_id}"}))
    gateway.close()
    gateway.close()
    with pytest.raises(ServiceError, match="the gateway is closed"):
        gateway.fetch("one", profiles(1), long)
    assert not any(thread.name == "prana-gateway" for thread in threading.enumerate())


def test_closing_ends_what_is_in_flight(config_of: Any, service: Any, profiles: Any, long: timedelta) -> None:
    gateway = Gateway(config_of(hangs={"url": "/hang/{profile_id}"}))
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(gateway.fetch, "hangs", profiles(1), long)
        while not service.asked["hang"]:
            pass
        gateway.close()
        with pytest.raises(ServiceError, match="closed while it was asking"):
            asked.result()


def test_many_answers_keep_their_order(config_of: Any, profiles: Any, long: timedelta) -> None:
    with Gateway(config_of(many={"batch_url": "/batch/ok", "batch_size": 7})) as gateway:
        ids = [(i * 7919) % 2000 for i in range(3000)]
        answers = gateway.fetch("many", profiles(*ids), long)
    assert answers["value"].to_pylist() == [[i, 7] for i in ids]

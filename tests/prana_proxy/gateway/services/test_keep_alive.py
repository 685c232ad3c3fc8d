"""Servers that close connections which were kept between calls: what is asked arrives all the same, within limits."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from closing_service import ClosingService, ClosingThriftService, closing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.keep_alive import KeepAlivePolicy
from prana_proxy.gateway.shared_counters import ProcessField
from schemas.errors import ConfigError

HTTP = ["get", "post"]
THRIFT = ["framed", "buffered"]
ENDINGS = ["fin", "rst", "half", "unread", "unanswered", "late"]


@contextmanager
def asked(way: str, *script: tuple[int, str], folder: Path, **fields: Any) -> Iterator[tuple[ClosingService, Gateway]]:
    """Start a service, and a gateway that asks it in a way."""
    idl = folder / "lists.thrift"
    idl.write_text(ClosingThriftService.IDL)
    thrift = way in THRIFT
    service = ClosingThriftService(*script, framed=way == "framed") if thrift else ClosingService(*script)
    urls = {
        "get": {"url": f"http://127.0.0.1:{service.port}/{{profile_id}}"},
        "post": {"batch_url": f"http://127.0.0.1:{service.port}/lists", "batch_size": 4, "batch_wait_seconds": 0},
        "framed": {"url": f"thrift://127.0.0.1:{service.port}/Lists/get", "idl": str(idl)},
        "buffered": {"url": f"thrift://127.0.0.1:{service.port}/Lists/get?transport=buffered", "idl": str(idl)},
    }
    table = {"type": "list<int64>", "key": {"profile_id": "int64"}, "timeout_seconds": 30.0, "retries": 0}
    with closing(service), Gateway(gateway_config({"services": {"one": table | urls[way] | fields}})) as gateway:
        yield service, gateway


def calls(gateway: Gateway) -> float:
    return gateway.counters.page("one").total(ProcessField.CALLS)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", HTTP + THRIFT)
def test_a_server_that_closes_its_connections_after_an_answer_answers_all(
    tmp_path: Path, profiles: Any, long: timedelta, way: str, ending: str
) -> None:
    with asked(way, (1, ending), folder=tmp_path) as (service, gateway):
        rows = gateway.fetch("one", profiles(*range(200)), long).to_pylist()
        assert [row["value"] for row in rows] == [[profile, 7] for profile in range(200)]
        assert calls(gateway) >= len(service.arrived)


@pytest.mark.parametrize("ending", ["announced", "http10"])
@pytest.mark.parametrize("way", HTTP)
def test_a_connection_whose_end_was_announced_costs_no_second_call(
    tmp_path: Path, profiles: Any, long: timedelta, way: str, ending: str
) -> None:
    with asked(way, (1, ending), folder=tmp_path) as (service, gateway):
        assert set(gateway.fetch("one", profiles(*range(40)), long)["status"].to_pylist()) == {"ok"}
        assert calls(gateway) == len(service.arrived) == service.connections


@pytest.mark.parametrize("ending", ["408", "408 late"])
@pytest.mark.parametrize("way", HTTP)
def test_a_server_that_says_408_to_a_kept_connection_answers_all(
    tmp_path: Path, profiles: Any, long: timedelta, way: str, ending: str
) -> None:
    with asked(way, (1, ending), folder=tmp_path) as (_, gateway):
        assert set(gateway.fetch("one", profiles(*range(40)), long)["status"].to_pylist()) == {"ok"}


@pytest.mark.parametrize("way", ["get", "framed", "buffered"])
def test_an_answer_that_nobody_asked_for_is_never_the_next_one(
    tmp_path: Path, profiles: Any, long: timedelta, way: str
) -> None:
    with asked(way, (1, "unasked"), folder=tmp_path, max_concurrent=1) as (service, gateway):
        for profile in (1, 2, 3):
            assert gateway.fetch("one", profiles(profile), long)["value"].to_pylist() == [[profile, 7]]
            time.sleep(0.1)
    assert service.connections == 3


SCRIPTS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(ENDINGS)), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCRIPTS, st.sampled_from(HTTP + THRIFT), st.integers(1, 5))
def test_whatever_ends_connections_each_context_is_answered_and_each_call_is_counted(
    tmp_path: Path, profiles: Any, long: timedelta, script: list[tuple[int, str]], way: str, at_once: int
) -> None:
    with asked(way, *script, folder=tmp_path, max_concurrent=at_once) as (service, gateway):
        for start in (0, 10):
            rows = gateway.fetch("one", profiles(*range(start, start + 10)), long).to_pylist()
            assert [row["value"] for row in rows] == [[profile, 7] for profile in range(start, start + 10)]
        assert calls(gateway) >= len(service.arrived)


@pytest.mark.parametrize("way", ["get", "framed"])
def test_what_is_sent_again_keeps_to_the_rate(tmp_path: Path, profiles: Any, long: timedelta, way: str) -> None:
    limit = {"calls_per_second": 40.0, "burst": 20}
    with asked(way, (1, "unanswered"), folder=tmp_path, **limit) as (service, gateway):
        assert set(gateway.fetch("one", profiles(*range(60)), long)["status"].to_pylist()) == {"ok"}
        assert calls(gateway) == len(service.arrived) > 60
    arrived = sorted(service.arrived)
    assert all(later - earlier > 1.0 for earlier, later in zip(arrived, arrived[40:], strict=False))


@pytest.mark.parametrize("way", HTTP + THRIFT)
def test_an_answer_that_has_begun_is_not_asked_for_again(
    tmp_path: Path, profiles: Any, long: timedelta, way: str
) -> None:
    with asked(way, (1, "cut"), folder=tmp_path, max_concurrent=1) as (service, gateway):
        statuses = [gateway.fetch("one", profiles(profile), long)["status"].to_pylist() for profile in (1, 2, 3)]
    assert statuses == [["ok"], ["error"], ["ok"]]
    assert len(service.arrived) == 3


@pytest.mark.parametrize("way", HTTP + THRIFT)
def test_a_new_connection_that_is_closed_before_an_answer_is_an_error_at_once(
    tmp_path: Path, profiles: Any, long: timedelta, way: str
) -> None:
    with asked(way, (0, "unanswered"), folder=tmp_path) as (service, gateway):
        [row] = gateway.fetch("one", profiles(1), long).to_pylist()
    assert (row["status"], row["reason"]) == (
        "error",
        f"unreachable: 127.0.0.1:{service.port}: the connection was closed",
    )
    assert len(service.arrived) == 1


@pytest.mark.parametrize("fields", [{"resend": False}, {"idempotent": False}])
@pytest.mark.parametrize("way", HTTP + THRIFT)
def test_what_must_not_be_sent_twice_has_a_connection_for_each_call(
    tmp_path: Path, profiles: Any, long: timedelta, way: str, fields: dict[str, Any]
) -> None:
    with asked(way, (1, "unanswered"), folder=tmp_path, **fields) as (service, gateway):
        assert set(gateway.fetch("one", profiles(*range(20)), long)["status"].to_pylist()) == {"ok"}
        assert calls(gateway) == len(service.arrived) == service.connections


def test_a_batch_is_a_look_up_and_sent_again_unless_its_table_says_no(config_of: Callable[..., Any]) -> None:
    def resend(**fields: Any) -> bool:
        return bool(config_of(one={"batch_url": "/batch/ok", **fields}).services[0].resend)

    assert resend()
    assert not resend(idempotent=False)
    assert resend(idempotent=False, resend=True)
    assert not resend(idempotent=True, resend=False)
    with pytest.raises(ConfigError, match="resend"):
        resend(resend="yes")


def test_a_server_that_closes_two_kept_connections_in_a_row_is_left_none_for_a_while() -> None:
    now = 0.0
    keep_alive = KeepAlivePolicy[str](lambda: now)
    keep_alive.was_closed("a")
    assert keep_alive.keeps("a")
    keep_alive.was_closed("a")
    assert not keep_alive.keeps("a")
    assert keep_alive.keeps("b")
    now = 10.5
    assert keep_alive.keeps("a")
    keep_alive.was_closed("a")
    assert not keep_alive.keeps("a")
    keep_alive.served_again("a")
    assert keep_alive.keeps("a")


@pytest.mark.parametrize("ending", ["fin", "unanswered", "late"])
def test_a_server_that_closes_its_connections_over_tls_answers_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: Any, long: timedelta, ending: str
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").configure_cert(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with closing(ClosingService((1, ending), tls=context)) as service:
        url = f"https://localhost:{service.port}/{{profile_id}}"
        one = {"type": "list<int64>", "key": {"profile_id": "int64"}, "url": url, "retries": 0, "timeout_seconds": 30.0}
        with Gateway(gateway_config({"services": {"one": one}})) as gateway:
            rows = gateway.fetch("one", profiles(*range(60)), long).to_pylist()
    assert [row["value"] for row in rows] == [[profile, 7] for profile in range(60)]

"""Against a real Eureka server whose instances come, stop renewing and go, and which itself goes and comes back."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from eureka_server import EurekaServer

from prana_proxy.gateway.discovery import Discovery, DiscoveryResult, Instance, open_discovery
from prana_proxy.gateway.instances import Instances
from schemas.errors import ServiceError

A, B, C = (Instance("127.0.0.1", port) for port in (8001, 8002, 8003))


def discovery(authority: str, app: str, more: str = "") -> Discovery:
    return open_discovery(f"eureka://{authority}/eureka/v2?app={app}&refresh=0.5{more}")


def find(authority: str, app: str = "HISTORY", more: str = "") -> DiscoveryResult:
    return asyncio.run(discovery(authority, app, more).find())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.05)


def test_a_new_instance_is_found_and_one_that_stops_renewing_is_chosen_no_more(
    eureka: EurekaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prana_proxy.gateway.instances._KEPT_SECONDS", 1.0)

    async def scenario() -> None:
        some = Instances("some", discovery(eureka.authority, "SOME"))
        lone = Instances("lone", discovery(eureka.authority, "LONE"))
        async with eureka.renewing("SOME", A.port), eureka.renewing("LONE", A.port):
            await asyncio.gather(some.open(), lone.open())
            await until(lambda: set(some.current) == {A, B})
            await asyncio.to_thread(eureka.register, "SOME", C.port)
            await until(lambda: set(some.current) == {A, B, C})
            assert {some.choose() for _ in range(3)} == {A, B, C}
            await until(lambda: lone.choose() == A)
        await until(lambda: A not in some.current)
        assert {some.choose() for _ in range(9)} == {B, C}
        await until(lambda: lone.choose() is None)
        assert lone.problem == f"no instance: Eureka at {eureka.url} has no application 'LONE'"
        await asyncio.gather(some.close(), lone.close())

    eureka.register("SOME", B.port)
    asyncio.run(scenario())


def test_the_last_known_serve_on_while_the_registry_is_gone(
    eureka: EurekaServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        instances = Instances("history", discovery(eureka.authority, "HISTORY"))
        await instances.open()
        assert instances.current == (A,)
        eureka.stop()
        try:
            for _ in range(3):
                await instances.look_up()
            assert (instances.choose(), instances.problem) == (A, None)
        finally:
            eureka.start()
        await asyncio.to_thread(eureka.register, "HISTORY", B.port)
        await until(lambda: instances.current == (B,))
        assert instances.choose() == B
        await instances.close()

    eureka.register("HISTORY", A.port)
    asyncio.run(scenario())
    gone, back = (message for message in caplog.messages if message.startswith("service 'history'"))
    expected = r"Eureka at \S+ cannot be reached: All connection attempts failed; the last known 1 stay in use"
    assert re.search(expected, gone)
    assert back == "service 'history': instances can be looked up again: 1"


def test_only_instances_that_are_up_are_found(eureka: EurekaServer) -> None:
    for port, status in enumerate(["UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"], start=A.port):
        eureka.register("STATUSES", port, status)
    found = find(eureka.authority, "statuses")
    assert (found.instances, found.fresh_seconds) == ((A,), 0.5)


def test_an_application_without_an_instance_that_is_up_has_none_and_says_so(eureka: EurekaServer) -> None:
    eureka.register("ALL_DOWN", A.port, "DOWN")
    found = find(eureka.authority, "ALL_DOWN")
    assert (found.instances, found.why_none) == ((), f"Eureka at {eureka.url} has no instance of 'ALL_DOWN' that is UP")


def test_the_secure_port_is_called_where_it_is_wanted(eureka: EurekaServer) -> None:
    eureka.register("SECURE", A.port, secure_port=8443)
    eureka.register("SECURE", B.port)
    assert find(eureka.authority, "SECURE").instances == (A, B)
    assert find(eureka.authority, "SECURE", "&secure=true").instances == (Instance("127.0.0.1", 8443),)


def test_another_registry_is_asked_when_the_first_is_gone(eureka: EurekaServer, free_port: int) -> None:
    eureka.register("TWO", A.port)
    assert find(f"127.0.0.1:{free_port},{eureka.authority}", "TWO").instances == (A,)


@dataclass
class Imposter:
    """Answers every call alike, after `may_answer`; `asked` counts them."""

    status: int
    media_type: str
    body: str
    authority: str = ""
    asked: int = 0
    may_answer: threading.Event = field(default_factory=threading.Event)


@contextmanager
def imposter(status: int, body: str, media_type: str = "application/xml", hangs: bool = False) -> Iterator[Imposter]:
    answers = Imposter(status, media_type, body)
    if not hangs:
        answers.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked += 1
            answers.may_answer.wait(30)
            self.send_response(answers.status)
            self.send_header("Content-Type", answers.media_type)
            self.end_headers()
            self.wfile.write(answers.body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.authority = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()


def application(
    host: str = "127.0.0.1", port: str = "8001", ip: str = "127.0.0.1", enabled: str = "true", status: str = "UP"
) -> str:
    return (
        f"<application><name>HISTORY</name><instance><instanceId>1</instanceId><hostName>{host}</hostName>"
        f"<ipAddr>{ip}</ipAddr><status>{status}</status><port enabled='{enabled}'>{port}</port></instance>"
        "</application>"
    )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "3f9c2b7d1a0e", "", "a/b", "::g", "-x-", "x" * 70 + ".test"])
def test_an_instance_whose_host_name_does_not_resolve_is_called_by_its_address(host: str) -> None:
    with imposter(200, application(host)) as server:
        assert find(server.authority).instances == (A,)


def test_a_host_name_that_resolves_is_called_by_it() -> None:
    with imposter(200, application("localhost", ip="127.0.0.2")) as server:
        assert find(server.authority).instances == (Instance("localhost", 8001),)


def test_without_an_address_a_name_that_does_not_resolve_is_kept() -> None:
    with imposter(200, application("no-such-host.invalid", ip="")) as server:
        assert find(server.authority).instances == (Instance("no-such-host.invalid", 8001),)


def test_an_instance_without_the_port_that_is_wanted_is_none_and_the_reason_says_which() -> None:
    with imposter(200, application(enabled="false")) as server:
        found = find(server.authority)
    assert found.instances == ()
    assert found.why_none.endswith("has no instance of 'HISTORY' that is UP and has a plain port")


def test_what_is_registered_as_not_up_is_withdrawn_at_once_and_what_is_forgotten_is_not() -> None:
    with imposter(200, application()) as server:
        instances = Instances("history", discovery(server.authority, "HISTORY"))

        async def scenario() -> None:
            await instances.look_up()
            assert instances.current == (A,)
            server.status, server.body = 404, ""
            await instances.look_up()
            assert instances.current == (A,)
            server.status, server.body = 200, "<application><name>HISTORY</name></application>"
            await instances.look_up()
            assert instances.current == (A,)
            server.body = application(status="OUT_OF_SERVICE")
            await instances.look_up()
            assert instances.current == ()

        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "media_type", "body", "reported"),
    [
        (200, "text/html", "<html><p>Welcome", "does not answer like Eureka → check its path"),
        (200, "text/html", "<html></html>", "does not answer like Eureka"),
        (200, "application/json", "{}", "does not answer like Eureka"),
        (200, "application/xml", "", "does not answer like Eureka"),
        (200, "application/xml", application(port="eighty"), "does not answer like Eureka"),
        (200, "application/xml", application(port=""), "does not answer like Eureka"),
        (404, "text/html;charset=utf-8", "<html>not here", "answered with HTTP 404"),
        (403, "application/xml", "", "answered with HTTP 403"),  # Eureka's own, while it fills its registry
        (503, "text/plain", "", "answered with HTTP 503"),
    ],
)
def test_what_is_no_answer_of_eureka_s_is_an_error(status: int, media_type: str, body: str, reported: str) -> None:
    with imposter(status, body, media_type) as server, pytest.raises(ServiceError, match=re.escape(reported)):
        find(server.authority)


@pytest.mark.parametrize(("host", "port"), [("", "0"), ("127.0.0.1", "65536"), ("", "65536")])
def test_an_instance_that_nothing_can_connect_to_is_left_out(host: str, port: str) -> None:
    with imposter(200, application(host, port)) as server:
        assert find(server.authority).instances == ()


def test_the_registry_that_answered_last_is_asked_first() -> None:
    with imposter(503, "") as ill, imposter(200, application()) as well:
        both = discovery(f"{ill.authority},{well.authority}", "HISTORY")
        for _ in range(3):
            assert asyncio.run(both.find()).instances == (A,)
        assert (ill.asked, well.asked) == (1, 3)
        well.status, ill.status, ill.body = 503, 200, application()
        assert asyncio.run(both.find()).instances == (A,)


def test_a_registry_that_hangs_holds_nothing_up_and_is_asked_last_the_next_time() -> None:
    with imposter(200, application(), hangs=True) as slow, imposter(200, application()) as well:

        async def scenario() -> None:
            both = discovery(f"{slow.authority},{well.authority}", "HISTORY")
            finding = asyncio.create_task(both.find())
            await until(lambda: slow.asked == 1)  # the event loop goes on
            finding.cancel()  # as Instances does when it waits no more
            await asyncio.gather(finding, return_exceptions=True)
            assert (await both.find()).instances == (A,)
            assert (slow.asked, well.asked) == (1, 1)
            slow.may_answer.set()

        asyncio.run(scenario())


def test_certificates_are_not_read_on_the_event_loop_s_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []
    read = ssl.create_default_context

    def recorded(*arguments: Any, **options: Any) -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return read(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", recorded)
    with imposter(200, application()) as server:
        assert find(server.authority).instances == (A,)
    assert readers
    assert threading.current_thread() not in readers

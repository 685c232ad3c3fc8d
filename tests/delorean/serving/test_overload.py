"""Callers that are slow, many, rude or gone, over real sockets: they cost the others nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import company
import pytest
from proxy_process import until

from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, Ranker, create_app
from delorean.serving.limits import ServingLimits
from delorean.serving.request_queue import CallerLeftError, QueueError, RequestQueue
from delorean.serving.server import ScorerServer
from encoders.library.keys import VIDEOS
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from snapshotter.records import to_micros

BODY = json.dumps({"context": {"profile_id": 7, "country": "US"}, "candidates": [12, 59, 7]}).encode()
STALLED = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
SERVE = """
import sys
from delorean.serving import serve
serve(*sys.argv[1:5], port=0, modules=("company_encoders",), announce=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


class Scorer:
    """A running scorer. port: where; server: to end it."""

    def __init__(self, port: int, server: ScorerServer) -> None:
        self.port, self.server = port, server

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data else None, answer.headers

    def stall(self, sent: bytes = STALLED) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(sent)
        return connection


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


@pytest.fixture
def start(company_package: ModelPackage, services: Any, published: Any) -> Any:
    """Starts a scorer with limits of its own."""

    @contextmanager
    def running(limits: ServingLimits, budget: float = 30.0) -> Iterator[Scorer]:
        with ExitStack() as opened:
            gateway = opened.enter_context(Gateway(gateway_config(services.config())))
            clock = lambda: to_micros(company.NOW)  # noqa: E731  # a clock that stands
            versions = GlobalVersions([VIDEOS], published.index, published.storage, clock, timedelta(seconds=30))
            opened.enter_context(versions)
            ranker = Ranker(company_package, gateway, versions, clock, timedelta(seconds=budget))
            server = ScorerServer(create_app(ranker, limits), limits)
            listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=server.run, args=([listener],))
            port = listener.getsockname()[1]
            thread.start()
            try:
                yield Scorer(port, server)
            finally:
                server.should_exit = True
                thread.join()

    return running


QUICK = ServingLimits(header_seconds=0.5, body_seconds=0.5, announce_seconds=0.2)


def test_bodies_that_never_come_take_no_place(live: Any) -> None:
    stalled = []
    for _ in range(300):
        connection = socket.create_connection(("127.0.0.1", live.port), timeout=60)
        connection.sendall(STALLED)
        stalled.append(connection)
    assert live.call("GET", "/ready")[0] == 200
    assert live.call("POST", "/rank", BODY)[0] == 200
    for connection in stalled:
        connection.close()


@pytest.mark.parametrize("sent", [STALLED, STALLED.replace(b"Content-Length: 500", b"Transfer-Encoding: chunked")])
def test_a_body_that_is_late_is_answered_with_408_and_closed(start: Any, sent: bytes) -> None:
    with start(QUICK) as scorer, scorer.stall(sent.replace(b"{", b"")) as connection:
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not arrive within 0.5 s, only 0 bytes did" in answer
        assert scorer.call("POST", "/rank", BODY)[0] == 200


def test_bodies_together_have_a_bound_of_memory(start: Any) -> None:
    large = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 60001\r\n\r\n" + b" " * 60_000
    with start(replace(QUICK, bodies=100_000, body_seconds=20.0)) as scorer:
        with scorer.stall(large), scorer.stall(large) as second:
            second.sendall(b" ")
            answer = second.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"requests in progress hold more than 100000 bytes" in answer
        until(lambda: scorer.call("POST", "/rank", BODY)[0] == 200)


@pytest.mark.parametrize("length", [(1 << 20) + 1, 8 << 20])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kept", ["close", "keep-alive"])
def test_callers_who_send_too_much_get_to_read_why(start: Any, length: int, chunked: bool, kept: str) -> None:
    with start(ServingLimits()) as scorer:
        body: Any = (b" " * 65_536 for _ in range(0, length, 65_536)) if chunked else b" " * length
        status, answer, _ = scorer.call("POST", "/rank", body, Connection=kept)
        assert (status, answer) == (413, {"error": "the request is larger than 1048576 bytes"})


def test_a_head_that_never_ends_is_answered_with_408_and_silence_is_closed(start: Any) -> None:
    with start(QUICK) as scorer, scorer.stall(b"POST /rank HTTP/1.1\r\nHo") as slow, scorer.stall(b"") as silent:
        dribbling = scorer.stall(b"GET /health HTTP/1.1\r\n")

        def dribble() -> None:
            try:
                for i in range(600):
                    dribbling.sendall(b"X-%d: 1\r\n" % i)
                    time.sleep(0.1)
            except OSError:
                pass

        thread = threading.Thread(target=dribble)
        thread.start()
        assert received(slow).startswith(b"HTTP/1.1 408 ")
        assert received(silent) == b""
        assert received(dribbling).startswith(b"HTTP/1.1 408 ")
        thread.join()
        dribbling.close()


def test_a_further_request_has_its_own_time(start: Any) -> None:
    with start(QUICK) as scorer, scorer.stall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert received(connection).startswith(b"HTTP/1.1 408 ")


def test_when_connections_run_out_the_one_that_waits_longest_is_closed(start: Any) -> None:
    limits = ServingLimits(connections=8, header_seconds=600.0, announce_seconds=0.0)  # longer than the callers wait
    with start(limits) as scorer, ExitStack() as opened:
        slow = [opened.enter_context(scorer.stall(b"GET /health HTTP/1.1\r\nHo")) for _ in range(8)]
        for i in range(12):
            assert scorer.call("GET", "/health")[0] == 200, i
        assert received(slow[0]).startswith(b"HTTP/1.1 408 ")


def test_what_is_not_http_is_refused_as_json(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with start(QUICK) as scorer:
        for wrong in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"G" * 100_000):
            with scorer.stall(wrong) as connection:
                answer = received(connection)
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert b'{"error": "the request is not valid HTTP/1.1"}' in answer
    assert capfd.readouterr().err == ""


def test_a_request_whose_budget_passed_in_the_queue_is_answered_at_once(start: Any, services: Any) -> None:
    services.release = threading.Event()
    try:
        with (
            start(ServingLimits(threads=1, announce_seconds=0.0), budget=0.3) as scorer,
            ThreadPoolExecutor(12) as pool,
        ):
            answers = list(pool.map(lambda _: scorer.call("POST", "/rank", BODY), range(12)))
    finally:
        services.release.set()
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    refused = next((answer, headers) for status, answer, headers in answers if status == 503)
    assert refused[0] == {"error": "the request's budget passed while it waited → retry later"}
    assert refused[1]["Retry-After"] == "1"


def test_a_full_queue_refuses_at_once(start: Any, services: Any) -> None:
    services.release = threading.Event()
    with start(ServingLimits(threads=1, places=3, announce_seconds=0.0)) as scorer, ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(scorer.call, "POST", "/rank", BODY) for _ in range(10)]
        until(lambda: sum(each.done() for each in asked) == 7)
        services.release.set()
        answers = [each.result() for each in asked]
    assert sorted(status for status, _, _ in answers) == [200] * 3 + [503] * 7
    refused = [answer for status, answer, _ in answers if status == 503]
    assert refused == [{"error": "3 requests are already waiting → retry later"}] * 7


def test_time_in_the_queue_counts_against_the_budget() -> None:
    async def scenario() -> list[float]:
        queue = RequestQueue(ServingLimits(threads=1))
        began = time.monotonic()

        async def stays() -> bool:
            return False

        def work(ends: float) -> float:
            time.sleep(0.2)
            return ends - began

        try:
            return list(await asyncio.gather(*(queue.run(work, 60.0, stays) for _ in range(3))))
        finally:
            queue.close()

    ends = asyncio.run(scenario())
    assert max(ends) - min(ends) < 0.2  # all count from when they came, not from when their turn came


def test_a_caller_that_is_gone_is_not_worked_for() -> None:
    async def scenario() -> None:
        queue = RequestQueue(ServingLimits(threads=1))

        async def leaves() -> bool:
            return True

        worked: list[float] = []
        for _ in range(3):
            with pytest.raises(CallerLeftError):
                await queue.run(worked.append, 60.0, leaves)
        assert worked == []
        with pytest.raises(QueueError, match="budget passed"):
            await queue.run(worked.append, -1.0, leaves)
        queue.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/health", "/ready", "/package", "/health/"])
def test_head_gives_the_head_of_get(start: Any, path: str) -> None:
    with start(QUICK) as scorer:
        got, head = scorer.call("GET", path), scorer.call("HEAD", path)
        assert (got[0], head[0], head[1]) == (200, 200, None)
        assert head[2]["Content-Length"] == got[2]["Content-Length"]


def test_other_methods_and_paths_are_refused_as_json(start: Any) -> None:
    with start(QUICK) as scorer:
        assert scorer.call("OPTIONS", "/rank")[0] == 204
        assert scorer.call("OPTIONS", "/rank")[2]["Allow"] == "POST, OPTIONS"
        for method, path, allowed in [
            ("GET", "/rank", "POST, OPTIONS"),
            ("DELETE", "/rank/", "POST, OPTIONS"),
            ("POST", "/health", "GET, HEAD, OPTIONS"),
        ]:
            status, answer, headers = scorer.call(method, path)
            assert (status, headers["Allow"]) == (405, allowed)
            assert method in answer["error"]
        assert scorer.call("BREW", "/rank")[0] == 405
        assert "error" in scorer.call("BREW", "/rank")[1]
        assert scorer.call("POST", "/rank/", BODY)[0] == 200
        status, answer, _ = scorer.call("GET", "/nowhere")
        assert (status, answer["error"]) == (404, "unknown path /nowhere → POST /rank, GET /health, /ready or /package")


def test_a_problem_in_the_background_is_shown_by_readiness(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalVersions, "problem", "versions have not been refreshed since noon", raising=False)
    with start(QUICK) as scorer:
        status, answer, _ = scorer.call("GET", "/ready")
        assert (status, answer["problem"]) == (200, "versions have not been refreshed since noon")


@contextmanager
def scorer_process(package: ModelPackage, services: Any, published: Any, folder: Path) -> Iterator[Any]:
    config = folder / "services.toml"
    config.write_text(services.toml())
    environment = {**os.environ, "PYTHONPATH": str(Path(company.__file__).parent)}
    arguments = [str(package.path), str(config), published.index_uri, published.storage_uri]
    command = [sys.executable, "-W", "error", "-c", SERVE, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.stderr and process.stderr.read()
            yield process, url
        finally:
            process.kill()


def test_callers_that_leave_write_nothing_to_the_log(
    company_package: ModelPackage, services: Any, published: Any, tmp_path: Path
) -> None:
    with scorer_process(company_package, services, published, tmp_path) as (process, url):
        port = int(url.rsplit(":", 1)[1])
        for sent in (
            STALLED,
            STALLED[:30],
            b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        ):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(sent)
        with urllib.request.urlopen(f"{url}/rank", BODY, timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "ended\n", "")


def test_sigterm_under_load_loses_no_request(
    company_package: ModelPackage, services: Any, published: Any, tmp_path: Path
) -> None:
    lost: list[str] = []
    answered: list[int] = []
    readiness: list[int] = []
    with scorer_process(company_package, services, published, tmp_path) as (process, url):
        port = int(url.rsplit(":", 1)[1])

        def ask(path: str, method: str, body: bytes | None, into: list[int]) -> bool:
            """Ask once; False when the connection is refused."""
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return False
            with closing(connection):
                try:
                    connection.request(method, path, body)
                    answer = connection.getresponse()
                    answer.read()
                    into.append(answer.status)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
            return True

        def keep_asking() -> None:
            while ask("/rank", "POST", BODY, answered):
                pass

        def watch() -> None:
            while ask("/ready", "GET", None, readiness):
                time.sleep(0.05)

        threads = [threading.Thread(target=keep_asking) for _ in range(40)] + [threading.Thread(target=watch)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 80)
        before = len(answered)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "ended\n", "")
    assert lost == []
    assert len(answered) > before
    assert set(answered) <= {200, 503}  # 503: its budget passed while it waited
    assert sorted(set(readiness)) == [200, 503]
    assert readiness == sorted(readiness)  # once it is unready, it never is ready again

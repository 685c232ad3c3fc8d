"""One bucket of several services, through a real proxy, without Spark."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest

from prana_proxy.config.services_file import gateway_config
from prana_proxy.server import start_proxy
from schemas.errors import ProxyUnavailableError
from schemas.services import Status
from snapshotter.capture import bucket_capture
from snapshotter.capture.asked_groups import asks_column
from snapshotter.capture.bucket_capture import BUCKET, capture_bucket
from snapshotter.capture.capture_task import CaptureResult, CaptureTask, ProxyAddresses
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

LONG = 30.0


class Services:
    """Real services: those whose names begin with `slow` answer only when they are let."""

    def __init__(self) -> None:
        self.let_go, self.asked = threading.Event(), list[str]()
        services = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                services.asked.append(self.path)
                if self.path.startswith("/slow"):
                    services.let_go.wait(LONG)
                self.send_response(200)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"[1]")

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # callers that hang up

        self.server = Server(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def services() -> Iterator[Services]:
    with ExitStack() as stack:
        services = Services()
        stack.callback(services.close)
        yield services


@pytest.fixture(autouse=True)
def new_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_capture, "_silent", set())


Tasks = Callable[..., dict[int, CaptureTask]]


@pytest.fixture
def tasks(services: Services, storage: Storage) -> Iterator[Tasks]:
    """Make the tasks for services named by their numbers."""
    url = f"http://127.0.0.1:{services.server.server_port}"
    one = {"type": "list<int64>", "timeout_seconds": LONG, "max_concurrent": 64}
    by_both = {**one, "key": {"profile_id": "int64", "country": "string"}}
    config = {
        **{name: {**one, "key": {"profile_id": "int64"}, "url": f"{url}/{name}/{{profile_id}}"} for name in NAMES},
        "both": {**by_both, "url": f"{url}/both/{{country}}/{{profile_id}}"},
        "refused": {
            **one,
            "key": {"profile_id": "int64"},
            "url": f"{url}/refused/{{profile_id}}",
            "breaker": {"forced": "open"},
        },
    }
    with start_proxy(gateway_config({"services": config})) as proxy:
        proxies = ProxyAddresses((proxy.address,))
        with proxies.client() as client:
            known = client.services()

        def make(*names: str) -> dict[int, CaptureTask]:
            return {
                number: CaptureTask(
                    known[name], proxies, storage.uri, f"snapshots/{name}/r1", 16, timedelta(seconds=60), 60.0, False
                )
                for number, name in enumerate(names)
            }

        yield make
        services.let_go.set()


NAMES = ("quick", "other", "slow", "slower")
CONTEXTS = pa.RecordBatch.from_pydict(
    {
        "profile_id": pa.array([3, 1, 2, 1, 3], pa.int32()),
        "country": ["US", "US", "FR", "FR", "US"],
        **{asks_column(name): [True] * 5 for name in (*NAMES, "both", "refused")},
        BUCKET: pa.array([5] * 5, pa.int32()),
    }
)


def ask(tasks: dict[int, CaptureTask], reported: dict[int, tuple[int, int]] | None = None, **options: Any) -> Any:
    states = {} if reported is None else reported
    given = {"patient": False, **options}
    return capture_bucket(tasks, [CONTEXTS], lambda number: lambda *state: states.update({number: state}), **given)


def keys(storage: Storage, captured: CaptureResult | None, *names: str) -> list[tuple[Any, ...]]:
    assert captured is not None
    [file] = captured.files
    assert file.bucket == 5
    return [tuple(row[name] for name in names) for row in read_parquet(storage, file).to_pylist()]


def test_each_service_is_asked_for_its_own_distinct_keys(tasks: Tasks, storage: Storage, services: Services) -> None:
    reported: dict[int, tuple[int, int]] = {}
    captured = ask(tasks("quick", "both"), reported)
    assert keys(storage, captured[0], "profile_id") == [(1,), (2,), (3,)]
    assert keys(storage, captured[1], "profile_id", "country") == [(1, "FR"), (1, "US"), (2, "FR"), (3, "US")]
    assert reported == {0: (3, 3), 1: (4, 4)}
    assert len(services.asked) == 7


def test_services_are_asked_at_the_same_time(tasks: Tasks, services: Services) -> None:
    def let_go_once_all_are_asked() -> None:
        while len(services.asked) < 9:
            time.sleep(0.01)
        services.let_go.set()

    threading.Thread(target=let_go_once_all_are_asked).start()
    captured = ask(tasks("slow", "slower", "quick"), patient=True)
    assert [one.counts for one in captured.values()] == [{Status.OK: 3}] * 3


def test_a_service_that_gives_nothing_is_put_off_when_the_others_are_done(
    tasks: Tasks, services: Services, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", 0.3)
    reported: dict[int, tuple[int, int]] = {}
    captured = ask(tasks("slow", "quick", "other"), reported)
    assert captured[0] is None
    assert [captured[number].counts for number in (1, 2)] == [{Status.OK: 3}] * 2
    assert reported[0] == (0, 3)
    services.let_go.set()
    again = ask(tasks("slow"), patient=True)
    assert again[0].counts == {Status.OK: 3}


def test_who_was_put_off_is_not_waited_for_in_the_next_bucket(
    tasks: Tasks, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", 0.05)
    assert ask(tasks("slow", "quick"))[0] is None
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", math.inf)
    assert ask(tasks("slow", "other"))[0] is None
    services.let_go.set()
    assert ask(tasks("slow"))[0].counts == {Status.OK: 3}
    assert not bucket_capture._silent


def test_a_service_that_is_not_asked_since_its_breaker_is_open_is_put_off_at_once(
    tasks: Tasks, services: Services
) -> None:
    captured = ask(tasks("refused", "quick"))
    assert captured[0] is None
    assert captured[1].counts == {Status.OK: 3}
    assert ask(tasks("refused", "quick"), patient=True)[0].counts == {Status.SHORT_CIRCUITED: 3}
    assert ask(tasks("refused"))[0].counts == {Status.SHORT_CIRCUITED: 3}
    assert not any(path.startswith("/refused") for path in services.asked)


def test_a_slow_service_is_not_put_off_because_another_is(
    tasks: Tasks, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", 0.05)
    threading.Timer(0.6, services.let_go.set).start()
    captured = ask(tasks("refused", "slow"))
    assert captured[0] is None
    assert captured[1].counts == {Status.OK: 3}


def test_patience_waits_for_whoever_gives_nothing(
    tasks: Tasks, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", 0.05)
    timer = threading.Timer(0.6, services.let_go.set)
    timer.start()
    captured = ask(tasks("slow", "quick"), patient=True)
    assert captured[0].counts == {Status.OK: 3}


def test_one_alone_is_never_put_off(tasks: Tasks, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", 0.05)
    threading.Timer(0.6, services.let_go.set).start()
    assert ask(tasks("slow"))[0].counts == {Status.OK: 3}


def test_more_services_than_are_asked_at_once_are_all_asked(
    tasks: Tasks, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_capture, "_CONCURRENT_SERVICES", 1)
    monkeypatch.setattr(bucket_capture, "_PATIENCE_SECONDS", LONG)
    services.let_go.set()
    captured = ask(tasks("quick", "other", "slow", "both"))
    assert [sum(one.counts.values()) for one in captured.values()] == [3, 3, 3, 4]


def test_what_one_service_s_capture_raises_is_raised(tasks: Tasks) -> None:
    both = tasks("quick", "slow")
    both[0] = CaptureTask(**{**vars(both[0]), "proxies": ProxyAddresses(("127.0.0.1:1",))})
    with pytest.raises(ProxyUnavailableError):
        ask(both)


def test_an_empty_bucket_asks_nobody(tasks: Tasks, services: Services) -> None:
    reported: dict[int, tuple[int, int]] = {}
    empty = [CONTEXTS.slice(0, 0)]
    captured = capture_bucket(
        tasks("quick", "both"), empty, lambda number: lambda *state: reported.update({number: state}), patient=False
    )
    assert captured == {0: CaptureResult(), 1: CaptureResult()}
    assert reported == {0: (0, 0), 1: (0, 0)}
    assert services.asked == []

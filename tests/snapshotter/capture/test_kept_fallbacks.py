"""A fallback is in a snapshot exactly if serving gives it to encoders: the service's record says which."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pytest

from prana_proxy.config.services_file import gateway_config
from prana_proxy.server import start_proxy
from schemas.services import OnFallback, Service, Status
from schemas.tables import IS_FALLBACK, snapshot_schema
from snapshotter.capture.asked_groups import asks_column
from snapshotter.capture.bucket_capture import BUCKET, capture_bucket
from snapshotter.capture.capture_task import CaptureResult, CaptureTask, ProxyAddresses
from snapshotter.records import ServiceSnapshot
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

NAMES = ("usual", "absent", "value", "cached")
PROFILES = pa.RecordBatch.from_pydict(
    {
        "profile_id": pa.array(range(8), pa.int64()),
        **{asks_column(name): [True] * 8 for name in NAMES},
        BUCKET: pa.array([0] * 8, pa.int32()),
    }
)


class Half:
    """A service that fails for odd profiles until it is well."""

    def __init__(self) -> None:
        self.well, self.asked = False, list[int]()
        half = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                profile = int(self.path.rpartition("/")[2])
                half.asked.append(profile)
                body = b"[%d]" % profile
                self.send_response(200 if half.well or profile % 2 == 0 else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def half() -> Iterator[Half]:
    with ExitStack() as stack:
        half = Half()
        stack.callback(half.close)
        yield half


@pytest.fixture
def capture(half: Half, storage: Storage) -> Iterator[Callable[..., tuple[Service, CaptureResult]]]:
    """Capture a service of this name once; give how it is declared and what was captured."""
    url = f"http://127.0.0.1:{half.server.server_port}/{{profile_id}}"
    one = {"type": "list<int64>", "key": {"profile_id": "int64"}, "url": url, "breaker": {"forced": "closed"}}
    fallbacks: dict[str, dict[str, Any]] = {
        "usual": {"value": [-1]},
        "absent": {"value": [-1], "encoders": "absent"},
        "value": {"value": [-1], "encoders": "value"},
        "cached": {"value": [-1], "cached_seconds": 60, "encoders": "value"},
    }
    config = {name: {**one, "fallback": fallback} for name, fallback in fallbacks.items()}
    with start_proxy(gateway_config({"services": config})) as proxy:
        proxies = ProxyAddresses((proxy.address,))
        with proxies.client() as client:
            services = client.services()

        def captured(name: str, **options: Any) -> tuple[Service, CaptureResult]:
            task = CaptureTask(
                services[name], proxies, storage.uri, f"snapshots/{name}/r1", 3, timedelta(seconds=30), 60.0, False
            )
            found = capture_bucket({0: replace(task, **options)}, [PROFILES], lambda _: lambda *_: None, patient=True)
            return services[name], found[0]

        yield captured


def rows(storage: Storage, captured: CaptureResult) -> list[dict[str, Any]]:
    [file] = captured.files
    return read_parquet(storage, file).to_pylist()


@pytest.mark.parametrize("name", ["usual", "absent"])
def test_a_fallback_that_encoders_do_not_get_is_in_no_snapshot(capture: Any, storage: Storage, name: str) -> None:
    service, captured = capture(name)
    assert service.on_fallback is OnFallback.ABSENT
    assert captured.counts == {Status.OK: 4, Status.FALLBACK: 4}
    assert [row["value"] for row in rows(storage, captured)] == [[0], [2], [4], [6]]
    assert "on_fallback" not in service.to_json()


def test_a_fallback_that_encoders_get_is_kept_and_marked_and_no_success(capture: Any, storage: Storage) -> None:
    service, captured = capture("value")
    assert captured.counts == {Status.OK: 4, Status.FALLBACK: 4}
    found = rows(storage, captured)
    assert [row["profile_id"] for row in found] == list(range(8))
    assert [row["value"] for row in found] == [[i] if i % 2 == 0 else [-1] for i in range(8)]
    assert [row[IS_FALLBACK] for row in found] == [i % 2 == 1 for i in range(8)]
    assert all(captured.first <= row["captured_at"] <= captured.last for row in found)
    assert read_parquet(storage, captured.files[0]).schema == snapshot_schema(service)
    taken = ServiceSnapshot(
        "r1", service, "profile_id", 1, captured.counts, captured.first, captured.last, tuple(captured.files), {}
    )
    assert taken.confidence == 0.5
    assert ServiceSnapshot.from_json(taken.to_json()).service.on_fallback is OnFallback.VALUE


def test_an_answer_of_the_second_pass_takes_the_place_of_a_fallback(
    capture: Any, storage: Storage, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshotter.capture.service_capture.time.sleep", lambda _: setattr(half, "well", True))
    _, captured = capture("value", second_pass=True)
    assert captured.counts == {Status.OK: 8}
    assert [(row["value"], row[IS_FALLBACK]) for row in rows(storage, captured)] == [([i], False) for i in range(8)]


def test_a_fallback_that_stays_is_kept_once_after_a_second_pass(capture: Any, storage: Storage) -> None:
    _, captured = capture("value", second_pass=True)
    assert captured.counts == {Status.OK: 4, Status.FALLBACK: 4}
    assert [row["profile_id"] for row in rows(storage, captured)] == list(range(8))


def test_who_goes_on_with_a_run_asks_again_where_there_was_but_a_fallback(
    capture: Any, storage: Storage, half: Half
) -> None:
    capture("value")
    half.asked.clear()
    half.well = True
    _, captured = capture("value")
    assert sorted(half.asked) == [1, 3, 5, 7]
    assert captured.counts == {Status.OK: 8}
    assert [(row["value"], row[IS_FALLBACK]) for row in rows(storage, captured)] == [([i], False) for i in range(8)]


def test_an_earlier_answer_that_stands_in_keeps_the_time_at_which_it_came(
    capture: Any, storage: Storage, half: Half
) -> None:
    half.well = True
    _, before = capture("cached")
    half.well = False
    _, after = capture("cached", folder="snapshots/cached/r2")
    came = {row["profile_id"]: row["captured_at"] for row in rows(storage, before)}
    kept = [row for row in rows(storage, after) if row[IS_FALLBACK]]
    assert [row["profile_id"] for row in kept] == [1, 3, 5, 7]
    assert all(row["captured_at"] == came[row["profile_id"]] and row["value"] == [row["profile_id"]] for row in kept)

"""Small real services, a real proxy before them, and a context set to ask for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from snapshot_job import Job

from prana_proxy.config import GatewayConfig, gateway_config
from prana_proxy.server import start_proxy
from schemas.data_keys import context_variable
from snapshotter.context_selection import _context_set_schema
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

PATIENT = 30.0  # seconds: on a busy machine too no answer is late


class Company:
    """Three online services in one HTTP server, each failing as it is told.

    failing: number → how the contexts of this profile_id modulo ten fail: "error", "invalid", or "once" with an error
    asked: every path asked for
    """

    def __init__(self) -> None:
        company = self
        self.failing: dict[int, str] = {}
        self.asked: list[str] = []
        self.seconds = 0.0

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                company.asked.append(self.path)
                time.sleep(company.seconds)
                status, answer = company.answer(self.path)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def answer(self, path: str) -> tuple[int, Any]:
        service, _, key = path.strip("/").partition("?")[0].partition("/")
        if service != "history":
            return 200, [{"video_id": len(key)}]
        number = int(key)
        failing = self.failing.get(number % 10)
        if failing == "error" or (failing == "once" and self.asked.count(path) == 1):
            return 500, "broken"
        minutes = "long" if failing == "invalid" else number / 2
        return 200, [{"video_id": number + i, "minutes": minutes} for i in range(number % 3)]

    def config(self) -> GatewayConfig:
        video = "list<struct<video_id: int64>>"
        return gateway_config(
            {
                "services": {
                    "history": {
                        "type": "list<struct<video_id: int64, minutes: float>>",
                        "key": {"profile_id": "int64"},
                        "url": self.url + "/history/{profile_id}",
                        "timeout_seconds": PATIENT,
                        "breaker": {"forced": "closed"},  # it fails on purpose, and often
                    },
                    "my_list": {
                        "type": video,
                        "key": {"profile_id": "int64", "country": "string"},
                        "url": self.url + "/list/{country}/{profile_id}",
                        "timeout_seconds": PATIENT,
                    },
                    "popular": {
                        "type": video,
                        "key": {"country": "string"},
                        "url": self.url + "/popular/{country}",
                        "timeout_seconds": PATIENT,
                    },
                }
            }
        )

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def company() -> Iterator[Company]:
    with ExitStack() as stack:
        company = Company()
        stack.callback(company.close)
        yield company


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SnapshotIndex]:
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield index


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}/data")


@pytest.fixture
def context_set(storage: Storage) -> ContextSet:
    """200 profiles in two countries, 50 of them on two devices, in two files."""
    profiles = list(range(200)) + list(range(50))
    devices = ["tv"] * 200 + ["phone"] * 50
    key = (
        context_variable("profile_id", "int64"),
        context_variable("country", "string"),
        context_variable("device", "string"),
    )
    table = pa.table(
        {
            "profile_id": profiles,
            "country": ["US" if profile % 2 else "FR" for profile in profiles],
            "device": devices,
            "experiments": [[]] * 250,
        }
    ).cast(_context_set_schema(key))
    files = tuple(
        write_parquet(storage, f"context_sets/2026-01-05/{part}.parquet", table.slice(part * 125, 125), table.schema)
        for part in range(2)
    )
    return ContextSet("2026-01-05-test", date(2026, 1, 5), ("watchers",), key, files, ())


@pytest.fixture
def offline(spark: SparkSession, context_set: ContextSet, storage: Storage, index: SnapshotIndex) -> Job:
    return Job(spark, context_set, storage, index)


@pytest.fixture
def job(offline: Job, company: Any) -> Iterator[Job]:
    with start_proxy(company.config()) as proxy:
        offline.proxies = [proxy.address]
        yield offline

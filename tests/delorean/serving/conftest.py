"""A company that is really asked: two HTTP services, published videos, and a live scorer on a port of its own."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from delorean.ab_tests.declaration import AbTest, Cell
from delorean.exposures import ExposureLimits, ExposureLog
from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, PackagedTest, Ranker, create_app
from encoders.library.keys import VIDEOS
from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.gateway import Gateway
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import to_micros
from snapshotter.storage import Storage, open_storage

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company
import company_tasks


@dataclass
class Services:
    """The company's two services behind one port. What `broken` names answers with an error."""

    port: int = 0
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    release: threading.Event | None = None

    def config(self) -> dict[str, Any]:
        """What a services.toml would hold."""
        url = f"http://127.0.0.1:{self.port}"
        # A busy machine's slowness is not what these tests are about.
        common = {"key": {"profile_id": "int64"}, "timeout_seconds": 30.0}
        return {
            "services": {
                "viewing_history": {
                    "type": str(company.SERVICES[0].element.type),
                    **common,
                    "url": url + "/history/{profile_id}",
                    "answer": "/history",
                },
                "my_list": {"type": str(company.SERVICES[1].element.type), **common, "batch_url": url + "/lists"},
            }
        }

    def toml(self) -> str:
        lines = []
        for name, fields in self.config()["services"].items():
            lines += [f"[services.{name}]", 'key = { profile_id = "int64" }']
            lines += [f"{field} = {json.dumps(value)}" for field, value in fields.items() if field != "key"]
        return "\n".join(lines)

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(path)
        if self.release is not None:
            self.release.wait(20)
        if path.startswith("/history/"):
            profile = int(path.rsplit("/", 1)[1])
            if profile == 3 or "viewing_history" in self.broken:
                return 500, {"error": "out of order"}
            return 200, {"history": company.HISTORIES[profile]}
        if "my_list" in self.broken:
            return 500, {}
        profiles = [context["profile_id"] for context in json.loads(body)["contexts"]]
        return 200, {"answers": [{"error": "unknown"} if p == 5 else {"value": company.LISTS[p]} for p in profiles]}


@contextmanager
def running_services() -> Iterator[Services]:
    services = Services()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = services.answer(self.path, body)
            data = json.dumps(content, default=datetime.isoformat).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815  # the standard library's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    services.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def services() -> Iterator[Services]:
    with running_services() as running:
        yield running


@pytest.fixture(scope="session")
def company_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return company.write_company(tmp_path_factory.mktemp("packages") / "company", company.train_company())


@pytest.fixture(scope="session")
def candidate_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """Another model of the same contexts and items, which asks only for lists."""
    return company.write_candidate(tmp_path_factory.mktemp("packages") / "candidate")


@pytest.fixture(scope="session")
def tasks_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """One model of homepages, similar videos and the order of rows."""
    return company_tasks.write_tasks(tmp_path_factory.mktemp("packages") / "tasks")


@dataclass
class Published:
    """Where the videos are published: a version with nothing in it two days ago, all of them since yesterday."""

    index_uri: str
    storage_uri: str
    index: SnapshotIndex
    storage: Storage

    def videos(self, version: str, valid_from: datetime, rows: int = 58) -> None:
        table = company.VIDEO_TABLE.slice(0, rows)
        assert publish_global(table, VIDEOS, valid_from, self.storage, self.index, version)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    index_uri, storage_uri = f"sqlite:///{tmp_path}/index.db", f"file://{tmp_path}/storage"
    with open_index(index_uri) as index:
        found = Published(index_uri, storage_uri, index, open_storage(storage_uri))
        found.videos("few", company.NOW - timedelta(days=2), rows=3)
        found.videos("all", company.NOW - timedelta(days=1))
        yield found


class LiveClock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = company.NOW

    def __call__(self) -> int:
        return to_micros(self.now)


@dataclass
class Live:
    """A live scorer, asked over HTTP."""

    port: int
    ranker: Ranker
    clock: LiveClock
    versions: GlobalVersions

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method, path, data)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), dict(answer.getheaders())
        finally:
            connection.close()

    def rank(self, body: Any) -> Any:
        status, answer, _ = self.call("POST", "/rank", body)
        assert status == 200, answer
        return answer


@contextmanager
def over_http(ranker: Ranker, clock: LiveClock, versions: GlobalVersions) -> Iterator[Live]:
    """Serve a ranker on a free port until the block ends."""
    server = uvicorn.Server(uvicorn.Config(create_app(ranker), port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield Live(server.servers[0].sockets[0].getsockname()[1], ranker, clock, versions)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def live(company_package: ModelPackage, services: Services, published: Published) -> Iterator[Live]:
    clock = LiveClock()
    with ExitStack() as opened:
        gateway = opened.enter_context(Gateway(gateway_config(services.config())))
        versions = GlobalVersions([VIDEOS], published.index, published.storage, clock, timedelta(seconds=0.2))
        opened.enter_context(versions)
        ranker = Ranker(company_package, gateway, versions, clock, timedelta(seconds=30))
        yield opened.enter_context(over_http(ranker, clock, versions))


@pytest.fixture
def tested(
    company_package: ModelPackage, candidate_package: ModelPackage, services: Services, published: Published
) -> Iterator[Live]:
    """A live scorer of a test with two cells, whose exposure log is written at once."""
    clock = LiveClock()
    cells = {"control": Cell(0.5, "control"), "candidate": Cell(0.5, "candidate", explore=0.5)}
    packages = {"control": company_package, "candidate": candidate_package}
    test = PackagedTest(AbTest("homepage", "profile_id", cells, start=utc("2026-02-01T00:00:00Z")), packages)
    limits = ExposureLimits(file_seconds=0.0)
    with ExitStack() as opened:
        log = opened.enter_context(ExposureLog(published.storage, company.CONTEXT, company.ITEMS, limits))
        gateway = opened.enter_context(Gateway(gateway_config(services.config())))
        versions = opened.enter_context(GlobalVersions([VIDEOS], published.index, published.storage, clock))
        budget = timedelta(seconds=30)
        ranker = Ranker(company_package, gateway, versions, clock, budget, tests=[test], log=log)
        yield opened.enter_context(over_http(ranker, clock, versions))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)

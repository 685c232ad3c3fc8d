"""A misbehaving online service over real sockets, and the configuration that asks it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from aiohttp import web
from eureka_server import EurekaServer
from proxy_process import until

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.config import GatewayConfig

LONG = timedelta(seconds=30)  # more than any test takes: only what must not be awaited would need it


@dataclass(frozen=True)
class Call:
    """What the service logs of a call. at: by the machine's clock that never goes back, in seconds."""

    at: float
    port: int
    behaviour: str
    keys: tuple[str, ...]


@dataclass
class Misbehaving:
    """A service that answers `[profile_id, 7]` when it behaves; what else it does stands in the URL's path.

    url, other_url: of its two instances; log: its calls
    asked: calls by behaviour; keys: the profile ids asked for, by behaviour; most_in_flight: calls at a time
    """

    url: str = ""
    other_url: str = ""
    log: list[Call] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    keys: dict[str, list[str]] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def forget(self) -> None:
        self.log.clear()
        self.asked.clear()
        self.keys.clear()
        self.cookies.clear()
        self.most_in_flight = 0

    async def one(self, request: web.Request) -> web.StreamResponse:
        behaviour, key = request.match_info["behaviour"], request.match_info["key"]
        self.note(request, behaviour, key)
        self.cookies.append(request.headers.get("Cookie", ""))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if behaviour == "by_key":
                behaviour = key.split("-")[0]
            if behaviour == "once":  # the first call, whatever is asked
                behaviour = "ok" if self.asked[behaviour] == 1 else "500"
            return await self.behave(behaviour, key, request)
        finally:
            self.in_flight -= 1

    def note(self, request: web.Request, behaviour: str, *keys: str) -> None:
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        self.log.append(Call(time.monotonic(), port, behaviour, keys))
        self.asked[behaviour] += 1
        self.keys.setdefault(behaviour, []).extend(keys)

    async def behave(self, behaviour: str, key: str, request: web.Request) -> web.StreamResponse:
        if behaviour in BODIES:
            return web.Response(body=BODIES[behaviour].encode())
        if behaviour == "first_fails":
            behaviour = "500" if self.log[-1].port == urlsplit(self.url).port else "ok"
        if behaviour.isdigit():
            return web.Response(status=int(behaviour), text="[1, 7]", headers={"Location": "/ok/1"})
        await pause(behaviour)
        if behaviour == "after_five_ok":
            while self.asked["ok"] < 5:
                await asyncio.sleep(0.01)
        if behaviour in ("cut", "half_close", "endless"):
            return await stream(behaviour, request)
        if behaviour == "hang_up":
            cut(request)
        headers = {"Set-Cookie": "profile=1"}
        if behaviour == "compressed":
            headers["Content-Encoding"] = "gzip"
        return web.Response(text=f"[{int(key.split('-')[-1])}, 7]", headers=headers)

    async def many(self, request: web.Request) -> web.StreamResponse:
        behaviour = request.match_info["behaviour"]
        contexts = (await request.json())["contexts"]
        self.note(request, behaviour, *(str(value) for context in contexts for value in context.values()))
        answers: list[Any] = [{"value": [*context.values(), 7]} for context in contexts]
        if behaviour == "fourth_is":
            answers[3] = json.loads(request.query["answer"])
        if behaviour == "by_key":
            answers = [IN_BATCH[key.split("-")[0]] for key in self.log[-1].keys]
        if behaviour == "one_too_few":
            del answers[0]
        if behaviour == "strings":
            answers = [{"value": [context["profile_id"][:9]]} for context in contexts]
        if behaviour == "big":
            size = int(request.query["numbers"])
            answers = [{"value": [context["profile_id"]] * size} for context in contexts]
        if behaviour == "hang":
            await asyncio.sleep(3600)
        if behaviour == "says_error":
            return web.json_response({"error": "no more"})
        return web.json_response({"answers": answers})


SECONDS = {"brief": 0.02, "late": 0.6, "later": 3.0, "hang": 3600.0}
IN_BATCH: dict[str, Any] = {
    "ok": {"value": [1, 7]},
    "error": {"error": "moved"},
    "wrong": {"value": ["a"]},
    "null": {"value": None},
}
BODIES = {
    "wrong_type": '["a"]',
    "no_json": "<html>",
    "half": "[1, ",
    "empty": "",
    "null": "null",
    "huge": "[" + "1," * 40_000 + "1]",
    "says_error": '{"error": "profile is being moved"}',
}


async def pause(behaviour: str) -> None:
    seconds = random.choice([0.0, random.uniform(0.0, 0.08)]) if behaviour == "jitter" else SECONDS.get(behaviour)
    if seconds:
        await asyncio.sleep(seconds)


async def stream(behaviour: str, request: web.Request) -> web.StreamResponse:
    # Without a Content-Length nothing tells how much is coming.
    response = web.StreamResponse(headers={} if behaviour == "endless" else {"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"[1, ")
    while behaviour == "endless":
        await response.write(b"1, " * 1000)
    if behaviour == "half_close":
        assert request.transport is not None
        request.transport.write_eof()
        await asyncio.sleep(3600)
    cut(request)
    return response


def cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@pytest.fixture(scope="session")
def running_service() -> Iterator[Misbehaving]:
    service = Misbehaving()
    loop = asyncio.new_event_loop()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/{behaviour}/{key}", service.one)
    app.router.add_post("/batch/{behaviour}", service.many)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        for _ in range(2):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        service.url, service.other_url = (f"http://{host}:{port}" for host, port in runner.addresses)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield service
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def service(running_service: Misbehaving) -> Misbehaving:
    until(lambda: running_service.in_flight == 0)  # what the test before has left ends by itself
    running_service.forget()
    return running_service


@pytest.fixture
def config_of(service: Misbehaving) -> Callable[..., GatewayConfig]:
    """Build a configuration from `name={fields}`; a url that starts with / is the misbehaving service's."""

    def build(clock: str | None = None, **services: dict[str, Any]) -> GatewayConfig:
        tables = {}
        for name, fields in services.items():
            table = {"type": "list<int64>", "key": {"profile_id": "int64"}, "timeout_seconds": 30.0, **fields}
            for url in ("url", "batch_url"):
                if str(table.get(url, "")).startswith("/"):
                    table[url] = service.url + table[url]
            tables[name] = table
        return gateway_config({"services": tables} | ({} if clock is None else {"clock": clock}))

    return build


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def eureka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EurekaServer]:
    """A running Eureka server; a test that stops it starts it again."""
    server = EurekaServer(tmp_path_factory.mktemp("eureka"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def profiles(*ids: int | None) -> pa.Table:
    return pa.table({"profile_id": pa.array(ids, pa.int64())})


@pytest.fixture(name="profiles")
def profiles_fixture() -> Callable[..., pa.Table]:
    """Make contexts from profile ids."""
    return profiles


@pytest.fixture
def long() -> timedelta:
    """A budget that is never the reason for anything."""
    return LONG

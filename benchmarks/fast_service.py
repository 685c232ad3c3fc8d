"""Online services that cost next to nothing, all in one process: `python -m benchmarks.fast_service [--log]`.

They share two cores with what is measured, so they speak just enough HTTP/1.1 over uvloop, and answer with bytes that
were made before. A path says who answers and how: GET `/BEHAVIOUR/KIND/ID`, POST `/BEHAVIOUR/KIND` for many.

ok        at once
after20   20 ms later; any number
fails     one call of three with status 500
invalid   one answer of three of another type
hangs     never

With --log, GET `/log/BEHAVIOUR/KIND` gives the service's own log: int64 triples (begun, ended, profile id), on the
monotonic clock in nanoseconds, which all processes share; ended is 0 for a call in flight.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

VARIANTS = 1 << 10  # answers of each kind; a profile has that of its last bits
VIDEOS = 5_000
EVENTS, LISTED, RATED = 10, 20, 20
SERVER_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
WRONG = b'"another type"'


def history(rng: random.Random) -> object:
    times = [
        f"2026-0{rng.randint(1, 6)}-{rng.randint(10, 28)}T{rng.randint(10, 23)}:{i + 10}:07.25Z" for i in range(50)
    ]
    return [
        {"video_id": rng.randrange(VIDEOS), "minutes": rng.randrange(2_000) / 8, "watched_at": rng.choice(times)}
        for _ in range(rng.randint(EVENTS - 4, EVENTS + 4))
    ]


def my_list(rng: random.Random) -> object:
    return [rng.randrange(VIDEOS) for _ in range(rng.randint(LISTED - 8, LISTED + 8))]


def ratings(rng: random.Random) -> object:
    return [{"video_id": rng.randrange(VIDEOS), "rating": rng.randrange(40) / 8} for _ in range(RATED)]


KINDS: dict[str, Callable[[random.Random], object]] = {"history": history, "my_list": my_list, "ratings": ratings}


class Context(msgspec.Struct):
    profile_id: int


class Question(msgspec.Struct):
    contexts: list[Context]


QUESTION = msgspec.json.Decoder(Question)


class Services:
    """The answers, made once, and the log."""

    def __init__(self, logging: bool) -> None:
        rng = random.Random(5)
        self.answers = {kind: [msgspec.json.encode(make(rng)) for _ in range(VARIANTS)] for kind, make in KINDS.items()}
        self.in_batch = {kind: [b'{"value":' + one + b"}" for one in all_] for kind, all_ in self.answers.items()}
        self.single = {kind: [ok(one) for one in all_] for kind, all_ in self.answers.items()}
        self.logging = logging
        self.log: dict[str, array.array[int]] = defaultdict(lambda: array.array("q"))
        self.calls = 0

    def one(self, kind: str, profile: int, behaviour: str) -> bytes:
        if behaviour == "invalid" and self.calls % 3 == 0:
            return ok(WRONG)
        return self.single[kind][profile % VARIANTS]

    def many(self, kind: str, profiles: list[int], behaviour: str) -> bytes:
        answers = self.in_batch[kind]
        found = [answers[profile % VARIANTS] for profile in profiles]
        if behaviour == "invalid":
            found[::3] = [b'{"value":' + WRONG + b"}"] * len(found[::3])
        return ok(b'{"answers":[' + b",".join(found) + b"]}")

    def begin(self, behaviour: str, kind: str, profiles: list[int]) -> tuple[array.array[int], int, int]:
        """Log a call; gives what `end` needs to log its end."""
        log = self.log[f"{behaviour}/{kind}"]
        first, now = len(log), time.monotonic_ns()
        for profile in profiles:
            log.extend((now, 0, profile))
        return log, first, len(log)


def end(log: array.array[int], first: int, after_last: int) -> None:
    now = time.monotonic_ns()
    for at in range(first + 1, after_last, 3):
        log[at] = now


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Connection(asyncio.Protocol):
    """One caller's connection, kept alive; calls on it are answered one after another."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not of that class

    def data_received(self, data: bytes) -> None:
        self.waiting = data = self.waiting + data if self.waiting else data
        while (head_ends := data.find(b"\r\n\r\n")) > 0:
            method, target, _ = data[: data.index(b"\r\n")].split(b" ")
            size = 0 if method == b"GET" else content_length(data[:head_ends])
            call_ends = head_ends + 4 + size
            if len(data) < call_ends:
                break
            body, data = data[head_ends + 4 : call_ends], data[call_ends:]
            self.answer(target.decode(), body)
        self.waiting = data

    def answer(self, target: str, body: bytes) -> None:
        services = self.services
        _, behaviour, kind, *rest = target.split("/")
        if behaviour == "log":
            self.transport.write(ok(services.log["/".join([kind, *rest])].tobytes()))
            return
        services.calls += 1
        profiles = [context.profile_id for context in QUESTION.decode(body).contexts] if body else [int(rest[0])]
        logged = services.begin(behaviour, kind, profiles) if services.logging else None
        if behaviour == "hangs":
            return
        if behaviour == "fails" and services.calls % 3 == 0:
            answer = SERVER_ERROR
        else:
            answer = services.many(kind, profiles, behaviour) if body else services.one(kind, profiles[0], behaviour)
        if behaviour.startswith("after"):
            asyncio.get_running_loop().call_later(int(behaviour[5:]) / 1000, self.send, answer, logged)
        else:
            self.send(answer, logged)

    def send(self, answer: bytes, logged: tuple[array.array[int], int, int] | None) -> None:
        if logged is not None:
            end(*logged)  # before the caller can know
        self.transport.write(answer)


def content_length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"\r\ncontent-length:")
    return int(after.split(b"\r\n", 1)[0])


async def serve(logging: bool) -> None:
    if logging:
        with contextlib.suppress(PermissionError):  # what waits for a core seems to come at once
            os.nice(-10)
    services = Services(logging)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(services), "127.0.0.1", 0, backlog=512)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print(f"fast services ready on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.fast_service", description=__doc__)
    parser.add_argument("--log", action="store_true", help="keep each call's begin, end and profile")
    uvloop.run(serve(parser.parse_args().log))

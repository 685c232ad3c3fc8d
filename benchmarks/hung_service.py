"""What a service that hangs costs a scorer's requests: `python -m benchmarks hung-service [--callers 32 300]`.

A scorer has 16 threads and room for 256 requests in line, beyond which a request gets 503. Each request needs a healthy
service and one that accepts every call and never answers (timeout 2 s), within a budget of 0.5 s. It is well again
without the one that hangs, so its requests should cost no more than they do without it. All is on loopback; each case
takes `--seconds`. Callers come in a closed loop: each asks again when it has its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pyarrow as pa

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway

BUDGET = timedelta(seconds=0.5)
THREADS, ROOM = 16, 256
HEALTHY_SECONDS = 0.02
REFUSED_PAUSE = 0.05  # of a caller that got 503


class Scorer:
    """Answers requests like the live scorer; returns how each ended."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._threads = ThreadPoolExecutor(THREADS)
        self._room = threading.Semaphore(ROOM)

    def rank(self, profile: int) -> bool:
        """Answer a request; False for 503."""
        if not self._room.acquire(blocking=False):
            return False
        try:
            contexts = pa.table({"profile_id": pa.array([profile], pa.int64())})
            requests = {"well": contexts, "hung": contexts}
            self._threads.submit(self._gateway.fetch_all, requests, BUDGET).result()
            return True
        finally:
            self._room.release()


def main(arguments: Sequence[str]) -> None:
    """Measure each number of callers, with the hung service and with one that is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, nargs="+", default=[32, 300])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    with services() as (well, hung):
        for callers in options.callers:
            for name, port in (("well", well), ("hung", hung)):
                measure(name, callers, options.seconds, well, port)


def measure(name: str, callers: int, seconds: float, well: int, other: int) -> None:
    """Print a case's throughput, latencies and refusals, over all its time and over its last quarter."""
    table = {"type": "list<int64>", "key": {"profile_id": "int64"}}
    config = gateway_config(
        {
            "services": {
                "well": {**table, "url": f"http://127.0.0.1:{well}/{{profile_id}}"},
                "hung": {**table, "url": f"http://127.0.0.1:{other}/{{profile_id}}", "timeout_seconds": 2.0},
            }
        }
    )
    ended: list[tuple[float, float, bool]] = []
    with Gateway(config) as gateway:
        scorer = Scorer(gateway)
        gateway.fetch("well", pa.table({"profile_id": pa.array([0], pa.int64())}), 60 * BUDGET)  # imports what is used
        began = time.monotonic()

        def call_on(caller: int) -> None:
            turn = 0
            while (start := time.monotonic()) < began + seconds:
                turn += 1
                answered = scorer.rank(caller * 1_000_000 + turn)
                ended.append((start - began, time.monotonic() - start, answered))
                if not answered:
                    time.sleep(REFUSED_PAUSE)

        threads = [threading.Thread(target=call_on, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for part, since in (("all", 0.0), ("last quarter", 0.75 * seconds)):
        some = [(spent, answered) for start, spent, answered in ended if start >= since]
        spent = [spent for spent, answered in some if answered] or [float("nan")]
        refused = sum(not answered for _, answered in some) / max(1, len(some))
        rate = sum(answered for _, answered in some) / (seconds - since)
        print(  # the report
            f"{callers:4} callers, other service {name:4}, {part:12}: {rate:6.0f} requests/s, "
            f"p50 {statistics.median(spent):.3f} s, longest {max(spent):.2f} s, 503: {refused:.0%}"
        )


@contextmanager
def services() -> Iterator[tuple[int, int]]:
    """Run a service that answers after a delay and one that never answers; returns their ports."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            await asyncio.sleep(HEALTHY_SECONDS)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]")
        writer.close()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass
        writer.close()

    async def start() -> list[asyncio.Server]:
        return [await asyncio.start_server(one, "127.0.0.1", 0, backlog=512) for one in (answer, hang)]

    servers = asyncio.run_coroutine_threadsafe(start(), loop).result()
    well, hung = (server.sockets[0].getsockname()[1] for server in servers)
    try:
        yield well, hung
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

"""Malformed frames and calls against a running proxy, while a well-behaved client must always get right answers.

It fails when the proxy ends, when a case is neither answered nor refused in time, when the client gets a wrong answer,
or when the proxy's memory grows after the first tenth of the cases.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz_cases import KINDS, Case, cases
from delorean.demo.processes import Processes
from prana_proxy.client import PranaClient

PATIENCE_SECONDS = 20.0
MOST_GROWTH = 0.05
ATTACKERS = 4
READY = r"Prana proxy ready on ([0-9.:]+): one"


@dataclass
class Outcomes:
    """What became of the cases, by kind."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    hung: list[Case] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many cases there were."""
        return sum(count.total() for count in self.counts.values())


class Attacker:
    """Sends cases to a proxy, over one connection for as long as that is kept open."""

    def __init__(self, address: str, outcomes: Outcomes) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._outcomes = (host, int(port)), outcomes
        self._connection: socket.socket | None = None

    def send(self, case: Case) -> None:
        """Send a case and wait until it is answered, or the connection ends."""
        began = time.monotonic()
        try:
            outcome = self._exchange(case)
        except TimeoutError:
            outcome = "hung"
            self._outcomes.hung.append(case)
        except OSError:
            outcome = "refused"
        if outcome != "answered":
            self.close()
        self._outcomes.counts[case.kind][outcome] += 1
        seconds = time.monotonic() - began
        self._outcomes.slowest[case.kind] = max(self._outcomes.slowest[case.kind], seconds)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _exchange(self, case: Case) -> str:
        if self._connection is None:
            self._connection = socket.create_connection(self._address, PATIENCE_SECONDS)
        self._connection.sendall(case.data)
        if not case.whole:
            self._connection.shutdown(socket.SHUT_WR)
            while self._connection.recv(65_536):
                pass
            return "refused"
        size = self._receive(4)
        if len(size) < 4 or len(self._receive(int.from_bytes(size))) < int.from_bytes(size):
            return "refused"
        return "answered"

    def _receive(self, size: int) -> bytes:
        assert self._connection is not None
        data = b""
        while len(data) < size and (part := self._connection.recv(size - len(data))):
            data += part
        return data


class Witness(threading.Thread):
    """A well-behaved client that asks all the time. wrong: what it got and should not have."""

    def __init__(self, address: str) -> None:
        super().__init__(name="witness")
        self._address, self._stopping = address, threading.Event()
        self.answers, self.wrong = 0, list[str]()

    def run(self) -> None:
        """Ask until told to stop."""
        rng = random.Random(3)
        with PranaClient([self._address]) as client:
            service = client.services()["one"]
            while not self._stopping.is_set():
                ids = [rng.randrange(10**9) for _ in range(20)]
                try:
                    found = client.fetch(service, pa.table({"profile_id": ids}), timedelta(seconds=PATIENCE_SECONDS))
                except Exception as error:  # noqa: BLE001  # whatever it is, it is told
                    self.wrong.append(str(error))
                    continue
                if found["value"].to_pylist() != [[i, 7] for i in ids]:
                    self.wrong.append(str(Counter(found["status"].to_pylist())))
                self.answers += len(ids)
                time.sleep(0.01)

    def stop(self) -> None:
        """Stop it."""
        self._stopping.set()
        self.join()


class Service(BaseHTTPRequestHandler):
    """Answers each profile with itself and 7."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the library's name
        body = b"[%s, 7]" % self.path.rsplit("/", 1)[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Serves; calls that are given up are none of its worries."""

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


def main(arguments: list[str]) -> None:
    """Send the cases and print what became of them."""
    parser = argparse.ArgumentParser("make bench CHECK=fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        address, proxy = opened.enter_context(running_proxy(folder))
        witness = Witness(address)
        witness.start()
        began = time.monotonic()
        outcomes, first, last = attack(address, proxy, options.cases, options.seed)
        seconds = time.monotonic() - began
        witness.stop()
        alive = proxy.is_running() and proxy.status() != psutil.STATUS_ZOMBIE
    report(outcomes, seconds)
    print(f"The proxy {'lives' if alive else 'HAS ENDED'}; its memory went from {first >> 20} to {last >> 20} MiB.")
    print(f"The well-behaved client got {witness.answers} right answers and {len(witness.wrong)} wrong ones.")
    problems = [*witness.wrong[:3], *(f"hung: {case.kind}" for case in outcomes.hung[:3])]
    if last > first * (1 + MOST_GROWTH):
        problems.append(f"memory grew by {last / first - 1:.1%}")
    if problems or not alive or not witness.answers:
        sys.exit("\n".join(["FAILED", *problems]))


def attack(address: str, proxy: psutil.Process, count: int, seed: int) -> tuple[Outcomes, int, int]:
    """Send cases from several threads; give what became of them, and the proxy's memory early and at the end."""
    outcomes, made, lock = Outcomes(), islice(cases(seed), count), threading.Lock()

    def work() -> None:
        attacker = Attacker(address, outcomes)
        while proxy.is_running():
            with lock:
                case = next(made, None)
            if case is None:
                break
            attacker.send(case)
        attacker.close()

    threads = [threading.Thread(target=work, name="attacker") for _ in range(ATTACKERS)]
    for thread in threads:
        thread.start()
    while outcomes.total < count // 10 and any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
    first = proxy.memory_info().rss
    for thread in threads:
        thread.join()
    return outcomes, first, proxy.memory_info().rss if proxy.is_running() else 0


@contextmanager
def running_proxy(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a proxy before a service that answers at once; gives its address and its process."""
    with Server(("127.0.0.1", 0), Service) as service, Processes(folder) as processes:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        config = folder / "services.toml"
        config.write_text(
            'services.one = { type = "list<int64>", key = { profile_id = "int64" }, timeout_seconds = 10.0,'
            f' url = "http://127.0.0.1:{service.server_port}/{{profile_id}}" }}'
        )
        running = processes.start("prana", ["-m", "delorean", "prana", "serve", "--config", str(config), "--port", "0"])
        try:
            yield running.wait_for(READY), psutil.Process(running.process.pid)
        finally:
            service.shutdown()


def report(outcomes: Outcomes, seconds: float) -> None:
    """Print what became of the cases."""
    table = Table(title=f"{outcomes.total} malformed frames and calls in {seconds:.0f} s")
    for column in ("kind", "answered", "refused", "hung", "slowest s"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in KINDS:
        counts = outcomes.counts[kind]
        numbers = [str(counts[outcome]) for outcome in ("answered", "refused", "hung")]
        table.add_row(kind, *numbers, f"{outcomes.slowest[kind]:.2f}")
    Console().print(table)

"""Limits of a real service over all callers and processes, by its own log."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prana_proxy.gateway.shared_counters import ProcessField, SharedCounters

ASKER = Path(__file__).with_name("asker.py")
PROCESSES, SECONDS, PER_SECOND, AT_ONCE = 2, 2.5, 120, 5
STALL = (
    0.02  # of the machine, in seconds: beyond it the service's log says when it was scheduled, not when it was asked
)


def most_within_a_second(times: Sequence[float]) -> int:
    times = sorted(times)
    return max(sum(time - 1.0 < other <= time for other in times) for time in times)


@contextmanager
def stalls() -> Iterator[list[float]]:
    """Note how long this process did not run when it was due."""
    found, over = [0.0], threading.Event()

    def watch() -> None:
        due = time.monotonic() + 0.002
        while not over.wait(max(0.0, due - time.monotonic())):
            found[0] = max(found[0], time.monotonic() - due)
            due = time.monotonic() + 0.002

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield found
    over.set()
    watcher.join()


def hammer(url: str) -> tuple[list[dict[str, int]], float]:
    """Let processes send as often as they may; return the answers of each, and when they began."""
    fields = {
        "type": "list<int64>",
        "key": {"profile_id": "int64"},
        "url": f"{url}/jitter/{{profile_id}}",
        "calls_per_second": PER_SECOND,
        "max_concurrent": AT_ONCE,
    }
    counters = SharedCounters(PROCESSES + 1, PROCESSES)
    assert counters.handle is not None
    running = []
    for process in range(PROCESSES):
        command = [
            sys.executable,
            str(ASKER),
            str(counters.handle),
            str(PROCESSES + 1),
            str(process),
            json.dumps(fields),
        ]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        running.append(subprocess.Popen([*command, str(SECONDS)], pass_fds=[counters.handle], text=True, **pipes))
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    began = time.monotonic()
    for one in running:
        assert one.stdin is not None
        one.stdin.write("begin\n")
        one.stdin.flush()
    reported = [json.loads(one.communicate()[0]) for one in running]
    assert counters.page("s").total(ProcessField.CALLS) == sum(sum(one.values()) for one in reported) + PROCESSES
    counters.close()
    return reported, began


def test_a_service_never_sees_more_calls_in_a_second_or_at_a_time_than_allowed_and_nearly_as_many(service: Any) -> None:
    for _ in range(10):  # until the machine neither stalls nor has too much else to do meanwhile
        service.forget()
        with stalls() as found:
            reported, began = hammer(service.url)
        times = [call.at for call in service.log]
        assert set().union(*reported) == {"ok"}
        assert len(times) == sum(one["ok"] for one in reported) + PROCESSES
        assert len({call.keys for call in service.log}) == len(times)
        assert service.most_in_flight <= AT_ONCE
        assert min(one["ok"] for one in reported) >= 0.25 * len(times)  # no process starves
        most = most_within_a_second(times)
        share = sum(began <= at < began + SECONDS for at in times) / SECONDS / PER_SECOND
        assert most <= PER_SECOND or found[0] >= STALL
        if most <= PER_SECOND and share >= 0.95:
            break
    assert most <= PER_SECOND
    assert share >= 0.95

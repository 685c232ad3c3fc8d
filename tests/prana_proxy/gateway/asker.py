"""One process of a proxy, which asks a service as often as it may: asker.py HANDLE PROCESSES PROCESS FIELDS SECONDS.

Writes a line when it is ready, having asked once; begins when it reads one; tells at its end how many contexts had
which status.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pyarrow as pa

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.shared_counters import SharedCounters

CALLERS, CONTEXTS = 3, 8


def ask(gateway: Gateway, *ids: int) -> list[str]:
    answers = gateway.fetch("s", pa.table({"profile_id": pa.array(ids, pa.int64())}), timedelta(seconds=60))
    statuses: list[str] = answers["status"].to_pylist()
    return statuses


def ask_often(gateway: Gateway, first: int, until: float) -> Counter[str]:
    statuses = Counter[str]()
    while time.monotonic() < until:
        statuses.update(ask(gateway, *range(first, first + CONTEXTS)))
        first += CONTEXTS
    return statuses


def main(handle: int, processes: int, process: int, fields: str, seconds: float) -> None:
    config = gateway_config({"services": {"s": json.loads(fields)}})
    with Gateway(config, SharedCounters(processes, process, handle)) as gateway, ThreadPoolExecutor(CALLERS) as threads:
        ask(gateway, -1 - process)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        until = time.monotonic() + seconds
        firsts = [(process * CALLERS + i) * 1_000_000 for i in range(CALLERS)]
        reported = [threads.submit(ask_often, gateway, first, until) for first in firsts]
        sys.stdout.write(json.dumps(sum((one.result() for one in reported), Counter())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5]))

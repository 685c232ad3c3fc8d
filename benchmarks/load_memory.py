"""The proxy's memory under minutes of mixed load: good, failing, slow, hanging, invalid; single and in batches."""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from datetime import timedelta

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.load_report import CONSOLE, Verdict, show_rows, sparkline
from benchmarks.memory import MIB
from benchmarks.snapshot_world import KEY, ServiceSpec, Started, World
from prana_proxy.client import PranaClient
from schemas.errors import DeloreanError
from schemas.tables import contexts_schema

MOST_GROWTH, WARM_UP = 0.05, 0.2
EVERY = 1.0  # seconds
CLIENTS, PAUSE = 4, 0.02  # seconds between a client's calls: others share the machine
BUDGET = timedelta(seconds=5)
ASKED = {
    "batched_history": ServiceSpec("history", batched=True),
    "batched_ratings": ServiceSpec("ratings", batched=True),
    "batched_invalid": ServiceSpec("my_list", "invalid", batched=True),
    "single": ServiceSpec("history"),
    "failing": ServiceSpec("my_list", "fails"),
    "slow": ServiceSpec("ratings", "after50"),
    "hanging": ServiceSpec("my_list", "hangs", fields={"timeout_seconds": 0.2}),
}
PAGES = {"slow": 50, "hanging": 20}  # contexts a call; else:
PAGE = 500


def memory(world: World, options: argparse.Namespace) -> list[Verdict]:
    """Ask at random for minutes, look at the proxy's memory every second, and fit its growth."""
    services = world.services()
    proxy = world.proxy(services, ASKED)
    stop, counts = threading.Event(), Counter[str]()
    clients = [threading.Thread(target=_ask, args=(proxy, number, stop, counts)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    sizes = []
    end = time.monotonic() + options.minutes * 60
    while time.monotonic() < end:
        time.sleep(EVERY)
        sizes.append(_size(proxy.pid))
    stop.set()
    for client in clients:
        client.join()
    proxy.stop()
    services.stop()
    return [_judge(np.array(sizes), counts, options.minutes)]


def _ask(proxy: Started, seed: int, stop: threading.Event, counts: Counter[str]) -> None:
    rng = np.random.default_rng(seed)
    with PranaClient([proxy.address]) as client:
        known = client.services()
        names = list(known)
        while not stop.wait(PAUSE):
            name = names[rng.integers(len(names))]
            profiles = rng.integers(0, 1 << 40, PAGES.get(name, PAGE))
            contexts = pa.table([pa.array(profiles)], schema=contexts_schema(KEY))
            try:
                answers = client.fetch(known[name], contexts, BUDGET)
            except DeloreanError as error:
                counts[type(error).__name__] += 1
                continue
            counts.update({one["values"]: one["counts"] for one in pc.value_counts(answers["status"]).to_pylist()})


def _size(pid: int) -> float:
    """Give the resident memory of a process and of those it has started, MiB."""
    process = psutil.Process(pid)
    return float(sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / MIB)


def _judge(sizes: np.ndarray, counts: Counter[str], minutes: float) -> Verdict:
    warm = sizes[int(len(sizes) * WARM_UP) :]
    grown = growth(warm)
    ten = np.array_split(sizes, 10)
    rows = [(f"{status}", f"{count:,}") for status, count in counts.most_common()]
    rows += [(f"MiB in tenth {number}", f"{np.median(part):.1f}") for number, part in enumerate(ten, 1)]
    show_rows(f"memory: {minutes:g} minutes of mixed load, answers by status", rows)
    CONSOLE.print(f"{sizes.min():.0f} MiB {sparkline(list(sizes))} {sizes.max():.0f} MiB")
    target = f"memory: ≤ {MOST_GROWTH:.0%} growth over {minutes:g} minutes after warm-up"
    return Verdict(target, f"{grown:+.1%}", grown <= MOST_GROWTH)


def growth(sizes: np.ndarray) -> float:
    """Give the growth from first to last as a share of the first, by the median of all slopes (Theil and Sen)."""
    at = np.arange(len(sizes))
    first, second = np.triu_indices(len(sizes), 1)
    slope = np.median((sizes[second] - sizes[first]) / (at[second] - at[first]))
    middle = np.median(sizes)
    start = middle - slope * (len(sizes) - 1) / 2
    return float(slope * (len(sizes) - 1) / start)

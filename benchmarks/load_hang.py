"""What a service that accepts calls and never answers costs the others' throughput, in a snapshot and in the proxy."""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from benchmarks.load_report import Verdict, show_rows
from benchmarks.snapshot_world import KEY, ServiceSpec, Started, World
from prana_proxy.client import PranaClient
from schemas.tables import contexts_schema
from snapshotter.records import ContextSet

MOST_LOSS = 0.10
HEALTHY, HANGING = ("history", "my_list", "ratings"), "hanging"
PAGE, BUDGET = 1_000, timedelta(seconds=30)


def hang(world: World, options: argparse.Namespace) -> list[Verdict]:
    """Measure without and with the hanging one, in turns."""
    services = world.services()
    specs = {name: ServiceSpec(name, batched=True) for name in HEALTHY}
    proxy = world.proxy(services, {**specs, HANGING: ServiceSpec("ratings", "hangs", batched=True)})
    contexts = world.context_set(options.hang_contexts)
    world.take(world.context_set(2_000), [proxy.address], HEALTHY)  # starts Python workers

    def snapshot(names: Sequence[str]) -> float:
        return _snapshot(world, proxy, contexts, names)

    def through_proxy(names: Sequence[str]) -> float:
        return _through_proxy(proxy, names, options.hang_seconds)

    verdicts = [
        _judge("hang: snapshots", snapshot, options.repeats),
        _judge("hang: the proxy alone", through_proxy, options.repeats),
    ]
    proxy.stop()
    services.stop()
    return verdicts


def _judge(title: str, measure: Callable[[Sequence[str]], float], repeats: int) -> Verdict:
    without, beside = [], []
    for _ in range(repeats):
        without.append(measure(HEALTHY))
        beside.append(measure([*HEALTHY, HANGING]))
    loss = 1 - statistics.median(beside) / statistics.median(without)
    show_rows(
        f"{title}: the healthy services' answers a second",
        [
            ("without a hanging one", "  ".join(f"{rate:,.0f}" for rate in without)),
            ("beside a hanging one", "  ".join(f"{rate:,.0f}" for rate in beside)),
        ],
    )
    return Verdict(f"{title}: ≤ {MOST_LOSS:.0%} lost beside a hanging service", f"{loss:.1%}", loss <= MOST_LOSS)


def _snapshot(world: World, proxy: Started, contexts: ContextSet, names: Sequence[str]) -> float:
    """Give the healthy services' answers a second in a snapshot, until the last of them is done."""
    start = time.perf_counter()
    done_at = dict.fromkeys(HEALTHY, start)

    def progress(name: str, done: int, most: int) -> None:  # noqa: ARG001  # as take_snapshot calls it
        done_at[name] = time.perf_counter()

    world.take(contexts, [proxy.address], names, progress=progress)
    seconds = max(done_at[name] for name in HEALTHY) - start
    return contexts.rows * len(HEALTHY) / seconds


def _through_proxy(proxy: Started, names: Sequence[str], seconds: float) -> float:
    """Give the healthy services' answers a second, each with its own client."""
    end = time.perf_counter() + seconds
    contexts = pa.table([pa.array(np.arange(PAGE))], schema=contexts_schema(KEY))
    answers: dict[str, int] = dict.fromkeys(names, 0)

    def ask(name: str) -> None:
        with PranaClient([proxy.address]) as client:
            service = client.services()[name]
            while time.perf_counter() < end:
                answers[name] += client.fetch(service, contexts, BUDGET).num_rows

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads[: len(HEALTHY)]:
        thread.join()
    spent = time.perf_counter() - start
    for thread in threads:
        thread.join()
    return sum(answers[name] for name in HEALTHY) / spent

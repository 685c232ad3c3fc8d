"""Two jobs of eight tasks hammer one service; its own log says whether it was ever called beyond its limits."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.load_report import Verdict, show_rows
from benchmarks.snapshot_world import PATIENT, ServiceSpec, Started, World, log_of

CONCURRENT, CALLS_A_SECOND, SHARE = 20, 500, 0.95
JOBS, TASKS, PAGE = 2, 8, 200
WARM = "warm"  # a service that only starts the jobs' Python workers
SECOND = 1_000_000_000  # nanoseconds
# At 20 ms a call the rate binds, at 60 ms the places: 20 / 0.06 s = 333 calls a second.
BEHAVIOURS = {"after20": float(CALLS_A_SECOND), "after60": CONCURRENT / 0.06}


def cap(world: World, options: argparse.Namespace) -> Iterator[Verdict]:
    """Hammer a proxy of one process, then one of several."""
    yield from _hammer(world, options, "one process", {})
    yield from _hammer(world, options, "2 processes", {"processes": 2})


def _hammer(world: World, options: argparse.Namespace, title: str, server: Mapping[str, Any]) -> Iterator[Verdict]:
    services = world.services(log=True)
    fields = {"max_concurrent": CONCURRENT, "calls_per_second": CALLS_A_SECOND, **PATIENT}
    if options.burst is not None:
        fields["burst"] = options.burst
    specs = {behaviour: ServiceSpec("history", behaviour, fields=fields) for behaviour in BEHAVIOURS}
    proxy = world.proxy(services, {**specs, WARM: ServiceSpec("my_list")}, server)
    for behaviour, allowed in BEHAVIOURS.items():
        counts = _jobs(world, proxy, behaviour, int(options.seconds * allowed / JOBS))
        yield _judge(f"cap, {title}, {behaviour[5:]} ms a call", services, behaviour, allowed, counts)
    proxy.stop()
    services.stop()


def _jobs(world: World, proxy: Started, service: str, contexts: int) -> Counter[str]:
    """Run all jobs at once, from the same moment on; give how many contexts came to each status."""
    running, go = [], world.folder / world.new_name("go")
    for number in range(JOBS):
        where = [str(world.folder / world.new_name("job")), str(go), proxy.address, WARM, service]
        arguments = ["--first", str(number * contexts), "--contexts", str(contexts)]
        load = ["--tasks", str(TASKS), "--page", str(PAGE)]
        running.append(world.job("job", ["-m", "benchmarks.snapshot_job", *where, *arguments, *load]))
    for job in running:
        job.wait_for(r"(ready)", patience_seconds=120)
    go.touch()
    counts: Counter[str] = Counter()
    for job in running:
        counts.update(json.loads(job.wait_for(r"counts (\{.*\})", patience_seconds=600)))
        job.process.wait(60)
    return counts


def _judge(title: str, services: Started, behaviour: str, allowed: float, counts: Counter[str]) -> Verdict:
    log = log_of(services, behaviour, "history")
    most, crowded = at_once(log), beyond_places(log, CONCURRENT)
    busiest, hurried = busiest_second(log), beyond_rate(log, CALLS_A_SECOND)
    rate = steady_rate(log)
    show_rows(
        title,
        [
            ("calls the service saw", f"{len(log):,}"),
            ("contexts by status", ", ".join(f"{status} {count:,}" for status, count in counts.items())),
            (f"most at once (cap {CONCURRENT})", f"{most}, {crowded} calls begun beyond it"),
            (f"most in any second (cap {CALLS_A_SECOND})", f"{busiest}, {hurried} calls begun beyond it"),
            ("calls a second, without the first and the last", f"{rate:.1f} = {rate / allowed:.1%} of {allowed:.0f}"),
        ],
    )
    met = crowded == hurried == 0 and set(counts) == {"ok"}
    target, measured = f"{title}: 0 violations, all ok", f"{crowded + hurried} violations, {dict(counts)}"
    if allowed == CALLS_A_SECOND:  # where concurrency is the limit, no rate can be measured
        met = met and rate >= SHARE * allowed
        target, measured = f"{target}, ≥ {SHARE:.0%} of {allowed:.0f}/s", f"{measured}, {rate / allowed:.1%}"
    return Verdict(target, measured, met)


def at_once(log: np.ndarray) -> int:
    """Give the most calls in flight at any time."""
    return int(_in_flight(log).max(initial=0))


def beyond_places(log: np.ndarray, places: int) -> int:
    """Count the calls that were begun while so many were in flight."""
    return int((_in_flight(log) > places).sum())


def _in_flight(log: np.ndarray) -> np.ndarray:
    """Give, for each call in order, how many are in flight when it begins; one may end as another begins."""
    begun = np.sort(log[:, 0])
    ended = np.sort(np.where(log[:, 1] == 0, np.iinfo(np.int64).max, log[:, 1]))
    return np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, side="right")


def busiest_second(log: np.ndarray) -> int:
    """Give the most calls begun in any second, wherever it starts."""
    return int(_within_a_second(log).max(initial=0))


def beyond_rate(log: np.ndarray, calls: int) -> int:
    """Count the calls begun within a second that had so many already."""
    return int((_within_a_second(log) > calls).sum())


def _within_a_second(log: np.ndarray) -> np.ndarray:
    """Give, for each call, how many were begun in the second that ends with its begin."""
    begun = np.sort(log[:, 0])
    return np.arange(1, len(begun) + 1) - np.searchsorted(begun, begun - SECOND, side="right")


def steady_rate(log: np.ndarray) -> float:
    """Give the calls begun a second between the end of the first second and the begin of the last."""
    begun = log[:, 0]
    if not len(begun) or begun.max() - begun.min() <= 3 * SECOND:
        return 0.0
    start, end = begun.min() + SECOND, begun.max() - SECOND
    return float(((begun >= start) & (begun < end)).sum() / ((end - start) / SECOND))

"""How many answers a second come the whole way: services ← proxy ← take_snapshot on Spark → Parquet, published."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

from benchmarks.load_report import CONSOLE, Verdict
from benchmarks.shares import Shares
from benchmarks.snapshot_world import PATIENT, ServiceSpec, World
from benchmarks.where_time_goes import Profile
from schemas.services import Status
from snapshotter.records import ContextSet, SnapshotRun

ANSWERS_A_SECOND, CALLS_A_SECOND = 20_000, 3_000
WARM = 4_000  # contexts: starts Python workers, JIT, connections


def batched(world: World, options: argparse.Namespace) -> list[Verdict]:
    """Three services that take many keys a call."""
    fields = {"batch_size": options.batch_size, "max_concurrent": options.concurrent, **PATIENT}
    specs = {name: ServiceSpec(name, batched=True, fields=fields) for name in ("history", "my_list", "ratings")}
    rate = _measure(world, options, specs, options.contexts, "batched")
    return [Verdict(f"batched: ≥ {ANSWERS_A_SECOND:,} context-answers/s", f"{rate:,.0f}", rate >= ANSWERS_A_SECOND)]


def unbatched(world: World, options: argparse.Namespace) -> list[Verdict]:
    """One service with one context per call."""
    specs = {"history": ServiceSpec("history", fields={"max_concurrent": options.unbatched_concurrent, **PATIENT})}
    rate = _measure(world, options, specs, options.unbatched_contexts, "unbatched")
    return [Verdict(f"unbatched: ≥ {CALLS_A_SECOND:,} calls/s", f"{rate:,.0f}", rate >= CALLS_A_SECOND)]


def _measure(
    world: World, options: argparse.Namespace, specs: dict[str, ServiceSpec], contexts: int, title: str
) -> float:
    """Take one snapshot, print how the cores were shared, and give the answers a second."""
    services = world.services()
    proxy = world.proxy(services, specs)
    warm, all_ = world.context_set(min(WARM, contexts)), world.context_set(contexts)

    def take(chosen: ContextSet) -> SnapshotRun:
        return world.take(chosen, [proxy.address], page=options.page)

    take(warm)
    profile = Profile(proxy.pid, world.folder / f"{title}.profile") if options.profile else nullcontext()
    with profile, Shares({"services": services.pid, "proxy": proxy.pid}) as shares:
        start = time.perf_counter()
        run = take(all_)
        seconds = time.perf_counter() - start
    counts = {one.service.name: dict(one.counts) for one in run.services}
    answers = sum(count.get(Status.OK, 0) for count in counts.values())
    if answers != contexts * len(specs):
        CONSOLE.print(f"[red]not every context was answered: {counts}")
    CONSOLE.print(
        shares.table(f"{title}: {answers:,} answers in {seconds:.1f} s = {answers / seconds:,.0f}/s", answers)
    )
    proxy.stop()
    services.stop()
    return answers / seconds

"""A proxy killed in mid-run, as by a power cut; the services' own log says which contexts were requested again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from benchmarks.load_report import Verdict, show_rows
from benchmarks.snapshot_world import PATIENT, ServiceSpec, Started, World, log_of
from schemas.errors import DeloreanError
from schemas.services import Status
from snapshotter.records import ContextSet, SnapshotRun

SERVICES = ("history", "my_list", "ratings")
KILL_AT = 0.4  # of the run's contexts
BUCKETS = 8


def kill(world: World, options: argparse.Namespace) -> list[Verdict]:
    """Kill one of two proxies; then the only one, and run again through another."""
    return [*_one_of_two(world, options.kill_contexts), *_the_only_one(world, options.kill_contexts)]


class Killing:
    """A progress report that kills a proxy once enough is done, and remembers what had been stored by then."""

    def __init__(self, world: World, run_id: str, proxy: Started, contexts: int) -> None:
        self.world, self.run_id, self.proxy, self.contexts = world, run_id, proxy, contexts
        self.done: dict[str, int] = {}
        self.written: dict[str, np.ndarray] = {}
        self.killed_at = 0

    def __call__(self, name: str, done: int, most: int) -> None:  # noqa: ARG002  # as take_snapshot calls it
        self.done[name] = done
        if not self.killed_at and sum(self.done.values()) >= KILL_AT * self.contexts * len(SERVICES):
            self.written = self.world.written(
                self.run_id
            )  # before: contexts requested again meanwhile may be stored late
            self.proxy.kill()
            self.killed_at = time.monotonic_ns()


def _one_of_two(world: World, contexts: int) -> list[Verdict]:
    services = world.services(log=True)
    first, second = (world.proxy(services, _specs()) for _ in range(2))
    chosen, run_id = world.context_set(contexts), world.new_name("run")
    killing = Killing(world, run_id, first, contexts)
    title = "kill: one of two proxies"
    run = _take(world, chosen, [first.address, second.address], run_id, killing)
    verdict = _judge(title, services, killing.written, killing.killed_at, run, contexts)
    second.stop()
    services.stop()
    return [verdict]


def _the_only_one(world: World, contexts: int) -> list[Verdict]:
    services = world.services(log=True)
    proxy = world.proxy(services, _specs())
    chosen, run_id = world.context_set(contexts), world.new_name("run")
    killing = Killing(world, run_id, proxy, contexts)
    failed = _take(world, chosen, [proxy.address], run_id, killing)
    written, rerun_at = world.written(run_id), time.monotonic_ns()
    another = world.proxy(services, _specs())
    run = _take(world, chosen, [another.address], run_id, None)
    title = "kill: the only proxy, and the run again through another"
    verdicts = [_judge(title, services, written, rerun_at, run, contexts)]
    if failed is not None:
        measured = "the run was published although its proxy was gone"
        verdicts.append(Verdict(f"{title}: nothing is published before", measured, met=False))
    another.stop()
    services.stop()
    return verdicts


def _specs() -> dict[str, ServiceSpec]:
    return {name: ServiceSpec(name, batched=True, fields=PATIENT) for name in SERVICES}


def _take(
    world: World, chosen: ContextSet, proxies: list[str], run_id: str, progress: Callable[[str, int, int], None] | None
) -> SnapshotRun | None:
    try:
        return world.take(chosen, proxies, SERVICES, run_id, buckets=BUCKETS, page=500, progress=progress)
    except DeloreanError as error:
        show_rows(f"{run_id} ended", [(str(error)[:100], "")])
        return None


def _judge(
    title: str, services: Started, written: dict[str, np.ndarray], since: int, run: SnapshotRun | None, contexts: int
) -> Verdict:
    """Compare the log with what had been written when something was killed, or begun again."""
    rows, again, kept = [], 0, 0
    for name in SERVICES:
        log = log_of(services, "ok", name)
        _, times = np.unique(log[:, 2], return_counts=True)
        had = written.get(name, np.empty(0, np.int64))
        after = np.isin(log[log[:, 0] >= since, 2], had).sum()
        again, kept = again + int(after), kept + len(had)
        rows.append((f"{name}: keys requested", f"{len(times):,}, {(times > 1).sum():,} of them more than once"))
        rows.append((f"{name}: stored by then", f"{len(had):,}, {after:,} of them requested again"))
    ok = 0 if run is None else sum(one.counts.get(Status.OK, 0) for one in run.services)
    rows.append(("answers in the published run", f"{ok:,} of {contexts * len(SERVICES):,}"))
    show_rows(title, rows)
    met = since > 0 and kept > 0 and again == 0 and ok == contexts * len(SERVICES)
    measured = f"{kept:,} written, {again:,} requested again, {ok:,} answers published"
    return Verdict(f"{title}: all published, nothing stored is requested twice", measured, met)

"""How the cores were shared: CPU seconds and peak memory by group of processes while something runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import psutil
from rich.table import Table

from benchmarks.memory import MIB

DRIVER, JVM, WORKERS = "Spark's driver (this process)", "Spark's JVM", "Spark's Python workers"


@dataclass
class Share:
    """One process's CPU seconds, before it was watched and last seen, and the most memory it had, in MiB."""

    group: str
    before: float
    seen: float = 0.0
    peak: float = 0.0


class Shares:
    """Watches this process, the Spark below it, and groups of other processes, each with its children.

    groups: group's name → process id
    """

    def __init__(self, groups: Mapping[str, int], every: float = 0.2) -> None:
        self.groups, self.every = groups, every
        self.seconds = self.others = 0.0
        self._shares: dict[tuple[int, float], Share] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._look(first=True)
        self._start, self._machine = time.perf_counter(), _busy()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()
        self._look()
        self.others = max(0.0, _busy() - self._machine - self.cpu())

    def cpu(self, group: str | None = None) -> float:
        """Give the CPU seconds of a group, or of all."""
        return sum(share.seen - share.before for share in self._of(group))

    def peak(self, group: str) -> float:
        """Give the most memory that one process of a group had, MiB."""
        return max((share.peak for share in self._of(group)), default=0.0)

    def table(self, title: str, answers: int) -> Table:
        """Show all groups, for so many answers."""
        table = Table(title=title)
        for column in ("", "CPU s", "of all", "µs / answer", "peak MiB", "processes"):
            table.add_column(column, justify="left" if not column else "right")
        for group in [*self.groups, DRIVER, JVM, WORKERS]:
            cpu, all_ = self.cpu(group), max(self.cpu(), 1e-9)
            each = f"{cpu / answers * 1e6:.1f}"
            table.add_row(
                group, f"{cpu:.2f}", f"{cpu / all_:.0%}", each, f"{self.peak(group):.0f}", str(len(self._of(group)))
            )
        busy = (
            f"{self.cpu() / self.seconds:.2f} cores for {self.seconds:.1f} s; others {self.others / self.seconds:.2f}"
        )
        table.add_row(busy, f"{self.cpu():.2f}", "100%", f"{self.cpu() / answers * 1e6:.1f}", "", "")
        return table

    def _of(self, group: str | None) -> list[Share]:
        return [share for share in list(self._shares.values()) if group in (None, share.group)]

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            self._look()

    def _look(self, first: bool = False) -> None:
        for process, group in self._processes():
            try:
                spent = process.cpu_times()
                cpu, size = spent.user + spent.system, process.memory_info().rss / MIB
                share = self._shares.setdefault(
                    (process.pid, process.create_time()), Share(group, cpu if first else 0.0)
                )
                share.seen, share.peak = cpu, max(share.peak, size)
            except psutil.Error:
                continue  # it has just ended

    def _processes(self) -> list[tuple[psutil.Process, str]]:
        driver = psutil.Process()
        found = [(driver, DRIVER)]
        for group, pid in self.groups.items():
            found += [(process, group) for process in _family(pid)]
        for child in driver.children():
            if _name(child) == "java":
                found += [(one, JVM if one.pid == child.pid else WORKERS) for one in _family(child.pid)]
        return found


def _busy() -> float:
    """Give the CPU seconds that all of this machine has spent."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""

"""A stack of local files and SQLite on a small disk, which tests fill."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil
from driver_process import PATIENCE, Driver
from fault_stack import BUCKETS, Stack
from fault_table import Failure, Stage
from proxy_process import until

_DISK_BYTES = 32 << 20
_HALF_A_FILE = 4 << 10


class SmallDisk(Stack):
    """Everything that a job depends on, with local files and SQLite."""

    @property
    def driver(self) -> Driver:
        """A driver that is ready for a job."""
        if self._driver is None:
            disk = self.folder / "disk"
            disk.mkdir()
            self._driver = Driver(disk=disk, size=_DISK_BYTES)
            self.stack.callback(self._driver.kill)
        return self._driver

    def leave(self, free: int) -> None:
        """Fill the disk up to so many bytes; where none could be mounted, limit the size of files to them."""
        if self.driver.mounted:
            (self._disk / "ballast").unlink(missing_ok=True)
            status = os.statvfs(self._disk)
            try:
                (self._disk / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - free))
            except OSError as error:  # a job has written meanwhile: the disk is full all the same
                if free or error.errno != errno.ENOSPC:
                    raise
        else:
            self._limit(free)

    def begin_snapshot(self, run_id: str, stage: Stage, _: int, **__: Any) -> None:
        """Take a snapshot, and hold it at a stage."""
        if stage in (Stage.BEFORE, Stage.MIDWAY):
            self.company.open.clear()
        self.driver.start(
            "snapshot", proxies=[self.prana], run_id=run_id, hold=stage in (Stage.HELD, Stage.PUBLISHING), **self.place
        )
        if stage in (Stage.BEFORE, Stage.MIDWAY):
            until(lambda: self.company.asked, PATIENCE)
        else:
            self._reach(stage)
        if stage == Stage.PUBLISHING:
            connection = sqlite3.connect(self._disk / "index.db", isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            self._release.append(connection.close)  # releases the lock
            self._publish()
            time.sleep(0.5)  # it waits to write by then

    def begin_generation(self, name: str, stage: Stage, job: str = "generate", **arguments: Any) -> None:
        """Generate a feature set by one of the jobs that do, and hold it at a stage."""
        if stage == Stage.BEFORE:
            self.strike(Failure.DISK, stage)
        hold = {Stage.MIDWAY: 1, Stage.HELD: BUCKETS}.get(stage, 0)
        self.driver.start(job, name=name, hold=hold, **arguments, **self.place)
        if stage != Stage.BEFORE:
            self._reach(stage)

    def strike(self, failure: Failure, stage: Stage) -> None:
        """Fill the disk, or all but half a file of it."""
        assert failure == Failure.DISK
        self.leave(_HALF_A_FILE if stage == Stage.MIDWAY else 0)

    def heal(self) -> None:
        """Free the disk."""
        if self.driver.mounted:
            (self._disk / "ballast").unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)

    @property
    def _disk(self) -> Path:
        assert self.driver.disk is not None
        return self.driver.root / self.driver.disk.relative_to("/")

    def _limit(self, size: int) -> None:
        for process in self.driver.pythons():
            process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

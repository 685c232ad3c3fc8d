"""A driver in a process of its own, for tests that kill it, its workers, or what it writes to.

It takes one job after the other and reports events. A job with "hold" pauses before it publishes what it has written,
until it is resumed. Drivers are forked from a process that has imported what jobs need: they start at once.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 300.0  # seconds to wait for a driver on a busy machine
WRITTEN = "files written"
MASTER, SETTINGS = "DRIVER_MASTER", "DRIVER_SETTINGS"  # of a driver's environment: where its Spark is, and how
_ROOT = Path(__file__).resolve().parents[2]
_FORKING = multiprocessing.get_context("forkserver")
# What `driver_jobs` imports. That module itself is not where the process that is forked looks for modules.
_PRELOADED = (
    *("pytest", "numba", "deltalake", "boto3", "cassandra.cluster", "pyspark.sql"),
    *("delorean.generation.day", "delorean.labels.materialise", "delorean.experiment.run"),
    *("snapshotter.capture.snapshot_job", "snapshotter.selection.context_selection"),
    *("snapshotter.index.cassandra", "snapshotter.index.sqlite", "snapshotter.storage.s3"),
)
_FORKING.set_forkserver_preload(list(_PRELOADED))
_DAEMON = "snapshotter.spark.worker_daemon"  # Spark's Python workers are forked by it
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # of Linux's unshare()


class Driver:
    """A running driver.

    disk: a folder that becomes a disk of `size` bytes, which this driver alone sees, where the kernel allows the mount
    """

    def __init__(self, environment: Mapping[str, str] | None = None, disk: Path | None = None, size: int = 0) -> None:
        self._connection, theirs = _FORKING.Pipe()
        self._process = _FORKING.Process(target=_drive, args=(theirs, dict(environment or {}), disk, size), daemon=True)
        self._process.start()
        theirs.close()  # the driver's death is the end of the connection
        self.disk = disk
        self.mounted: bool = self.next_event()["mounted"]

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def root(self) -> Path:
        """The root folder as the driver sees it, with its disk."""
        return Path(f"/proc/{self.pid}/root") if self.mounted else Path("/")

    def start(self, job: str, **arguments: Any) -> None:
        self._connection.send((job, arguments))

    def resume(self) -> None:
        """Resume a job that waits before it publishes."""
        self._connection.send(None)

    @property
    def reports(self) -> bool:
        """Whether there is an event."""
        return self._connection.poll()

    def next_event(self) -> dict[str, Any]:
        """Wait for the next event; {"event": "dead"} when no more can come."""
        assert self._connection.poll(PATIENCE), f"no event within {PATIENCE} s"
        try:
            event: dict[str, Any] = self._connection.recv()
        except (EOFError, ConnectionResetError):
            return {"event": "dead"}
        return event

    def run(self, job: str, **arguments: Any) -> Any:
        """Run a job that must succeed, and give its result."""
        self.start(job, **arguments)
        event = self.next_event()
        assert event["event"] == "done", event
        return event["result"]

    def workers(self) -> list[psutil.Process]:
        """Spark's Python workers."""
        return python_workers(self.pid)

    def pythons(self) -> list[psutil.Process]:
        """All its processes that write what the project writes: itself, Spark's workers and their parents."""
        return [psutil.Process(self.pid), *_daemons(self.pid), *self.workers()]

    def kill_workers(self) -> None:
        """End Spark's Python workers at once."""
        _kill(self.workers())

    def kill(self) -> None:
        """End it at once, with its JVM and its workers, as a machine that loses power does."""
        if self.alive:
            driver = psutil.Process(self.pid)
            _kill([driver, *driver.children(recursive=True)])
        self._process.join()


def stop_forking() -> None:
    """End the processes from which drivers are forked: else they live as long as this one."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # nothing public ends them
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, PATIENCE)


def python_workers(driver: int) -> list[psutil.Process]:
    """Spark's Python workers: forked by daemons that its JVM has started."""
    return [worker for daemon in _daemons(driver) for worker in _living(daemon.children)]


def _daemons(driver: int) -> list[psutil.Process]:
    """They have the command of those that they fork, but are the JVM's own children."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if _DAEMON in process.cmdline() and parent is not None and parent.name() == "java":
                found.append(process)
    return found


def _living(children: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [child for child in children() if child.status() != psutil.STATUS_ZOMBIE]
    return []


# What follows runs in the driver's own process.


def _drive(connection: Connection, environment: Mapping[str, str], disk: Path | None, size: int) -> None:
    """Run job after job, until the test closes the connection."""
    os.environ.update({**environment, "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "tests/support")))})
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    connection.send({"event": "ready", "mounted": disk is not None and _mount(disk, size)})
    assert sys.modules.keys() >= {*_PRELOADED}, "a module that is to be imported before is gone"
    import driver_jobs
    import increment_jobs

    jobs = driver_jobs.JOBS | increment_jobs.JOBS

    def hold() -> None:
        connection.send({"event": WRITTEN})
        connection.recv()

    with suppress(EOFError):
        while True:
            job, arguments = connection.recv()
            if "hold" in arguments:
                arguments["pause"] = hold
            try:
                result = jobs[job](**arguments)
            except Exception as error:  # noqa: BLE001  # the test sees it, whatever it is
                connection.send({"event": "failed", "error": f"{type(error).__name__}: {error}"})
            else:
                connection.send({"event": "done", "result": result})


def _mount(disk: Path, size: int) -> bool:
    """Mount a disk of so many bytes that only this process and its children see; False where the kernel refuses."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEW_MOUNTS | _NEW_USER) != 0:
        return False
    for name, value in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(value)
    mounted: int = libc.mount(b"none", os.fsencode(disk), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode())
    return mounted == 0

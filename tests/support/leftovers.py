"""Gives a test run one folder for all temporary files, deletes it, and reports processes that outlive the run.

Everything that tests start inherits the folder's name in `DELOREAN_TEST_RUN`: by it what is left is recognised.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest
import quick_jvm

MARK = "DELOREAN_TEST_RUN"
_PREFIX = "delorean-tests-"
_SECONDS_TO_END = 30.0  # a JVM ends some time after the process that had started it
_MANY_MEGABYTES = 200
_PLENTY_OF_MEMORY = 10 * 2**30  # bytes: several times what a run holds at a time, its processes' memory aside
_left = pytest.StashKey[list[str]]()
_passed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder, before workers start and inherit it."""
    if hasattr(config, "workerinput"):
        return
    parent = _fastest_place()
    delete_abandoned(parent)
    folder = parent / f"{_PREFIX}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o1777)  # as /tmp: tests of read-only files read, and copy, as another user
    os.environ[MARK] = os.environ["TMPDIR"] = os.environ["SPARK_LOCAL_DIRS"] = str(folder)
    os.environ["SPARK_SUBMIT_OPTS"] = f"{quick_jvm.OPTIONS}{quick_jvm.temporary_files_in(folder)}"
    os.environ["SPARK_LAUNCHER_OPTS"] = quick_jvm.LAUNCHER_OPTIONS
    tempfile.tempdir = None  # Python keeps the first that it has determined


def _fastest_place() -> Path:
    """Choose memory where there is plenty: tests sync thousands of small files, and would wait for a disk each time.

    TMPDIR wins. A folder in which nothing may be executed is of no use to the native libraries of JVMs.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not memory.is_dir() or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return Path(tempfile.gettempdir())
    free = min(shutil.disk_usage(memory).free, psutil.virtual_memory().available)
    return memory if free > _PLENTY_OF_MEMORY else Path(tempfile.gettempdir())


def delete_abandoned(parent: Path) -> None:
    """Delete folders of failed or killed runs: they are kept to be looked at until the next run begins."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def running() -> list[psutil.Process]:
    """Give this run's processes but for this one and those above it."""
    above = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in above and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if processes that it started are still running once its workers have ended; end them."""
    if hasattr(session.config, "workerinput"):
        return
    _, alive = psutil.wait_procs(running(), _SECONDS_TO_END)
    session.config.stash[_left] = [f"{process.pid}: {' '.join(process.cmdline())[:200]}" for process in alive]
    for process in alive:
        process.kill()
    if alive and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    session.config.stash[_passed] = session.exitstatus == pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report what is left."""
    for line in config.stash.get(_left, []):
        terminalreporter.write_line(f"LEFT RUNNING {line}", red=True)
    megabytes = sum(path.lstat().st_size for path in Path(os.environ[MARK]).rglob("*")) / 1e6
    if megabytes > _MANY_MEGABYTES:
        terminalreporter.write_line(f"the run's temporary folder holds {megabytes:,.0f} MB")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the folder, unless a test failed: its files may explain why."""
    if config.stash.get(_passed, False):
        shutil.rmtree(os.environ[MARK], ignore_errors=True)

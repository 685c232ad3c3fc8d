"""Distributes files of tests over workers: long files first, then those that share a server to one worker.

pytest-xdist gives each worker whole files, so that a file's fixtures are made once. This chooses which file comes next.
A long file that came late would run alone at the end, while the other workers have nothing left to do.

With `--under SECONDS`, tests that took longer when they last ran are left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_SECONDS = "delorean/seconds"  # key in pytest's cache: seconds of each test when it ran last
_SERVERS_OF_FILES = "servers_of_files.json"
# What starts slowly and then serves all tests of a worker: by the fixture, or the parameter that makes one request it.
_SERVERS = {
    "spark": "spark",
    "demo": "spark",
    "airflow": "airflow",
    "eureka": "eureka",
    "s3_started": "s3",
    "s3": "s3",
    "cassandra_keyspace": "cassandra",
    "cassandra": "cassandra",
}
_LONG_SECONDS = 40.0
# Long files, the longest first, for as long as no run has been recorded.
_LONGEST = (
    *("integration/test_faults.py", "cli/test_submit.py", "dags/test_dags.py", "dags/test_backfill.py"),
    *("test_telemetry.py", "test_readme.py", "test_cassandra_cluster.py", "demo/test_run.py"),
    *("behaviours/test_index.py", "test_resuming.py", "test_snapshot_job.py", "test_spark_submit.py"),
    *("experiment/test_run.py", "test_overload.py", "test_cells.py", "test_machine_code.py", "test_interpret.py"),
)


class Scheduling(LoadFileScheduling):
    """Gives a worker its next file."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.seconds: Counter[str] = Counter()  # of each file
        for test, seconds in _recorded(config).items():
            self.seconds[_file(test)] += seconds
        self.servers: dict[str, list[str]] = {}
        self.started: dict[Any, set[str]] = defaultdict(set)

    def schedule(self) -> None:
        """Distribute the files once every worker has collected them."""
        self.servers = json.loads(_servers_of_files().read_text())
        super().schedule()

    def _reschedule(self, node: Any) -> None:
        """Give a worker more work if it has little; never a file that a worker had finished before it crashed."""
        for file in [file for file, tests in self.workqueue.items() if all(tests.values())]:
            del self.workqueue[file]  # a worker that is sent no test never asks for the next file
        super()._reschedule(node)

    def _assign_work_unit(self, node: Any) -> None:
        file = max(
            self.workqueue, key=lambda name: (self._length_of_long(name), self._fit(node, name), self._seconds(name))
        )
        self.started[node].update(self.servers.get(file, ()))
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)

    def _fit(self, node: Any, file: str) -> int:
        """Rank a file for a worker: best where it uses servers that run there, worst where they run elsewhere only."""
        servers = set(self.servers.get(file, ()))
        if not servers:
            return 1
        if servers <= self.started[node]:
            return 3
        return 0 if servers & set().union(*self.started.values()) else 2

    def _length_of_long(self, file: str) -> float:
        """Return what orders long files; 0 for the others."""
        seconds = self._seconds(file)
        return seconds if seconds >= _LONG_SECONDS else 0.0

    def _seconds(self, file: str) -> float:
        """Return how long a file took when it ran last; if it has not, more for each of the longest, else little."""
        ranks = [rank for rank, name in enumerate(reversed(_LONGEST)) if file.endswith(f"/{name}")]
        return self.seconds.get(file, _LONG_SECONDS + ranks[0] if ranks else 1.0)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Replace xdist's own scheduler."""
    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--under", type=float, metavar="SECONDS", help="leave out tests that took longer when they last ran"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that take too long, and write down which servers the others use, by file."""
    if (most := config.getoption("under")) is not None:
        recorded = _recorded(config)
        long = [item for item in items if recorded.get(item.nodeid, 0.0) > most]
        config.hook.pytest_deselected(items=long)
        left_out = set(long)
        items[:] = [item for item in items if item not in left_out]
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        servers: dict[str, set[str]] = defaultdict(set)
        for item in items:
            servers[_file(item.nodeid)] |= {_SERVERS[name] for name in _requests(item) if name in _SERVERS}
        _servers_of_files().write_text(json.dumps({file: sorted(names) for file, names in servers.items()}))


def _requests(item: pytest.Item) -> list[str]:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [*getattr(item, "fixturenames", ()), *(value for value in parameters if isinstance(value, str))]


_durations: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of each test, setup and teardown included."""
    _durations[report.nodeid] += report.duration


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record the seconds of this run's tests for the next one."""
    config = session.config
    if hasattr(config, "cache") and config.pluginmanager.has_plugin("dsession"):
        config.cache.set(_SECONDS, {**_recorded(config), **_durations})


def _recorded(config: pytest.Config) -> dict[str, float]:
    return config.cache.get(_SECONDS, {}) if hasattr(config, "cache") else {}


def _servers_of_files() -> Path:
    return Path(os.environ["DELOREAN_TEST_RUN"]) / _SERVERS_OF_FILES


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]

"""Distributes files of tests over workers: the longest first, and those that share a Spark session to one worker.

pytest-xdist gives each worker whole files, so that a file's fixtures are made once. This chooses which file comes next.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_SECONDS = "delorean/seconds"  # key in pytest's cache: seconds of each file in the last run
_SESSION = "spark"  # the fixture whose session a worker's tests share
_LIST = "files_with_spark.json"
# The order while no run has been recorded: a core must not wait at the end while the other is at one of these.
_LONGEST = (
    *("test_telemetry.py", "test_snapshot_faults.py", "test_submit.py", "test_dags.py", "test_readme.py"),
    *("test_generation_faults.py", "test_backfill.py", "test_resuming.py", "test_spark_submit.py"),
    *("test_cassandra_cluster.py", "test_interpret.py", "test_run.py"),
)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist's class is Any where its types are not read
    """Gives a worker its next file.

    One worker has a Spark session from the start and takes the files that use it; another starts one only when nothing
    else is left to do.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.seconds: dict[str, float] = (config.cache and config.cache.get(_SECONDS, {})) or {}
        self.with_session: set[Any] = set()
        self.using_spark: set[str] = set()

    def schedule(self) -> None:
        """Distribute the files once every worker has collected them."""
        self.using_spark = set(json.loads(_list_of_files().read_text()))
        super().schedule()

    def _assign_work_unit(self, node: Any) -> None:
        prefers_spark = node in self.with_session or not self.with_session
        file = max(self.workqueue, key=lambda name: ((name in self.using_spark) == prefers_spark, self._rank(name)))
        if file in self.using_spark:
            self.with_session.add(node)
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)

    def _rank(self, file: str) -> tuple[float, int]:
        name = Path(file).name
        default = len(_LONGEST) - _LONGEST.index(name) if name in _LONGEST else 0
        return self.seconds.get(file, float("inf")), default


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Replace xdist's own scheduler."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell the scheduler, which sees only names, which files use the Spark session."""
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        using = {item.nodeid.partition("::")[0] for item in items if _SESSION in getattr(item, "fixturenames", ())}
        _list_of_files().write_text(json.dumps(sorted(using)))


_durations: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of each file, setup and teardown included."""
    _durations[report.nodeid.partition("::")[0]] += report.duration


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record the seconds of this run's files for the next one."""
    config = session.config
    if config.cache is not None and not hasattr(config, "workerinput") and config.pluginmanager.has_plugin("dsession"):
        config.cache.set(_SECONDS, {**config.cache.get(_SECONDS, {}), **_durations})


def _list_of_files() -> Path:
    return Path(os.environ["DELOREAN_TEST_RUN"]) / _LIST

"""A small company with a scheduled project, and Airflow in its own environment, which runs the DAGs."""

import json
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow_settings import AIRFLOW, ROOT, airflow_settings
from project_at_rest import START, Project
from scheduled_project import PROFILES, SHOWN_AT, ScheduledProject, videos, watched_videos, write_project
from small_company import Company

from delorean.project.config import load_project
from prana_proxy.server import start_proxy
from snapshotter.index import open_index
from snapshotter.storage import open_storage


@dataclass
class Airflow:
    """Airflow's process. log: what tasks log; parsed: what it says of the DAGs before it has a database."""

    process: subprocess.Popen[str]
    log: Path
    parsed: dict[str, Any] = field(default_factory=dict)

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-5000:]
        return json.loads(line)

    def send(self, *words: str) -> None:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def call(self, *words: str) -> Any:
        self.send(*words)
        return self.answer()

    def start(self, dag: str, at: datetime) -> None:
        self.send("run", dag, at.isoformat())

    def run(self, dag: str, at: datetime) -> dict:
        """Run a DAG for a moment, and give its state, its tasks' and what they logged."""
        before = len(self.log.read_text())
        self.start(dag, at)
        return {**self.answer(), "log": self.log.read_text()[before:]}

    def job(self, *words: str) -> psutil.Process | None:
        """Find the process of a command of `delorean`, if it runs."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if {"-m", "delorean", *words} <= set(child.cmdline()) and "-c" not in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        return None


@pytest.fixture(scope="session")
def company():
    company = Company()
    yield company
    company.close()


@pytest.fixture(scope="session")
def project(company, tmp_path_factory):
    folder = write_project(tmp_path_factory.mktemp("scheduled"), [SHOWN_AT, SHOWN_AT + timedelta(days=2)])
    with start_proxy(company.config()) as proxy:
        yield ScheduledProject(folder, proxy.address)


@pytest.fixture(scope="session")
def airflow(project, tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    log = home / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [AIRFLOW, ROOT / "tests/dags/airflow_process.py"],
            env=airflow_settings(home, project.folder / "delorean.toml"),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            running = Airflow(process, log)
            running.parsed = running.answer()
            yield running
        finally:
            process.kill()


@pytest.fixture
def past(tmp_path):
    """A project whose snapshots and labels are of the days from START on, with a spec that cannot be read."""
    folder = tmp_path / "past"
    folder.mkdir()
    write_project(folder, [START + timedelta(hours=hours) for hours in (6, 22.5, 23.5, 46, 70)])
    (folder / "specs/broken.toml").write_text("[labels]\nitmes = []\n")
    everyone = folder / "specs/everyone.toml"
    everyone.write_text(everyone.read_text().replace("fraction = 1.0", "fraction = 0.5"))
    project = ScheduledProject(folder)
    project.write("daily", 'services = ["history"]\nlate = "P36500D"')  # so that past days' contexts may grow
    file = load_project(folder / "delorean.toml")
    with open_index(file.index) as index:
        at_rest = Project(open_storage(file.storage), index)
        for day in range(3):
            captured = [((p,), 60 * 24 * day + p, videos(watched_videos(p, day))) for p in range(PROFILES)]
            at_rest.history(captured, f"day-{day}", buckets=2)
    return project

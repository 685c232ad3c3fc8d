"""A small company with a project on schedule, and Airflow in the environment of its own, which runs its DAGs."""

import json
import subprocess
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow_settings import AIRFLOW, ROOT, airflow_settings
from small_company import Company

from prana_proxy.server import start_proxy

PROFILES, VIDEOS = 60, 12
SHOWN_AT = datetime(2099, 1, 1, tzinfo=UTC)  # after any snapshot of these tests
FILES = {
    "specs/everyone.toml": """
        [tables]
        profiles = { path = "../profiles.parquet" }

        [experiments.everyone]
        query = "SELECT profile_id, country FROM profiles"
        key = ["profile_id", "country"]
        fraction = 1.0
        """,
    "specs/home.toml": """
        encoders = ["dag_encoders:watched"]

        [schedule]
        training = "daily"

        [tables]
        shown = { path = "../shown.parquet" }

        [labels]
        query = "SELECT *, time + INTERVAL 1 HOUR AS outcome_at FROM shown"
        items = ["video_id"]

        [split]
        by_time = false
        group = "profile_id"
        """,
    "dag_encoders.py": """
        from encoders import feature_encoder
        from schemas.data_keys import service_element

        HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

        @feature_encoder(data=[HISTORY], features=["watched"])
        def watched(context, items, data, out):
            for i in range(len(items.video_id)):
                out.watched[i] = float(len(data.history.video_id)) + items.video_id[i] / 100
        """,
}


@dataclass
class Scheduled:
    """The project. set: the one set of services on schedule, as the project file says it."""

    folder: Path
    proxy: str
    company: Company
    submit: str = 'master = "local[2]"'
    spark: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, fields: str) -> None:
        """Write the project file, with one set of services."""
        settings = "".join(f'"{key}" = "{value}"\n' for key, value in self.spark.items())
        (self.folder / "delorean.toml").write_text(
            f'proxies = ["{self.proxy}"]\nencoders = ["encoders.library", "dag_encoders"]\n\n'
            f'[schedule]\nspecs = "specs"\n\n[schedule.snapshots.{name}]\n{fields}\n\n[submit]\n{self.submit}\n\n'
            f'[spark]\n"spark.ui.enabled" = "false"\n{settings}'
        )


@dataclass
class Airflow:
    """Airflow's process. log: what tasks log."""

    process: subprocess.Popen[str]
    log: Path

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-5000:]
        return json.loads(line)

    def ask(self, *words: str) -> None:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def start(self, dag: str, at: datetime) -> None:
        self.ask("run", dag, at.isoformat())

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


@pytest.fixture(scope="module")
def company():
    company = Company()
    yield company
    company.close()


@pytest.fixture(scope="module")
def project(company, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scheduled")
    (folder / "specs").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    profiles = list(range(PROFILES))
    country = ["US" if profile % 3 else "BR" for profile in profiles]
    pq.write_table(pa.table({"profile_id": profiles, "country": country}), folder / "profiles.parquet")
    rows = [
        {"profile_id": p, "country": country[p], "time": at, "video_id": v, "label": float((p + v) % 4 == 0)}
        for p in profiles
        for v in range(VIDEOS)
        for at in (SHOWN_AT, SHOWN_AT + timedelta(days=2))
    ]
    types = [pa.int64(), pa.string(), pa.timestamp("us", "UTC"), pa.int64(), pa.float32()]
    schema = pa.schema(list(zip(rows[0], types, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "shown.parquet")
    with start_proxy(company.config()) as proxy:
        yield Scheduled(folder, proxy.address, company)


@pytest.fixture(scope="module")
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
            assert running.answer() == {"errors": {}}
            yield running
        finally:
            process.kill()

"""Runs Airflow on the demo company until Ctrl-C: `make airflow`, or `python -m delorean.demo.airflow`.

The company starts with a few days of history and then follows the machine's clock. Its services, its proxy and Airflow
are child processes; all of them stop with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from delorean.demo.company import open_company, start_services
from delorean.demo.folder import CompanyFolder, new_folder
from delorean.demo.processes import Processes, Running
from delorean.demo.run import small_session, stderr_into
from delorean.demo.simulation import SEED, generate_world
from delorean.demo.state import CompanyState
from delorean.demo.step_bars import StepBars
from delorean.demo.world import World
from schemas.errors import DeloreanError, SetupError
from snapshotter.index import open_index
from snapshotter.spark.session import require_java
from snapshotter.storage import open_storage

_REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAMS = _REPOSITORY / ".venv-airflow" / "bin"
_TICK_SECONDS = 5.0
_PATIENCE_SECONDS = 300.0
_GRACE_SECONDS = 15.0
# Two of Airflow's commands in one process: it takes seconds to import.
_SET_UP = """
import sys
from airflow.cli.cli_parser import get_parser
for words in (["db", "migrate"], ["pools", "import", sys.argv[1]]):
    arguments = get_parser().parse_args(words)
    arguments.func(arguments)
"""
_STEPS = {
    "world": "make the world",
    "publish": "publish video metadata",
    "select": "select contexts",
    "snapshot": "capture snapshots",
    "airflow": "start Airflow",
}
_PROJECT = """\
# The company's project, as Airflow's DAGs use it.
proxies = ["{proxy}"]

[schedule.snapshots.daily]
floor = 0.9
late = "PT6H"

[schedule.globals]
videos = "videos.parquet"

[submit]
master = "local[2]"

[spark]
"spark.ui.enabled" = "false"
"spark.driver.memory" = "768m"
"spark.sql.shuffle.partitions" = "2"
"""


@dataclass(frozen=True)
class RunningAirflow:
    """A running Airflow. password: of the user admin."""

    process: Running
    url: str
    password: str


def run_airflow(output_dir: Path, days: int = 3, port: int = 0) -> None:
    """Simulate some days of the company, then run Airflow on it until interrupted.

    days: simulated days before today
    port: of Airflow's web page; 0 picks a free one

    Raises errors of DeloreanError's tree.
    """
    require_java()
    if not (_PROGRAMS / "airflow").exists():
        raise SetupError.because(f"Airflow is not in {_PROGRAMS}", "run make airflow")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with ExitStack() as running:
        with StepBars(_STEPS) as steps:
            with steps.step("world"):
                world = generate_world(SEED, days + 2, 240, 400, today - timedelta(days=days))
                folder = CompanyFolder(new_folder(output_dir, f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"))
                folder.prepare(world)
            processes = running.enter_context(Processes(folder.root / "logs"))
            _catch_up(world, folder, processes, days, steps)
            with steps.step("airflow"):
                home, project = folder.root / "airflow", folder.root / "delorean.toml"
                started = running.enter_context(started_airflow(home, project, processes, port))
        sys.stdout.write(f"\nAirflow: {started.url}   user: admin   password: {started.password}\n")
        sys.stdout.write(f"Project: {folder.root}\nCtrl-C stops everything.\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            while started.process.process.poll() is None:
                folder.clock.set(datetime.now(UTC))
                time.sleep(_TICK_SECONDS)


def _catch_up(world: World, folder: CompanyFolder, processes: Processes, days: int, steps: StepBars) -> None:
    """Simulate the days before today and write the project that the DAGs use."""
    services = start_services(folder, processes)
    company = open_company(world, folder, services, processes)
    with stderr_into(folder.root / "logs" / "spark.log"):
        spark = small_session(folder)
    try:
        with open_index(folder.index_uri) as index:
            company.live(days, spark, open_storage(folder.storage_uri), index, steps)
    finally:
        spark.stop()
    now = datetime.now(UTC)
    folder.clock.set(now)
    pq.write_table(CompanyState(world).catalogue(now), folder.root / "videos.parquet")
    (folder.root / "delorean.toml").write_text(_PROJECT.format(proxy=company.proxy))


def airflow_settings(home: Path, project: Path, port: int) -> dict[str, str]:
    """Build the environment variables that configure Airflow.

    project: the delorean.toml that its DAGs use
    """
    url = f"http://127.0.0.1:{port}"
    return {
        "PATH": f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
        "AIRFLOW__CORE__DAGS_FOLDER": str(_REPOSITORY / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DELOREAN__COMMAND": f"{sys.executable} -m delorean",
        "AIRFLOW__DELOREAN__PROJECT": str(project),
        "AIRFLOW__DELOREAN__RETRY_SECONDS": "10",
    }


@contextmanager
def started_airflow(
    home: Path, project: Path, processes: Processes, port: int = 0, **settings: str
) -> Iterator[RunningAirflow]:
    """Start Airflow, and stop all its processes at the end, also those that left its process group.

    settings: environment variables in addition to `airflow_settings`

    Raises SetupError when it does not become healthy.
    """
    settings = {**airflow_settings(home, project, port or _free_port()), **settings}
    password = secrets.token_urlsafe(12)
    home.mkdir()
    passwords = home / "passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({"admin": password}))
    with (home / "setup.log").open("wb") as log:
        done = subprocess.run(  # noqa: S603  # Airflow's own commands
            [_PROGRAMS / "python", "-c", _SET_UP, _REPOSITORY / "dags" / "pools.json"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            check=False,
        )
        if done.returncode != 0:
            raise SetupError.because(f"the setup of Airflow ended with {done.returncode}", f"see {log.name}")
    running = processes.start("airflow", ["standalone"], str(_PROGRAMS / "airflow"), **settings)
    started = RunningAirflow(running, settings["AIRFLOW__API__BASE_URL"], password)
    try:
        _wait_for_health(started)
        yield started
    finally:
        family = descendants(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            running.process.wait(_GRACE_SECONDS)
        for process in [*family, *(descendants(running.process.pid))]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _wait_for_health(started: RunningAirflow) -> None:
    """Wait until every component of Airflow is healthy. Raises SetupError."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if started.process.process.poll() is not None:
            raise SetupError.because(f"Airflow ended: {started.process.log_tail()}")
        with suppress(OSError, ValueError):
            with urllib.request.urlopen(f"{started.url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
                health: Mapping[str, Mapping[str, str]] = json.load(answer)
            components = ("metadatabase", "scheduler", "triggerer", "dag_processor")
            if all(health[component]["status"] == "healthy" for component in components):
                return
        time.sleep(0.5)
    raise SetupError.because(f"Airflow is not healthy after {_PATIENCE_SECONDS:.0f} s: {started.process.log_tail()}")


def descendants(process: int) -> list[int]:
    """List the process ids of all descendants of a process; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    pids, generation = [], [process]
    while generation:
        generation = [child for parent in generation for child in children.get(parent, ())]
        pids += generation
    return pids


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run Airflow with the demo company.")
    parser.add_argument("--output", type=Path, default=Path(".demo/airflow"), help="folder, default .demo/airflow")
    parser.add_argument("--days", type=int, default=3, help="simulated days before today, default 3")
    parser.add_argument(
        "--port", type=int, default=8080, help="port of Airflow's web page, default 8080; 0 picks a free one"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_airflow(options.output, options.days, options.port)
    except DeloreanError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

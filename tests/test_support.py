"""What a test run promises: it leaves nothing, knows which tests start programs, and starts each server once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import killed_writer
import leftovers
import programs
import psutil
import pytest
import scheduling
import virtual_time

SUPPORT = Path(__file__).resolve().parent / "support"
LEAVES_A_PROCESS = """
import subprocess, sys, tempfile
from pathlib import Path
import leftovers

leftovers._SECONDS_TO_END = 1.0

def test_it(tmp_path):
    (tmp_path / "file").write_text("text")
    Path(tempfile.mkdtemp(), "file").write_text("text")
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep({seconds})"])
"""


def run_tests(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests with the plugin, temporary files in a folder of their own."""
    (folder / "test_it.py").write_text(text)
    (folder / "temporary").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "leftovers", "-p", "no:cacheprovider", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "TMPDIR": str(folder / "temporary")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_passing_run_leaves_no_files(tmp_path: Path) -> None:
    done = run_tests(tmp_path, LEAVES_A_PROCESS.format(seconds=0))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_process_that_outlives_the_run_fails_it_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_tests(tmp_path, LEAVES_A_PROCESS.format(seconds=300))
    assert done.returncode == 1, done.stdout + done.stderr
    [left] = [line for line in done.stdout.splitlines() if line.startswith("LEFT RUNNING ")]
    assert "time.sleep(300)" in left
    [folder] = (tmp_path / "temporary").iterdir()
    monkeypatch.setenv(leftovers.MARK, str(folder))
    assert leftovers.running() == []


def test_a_run_deletes_what_a_run_that_is_gone_has_left(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    here, old = tmp_path / f"delorean-tests-{os.getpid()}", tmp_path / f"delorean-tests-{gone.pid}"
    here.mkdir()
    old.mkdir()
    leftovers.delete_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


def starts_one_by_a_helper_of_another_module() -> None:
    killed_writer.kill_a_writer("uri", 1)


def starts_one_in_an_inner_function() -> Any:
    return lambda: run_tests(Path(), "")


def starts_none() -> None:
    virtual_time.VirtualLoop().close()


def test_a_test_starts_a_program_if_what_it_calls_does() -> None:
    assert programs.starts(starts_one_by_a_helper_of_another_module)
    assert programs.starts(starts_one_in_an_inner_function)
    assert not programs.starts(starts_none)


def test_a_worker_takes_files_of_its_servers_first_then_of_servers_that_run_nowhere() -> None:
    one, other = object(), object()
    plan: Any = SimpleNamespace(servers={"a": ["spark"], "b": ["spark"], "c": ["s3"], "d": []}, started={})
    plan.started = {one: {"spark"}, other: set()}
    ranks = {node: [scheduling.Scheduling._fit(plan, node, file) for file in "bcd"] for node in (one, other)}
    assert ranks == {one: [3, 2, 1], other: [0, 2, 1]}


def test_a_long_file_comes_before_those_that_fit_better() -> None:
    plan: Any = SimpleNamespace(seconds={"tests/short.py": 39.0, "tests/long.py": 41.0, "tests/longer.py": 42.0})
    plan._seconds = lambda file: scheduling.Scheduling._seconds(plan, file)
    files = ["tests/short.py", "tests/longer.py", "tests/long.py", "tests/new.py", "tests/dags/test_dags.py"]
    lengths = {file: scheduling.Scheduling._length_of_long(plan, file) for file in files}
    assert lengths["tests/short.py"] == lengths["tests/new.py"] == 0
    assert 0 < lengths["tests/long.py"] < lengths["tests/longer.py"]
    assert lengths["tests/dags/test_dags.py"] > 40  # never recorded, and known to be long


def test_tests_that_took_longer_than_asked_for_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ndef test_slow(): time.sleep(0.2)\ndef test_quick(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "leftovers", "-p", "scheduling"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "TMPDIR": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)

    def ran(*options: str) -> str:
        done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 passed" in ran("--under", "0.1")  # nothing is known of them yet
    assert "1 passed" in ran("--under", "0.1")
    assert "2 passed" in ran()


SHARED = """
import os
from contextlib import contextmanager

@contextmanager
def served(folder):
    try:
        yield os.getpid()
    finally:
        (folder / "ended").touch()
"""
USES_IT = """
import time, pytest
from shared_server import shared_server

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with shared_server("little_server:served", tmp_path_factory) as pid:
        yield pid

def test_it(server, worker_id):
    with open({report!r}, "a") as file:
        file.write(f"{{worker_id}} {{server}}\\n")
    time.sleep(0.5)  # so that the other worker gets a file too
"""


def test_workers_share_a_server_that_ends_with_the_last_of_them(tmp_path: Path) -> None:
    (tmp_path / "little_server.py").write_text(SHARED)
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(USES_IT.format(report=str(tmp_path / "report")))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "leftovers", "--dist", "loadfile"]
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}:{tmp_path}", "TMPDIR": str(tmp_path)}
    command += ["--basetemp", str(tmp_path / "base")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    used = [line.split() for line in (tmp_path / "report").read_text().splitlines()]
    assert len({worker for worker, _ in used}) == 2
    assert len({pid for _, pid in used}) == 1
    assert not psutil.pid_exists(int(used[0][1]))
    assert (tmp_path / "base/little_server/server/ended").exists()


def test_a_run_in_which_a_worker_crashes_ends(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text("def test_it(): pass\n")
    (tmp_path / "test_it.py").write_text("import os, time\ndef test_crash(): time.sleep(0.3); os.abort()\n")
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text("import time\ndef test_it(): time.sleep(0.1)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "leftovers", "-p", "scheduling"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "TMPDIR": str(tmp_path)}
    command += ["--max-worker-restart", "2", "-p", "no:faulthandler"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed while running 'test_it.py::test_crash'" in done.stdout
    assert "5 passed" in done.stdout

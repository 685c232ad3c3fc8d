"""Whatever the demo starts ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from delorean.demo.processes import Processes
from schemas.errors import SetupError

PORT = r"port (\d+)"

# A module to run: opens a port, says so, starts a child of its own, and goes on for a minute.
STUBBORN = """
import signal, socket, subprocess, sys, time
for name in [n for n in sys.argv[1:] if n.startswith("SIG")]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1800)"])
with socket.create_server(("127.0.0.1", 0)) as server:
    print("child", child.pid)
    print("port", server.getsockname()[1], flush=True)
    time.sleep(1800)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stubborn_service.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stubborn_service"


def _child(log: Path) -> int:
    return next(int(line[6:]) for line in log.read_text().splitlines() if line.startswith("child "))


def _ends(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("ignored", ["", "SIGTERM"])
def test_everything_is_stopped_at_the_end_even_what_will_not_listen(module: str, ignored: str, tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        running = processes.start("stubborn", ["-m", module, ignored])
        running.wait_for(PORT)
        child = _child(running.log)
    assert running.process.poll() is not None
    assert _ends(lambda: _gone(child))


def test_an_error_inside_stops_everything_too(module: str, tmp_path: Path) -> None:
    try:
        with Processes(tmp_path / "logs") as processes:
            running = processes.start("stubborn", ["-m", module])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert running.process.poll() is not None


def test_a_killed_demo_takes_its_processes_with_it(module: str, tmp_path: Path) -> None:
    if sys.platform != "linux":
        return  # only Linux's kernel can be asked for this
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom delorean.demo.processes import Processes\n"
        f"with Processes(Path({str(tmp_path / 'logs')!r})) as processes:\n"
        f"    running = processes.start('stubborn', ['-m', {module!r}])\n"
        f"    running.wait_for({PORT!r})\n    print(running.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        demo.send_signal(signal.SIGKILL)
    try:
        assert _ends(lambda: _gone(pid))
    finally:
        os.kill(_child(tmp_path / "logs" / "stubborn.log"), signal.SIGKILL)  # the module's own, which it left behind


def test_a_process_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        running = processes.start("nobody", ["-m", "delorean.demo.no_such_module"])
        with pytest.raises(SetupError, match=r"nobody ended with 1: .*no_such_module"):
            running.wait_for(PORT)


def test_waiting_has_an_end(tmp_path: Path, module: str) -> None:
    with Processes(tmp_path / "logs") as processes:
        running = processes.start("stubborn", ["-m", module])
        running.wait_for(PORT)
        with pytest.raises(SetupError, match="stubborn did not print 'never .said.' in time"):
            running.wait_for("never (said)", patience_seconds=0.2)


SLOW = """
import signal, sys, time
def finish(*_):
    time.sleep(0.5)
    print("finished", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("port 1", flush=True)
time.sleep(60)
"""


def test_one_process_is_stopped_alone_and_finishes_its_work_first(tmp_path: Path, module: str) -> None:
    (tmp_path / "slow_service.py").write_text(SLOW)
    with Processes(tmp_path / "logs") as processes:
        other = processes.start("other", ["-m", module])
        slow = processes.start("slow", ["-m", "slow_service"])
        for running in (other, slow):
            running.wait_for(PORT)
        processes.stop(slow)
        assert slow.log.read_text().endswith("finished\n")
        assert slow.process.poll() == 0
        assert other.process.poll() is None

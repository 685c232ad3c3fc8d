"""Nothing that DeLorean runs speaks to anybody whom the user did not name."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from airflow_settings import AIRFLOW
from network_recorder import Recording, may_isolate, record

from delorean.telemetry import SWITCHES
from encoders.compilation.code_cache import default_cache_folder

ROOT = Path(__file__).resolve().parents[1]
ISOLATED = may_isolate()
# What may appear in a home folder: compiled code, fonts, Delta's jar, Java's preferences.
HOME = {".cache/delorean", ".cache/matplotlib", ".config/matplotlib", ".ivy2", ".ivy2.5.2", ".java"}

DEMO = """
import sys, time
from pathlib import Path
from delorean.demo.run import Size, run_demo
run_demo(Path(sys.argv[1]), days=3, size=Size(profiles=120, videos=200, requests=20))
time.sleep(10)  # onnxruntime looks its maker up 9 s after a session began; that of training lives in this process
"""
# Without the switch, MLflow's client looks up the host of its maker within a second.
TRACK = """
import sys, time
import delorean
from mlflow import MlflowClient
client = MlflowClient("sqlite:///" + sys.argv[1])
run = client.create_run(client.create_experiment("homepage", sys.argv[1] + ".files")).info.run_id
client.log_dict(run, {}, "report.json")
client.set_terminated(run)
time.sleep(5)
"""
REACH_OUT = """
import socket
for ask in (
    lambda: socket.getaddrinfo("somebody.example", 443),
    lambda: socket.create_connection(("198.51.100.7", 443), 0.2),
    lambda: socket.create_connection(("127.0.0.1", 9), 0.2),
):
    try:
        ask()
    except OSError:
        pass
"""
# Reports connections and look-ups of Python code: weaker than packets, for libraries in C escape it.
HOOK = """
import sys
def note(event, arguments):
    if event == "socket.getaddrinfo":
        target = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        target = arguments[1][0]
    else:
        return
    text = target.decode() if isinstance(target, bytes) else str(target)
    if text.startswith("127.") or text in ({names}):
        return
    with open({report!r}, "a") as file:
        file.write(f"{{event}} {{text}}\\n")
sys.addaudithook(note)
"""


def record_python(command: Sequence[str], environment: Mapping[str, str], timeout: float = 600) -> Recording:
    """Record what Python code looks up and connects to, where the kernel refuses namespaces."""
    folder = Path(environment["HOME"]).parent / "hook"
    folder.mkdir()
    report = folder / "calls.txt"
    names = ", ".join(map(repr, ("localhost", "::1", "None", "", "0.0.0.0", "::", socket.gethostname())))
    (folder / "sitecustomize.py").write_text(HOOK.format(names=names, report=str(report)))
    path = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout
    )
    seen = sorted(set(report.read_text().splitlines())) if report.exists() else []
    return Recording(done.returncode, done.stdout, done.stderr, tuple(seen))


RECORDERS: dict[str, Callable[..., Recording]] = {"python": record_python, **({"packets": record} if ISOLATED else {})}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A fresh home folder, and no switch that this process has set already."""
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return {**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT)}


def in_home(environment: Mapping[str, str]) -> set[str]:
    home = Path(environment["HOME"])
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return {"/".join(path.parts[: 2 if path.parts[0] in (".cache", ".config") else 1]) for path in files}


@pytest.mark.parametrize("how", sorted(RECORDERS))
def test_the_recorder_sees_look_ups_and_connections(how: str, environment: dict[str, str]) -> None:
    recording = RECORDERS[how]([sys.executable, "-c", REACH_OUT], environment)
    assert recording.exit_code == 0, recording.errors
    text = "\n".join(recording.packets)
    assert "somebody.example" in text
    assert "198.51.100.7" in text
    assert "port 9" not in text
    assert "127.0.0.1" not in text


def test_demo_generate_and_serve_contact_nobody(
    environment: dict[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    how = "packets" if ISOLATED else "python"
    compiled = default_cache_folder()
    if compiled is not None:  # or most of the time goes into compiling
        shutil.copytree(compiled, Path(environment["HOME"], ".cache/delorean/encoders"))
    recording = RECORDERS[how]([sys.executable, "-c", DEMO, str(tmp_path / "demo")], environment)
    assert recording.exit_code == 0, recording.errors
    assert recording.packets == ()
    assert in_home(environment) <= HOME
    checked = "all packets" if ISOLATED else "Python's sockets alone: the kernel refuses namespaces"
    record_property("cell", ("who is contacted", "demo, generate, serve", checked, "nobody"))


def test_tracking_contacts_nobody_but_its_server(environment: dict[str, str], tmp_path: Path) -> None:
    asks = {name: value for name, value in environment.items() if name != "CI"}  # there MLflow is silent anyway
    recording = RECORDERS["packets" if ISOLATED else "python"](
        [sys.executable, "-c", TRACK, str(tmp_path / "runs.db")], asks
    )
    assert recording.exit_code == 0, recording.errors
    assert recording.packets == ()
    assert in_home(environment) <= HOME


def test_airflow_contacts_nobody(environment: dict[str, str], tmp_path: Path) -> None:
    settings = {
        **environment,
        "PYTHONPATH": "",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    }
    recording = RECORDERS["packets" if ISOLATED else "python"](
        [str(AIRFLOW), "-m", "airflow", "db", "migrate"], settings
    )
    assert recording.exit_code == 0, recording.errors
    assert recording.packets == ()
    assert in_home(environment) <= HOME


@pytest.mark.parametrize(
    "imports",
    [
        "import delorean",
        "import delorean.cli",
        "import delorean.serving",
        "import delorean.scoring.onnx_scorer",
        "from delorean.packaging.package import load_package",
    ],
)
def test_whatever_is_imported_first_switches_reports_off_before_onnxruntime(
    imports: str, environment: dict[str, str]
) -> None:
    code = f"{imports}\nimport json, os, onnxruntime\nprint(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout).items() >= SWITCHES.items()
    assert in_home(environment) == set()


def test_images_have_the_switches_and_jupyter_asks_for_no_news() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    runtime = dockerfile.split("AS runtime\n")[1].split("\nFROM")[0]
    for name, value in SWITCHES.items():
        assert f"{name}={value}" in runtime
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    started = re.findall(r"^\t.*jupyter lab .*$", makefile, flags=re.MULTILINE)
    assert started
    for line in started:
        assert "NeverCheckForUpdate" in line
        assert "--LabApp.news_url=None" in line

"""What `make airflow` starts listens on this machine only, and leaves no process behind."""

import subprocess
import sys
from pathlib import Path

import psutil

from delorean.demo.airflow import airflow_settings, descendants

FAMILY = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "print('ready', flush=True); input()"], start_new_session=True).wait()
"""


def test_descendants_are_found_in_whatever_group_they_are():
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        [child] = psutil.Process(parent.pid).children()
        assert descendants(parent.pid) == [child.pid]
        parent.communicate(b"\n")
    assert descendants(parent.pid) == []


def test_airflow_listens_to_this_machine_alone_and_reads_the_projects_dags():
    reported = airflow_settings(Path("/home"), Path("/company/delorean.toml"), 8080)
    assert reported["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert reported["AIRFLOW__DELOREAN__PROJECT"] == "/company/delorean.toml"
    assert reported["PATH"].partition(":")[0].endswith(".venv-airflow/bin")
    assert (Path(reported["AIRFLOW__CORE__DAGS_FOLDER"]) / "features.py").exists()

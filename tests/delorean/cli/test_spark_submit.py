"""Commands run by spark-submit, which has made the JVM ready before Python starts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import delorean
from delorean.cli.commands import cli

MAIN = Path(delorean.__file__).parent / "__main__.py"
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


@pytest.fixture
def own_project(folder, tmp_path):
    """A copy of the project that nothing has been done in yet, with a setting for Spark that its query uses."""
    project = tmp_path / "project"
    shutil.copytree(folder, project, ignore=shutil.ignore_patterns("data", "packages", "logs"))
    with (project / "delorean.toml").open("a") as file:
        file.write('\n[spark]\n"spark.countries" = "BR"\n')
    spec = project / "experiments.toml"
    spec.write_text(spec.read_text().replace("FROM profiles", "FROM profiles WHERE country = '${spark.countries}'"))
    return project


def submit(project, *arguments):
    command = [SPARK_SUBMIT, "--master", "local[2]", MAIN, *arguments, "--config", project / "delorean.toml", "--json"]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    # The folder is not the project's: relative paths in its files must not start here.
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # spark-submit joins stderr and stdout of a program


def in_process(project, *arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(project / "delorean.toml"), "--json"])
    assert done.exit_code == 0, done.output


def test_select_and_generate_run_under_spark_submit(own_project, spark):
    assert submit(own_project, "select", own_project / "experiments.toml", "--date", "2026-01-05")["contexts"] == 40
    in_process(own_project, "snapshot", "--date", "2026-01-05")
    films = own_project / "films.parquet"
    in_process(own_project, "publish", "films", films, "--valid-from", "2026-01-05T00:00:00Z", "--version-id", "v1")
    made = submit(own_project, "generate", own_project / "home.toml")
    assert (made["contexts"], made["rows_without"]) == (120, {"films": 0, "history": 80})

"""Steps of the work on a real cluster, whose executors have nothing but an archive and a bare Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from spark_cluster import python_of_executors, spark_cluster

from delorean.cli.commands import cli

ROOT = Path(__file__).resolve().parents[3]
DAY = "2026-01-05"


@pytest.fixture(scope="module")
def environment():
    """The archive that `make package` makes."""
    made = subprocess.run([sys.executable, ".ci/package.py"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / made.stdout.partition(":")[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def project(folder, environment, cluster, tmp_path_factory):
    """A copy of the project that nothing has been done in yet, with a cluster to submit to."""
    project = tmp_path_factory.mktemp("submitted") / "project"
    shutil.copytree(folder, project, ignore=shutil.ignore_patterns("data", "packages", "logs"))
    with (project / "delorean.toml").open("a") as file:
        file.write(
            f'\n[submit]\nmaster = "{cluster.master}"\nenvironment = "{environment}"\n\n[spark]\n'
            f'"spark.executorEnv.DELOREAN_PYTHON" = "{python_of_executors()}"\n"spark.executor.memory" = "768m"\n'
            '"spark.ui.enabled" = "false"\n"spark.hadoop.fs.s3a.secret.key" = "hush"\n'
        )
    return project


def submit(project, *arguments, code=0):
    command = [sys.executable, "-m", "delorean", "submit", "--config", project / "delorean.toml", *arguments]
    done = subprocess.run([*map(str, command), "--json"], cwd="/", env=os.environ, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout[-3000:], done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else done.stderr


def in_process(project, *arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(project / "delorean.toml"), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_whole_chain_runs_on_a_cluster_and_gives_what_one_process_gives(project):
    assert submit(project, "select", project / "experiments.toml", "--date", DAY)["contexts"] == 120
    [history] = submit(project, "snapshot", "--date", DAY)["services"]
    assert (history["asked"], history["confidence"]) == (120, 1.0)
    films = project / "films.parquet"
    in_process(project, "publish", "films", films, "--valid-from", "2026-01-05T00:00:00Z", "--version-id", "v1")
    made = submit(project, "generate", project / "home.toml", "--run-id", DAY)
    assert (made["contexts"], made["rows_without"]) == (120, {"films": 0, "history": 0})
    assert in_process(project, "experiment", "replay", made["run"], "--cores", "0")["identical"] is True
    trained = submit(project, "experiment", "run", project / "home.toml")
    assert trained["test"]["model"]["ndcg@10"] > trained["test"]["shuffled"]["ndcg@10"]
    assert submit(project, "vacuum", "--dry-run")["removed"] == []

"""Steps of the work on a real cluster, whose executors have nothing but an archive and a bare Python."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
from click.testing import CliRunner
from spark_cluster import environment_archive, python_of_executors, spark_cluster

from delorean.cli.commands import cli
from schemas.errors import ConfigError
from snapshotter.cluster import check_environment

DAY = "2026-01-05"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def environment():
    return environment_archive()


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


def submit_text(project, *arguments, code=0):
    command = [sys.executable, "-m", "delorean", "submit", *arguments]
    done = subprocess.run([*map(str, command)], cwd=project, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


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
    assert submit(project, "generate", project / "home.toml", "--run-id", DAY) == made


def test_a_dry_run_shows_the_command_without_secrets(project, cluster):
    shown = submit_text(project, "--dry-run", "generate", "home.toml", "--run-id", DAY)
    for part in (f"--master {cluster.master}", "#environment", "--py-files", f"generate home.toml --run-id {DAY}"):
        assert part in shown
    assert "spark.hadoop.fs.s3a.secret.key=…" in shown
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((r"spark://[\d.:]+", "spark://127.0.0.1:1"), "no Spark master answers at spark://127.0.0.1:1"),
        ((r"environment\.tar\.gz", "environment.tgz"), "environment .*environment.tgz is not there → run make package"),
    ],
)
def test_a_cluster_or_an_archive_that_is_not_there_is_one_clear_line(project, change, message):
    other = project / "other.toml"
    text = (project / "delorean.toml").read_text()
    other.write_text(re.sub(*change, text))
    told = submit_text(project, "--config", other, "vacuum", code=2)
    assert re.search(message, told)
    assert told.count("\n") == 1


def test_an_archive_of_another_python_or_with_other_packages_is_refused(tmp_path):
    for listed, message in (
        ({"python": "3.9", "packages": {}}, "is for Python 3.9, this is Python 3.1"),
        ({"python": HERE, "packages": {"numpy": "1.0"}}, "has other packages than the driver: numpy 1.0, here 2"),
        ({"python": HERE}, "is no archive that begins with environment.json"),
    ):
        archive = tmp_path / "environment.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            content = json.dumps(listed).encode()
            member = tarfile.TarInfo("environment.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        with pytest.raises(ConfigError, match=message):
            check_environment(archive)

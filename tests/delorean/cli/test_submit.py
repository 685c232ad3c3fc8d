"""Steps of the work on a real cluster, whose executors have only an archive and a bare Python."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from itertools import islice

import pytest
from cells import run_cells
from click.testing import CliRunner
from spark_cluster import ROOT, SETTINGS, python_of_executors, spark_cluster

from delorean.cli.commands import cli
from schemas.errors import ConfigError
from snapshotter.spark.cluster import NEEDED, check_environment

DAY = "2026-01-05"
KINDS = ("ApplicationStart", "ExecutorAdded", "JobStart")
PACKAGES = {name: version(name) for name in NEEDED}
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with spark_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def project(folder, environment, cluster, tmp_path_factory, spark):
    """A fresh copy of the project, with a cluster to submit to; commands run in process share the tests' session."""
    project = tmp_path_factory.mktemp("submitted") / "project"
    shutil.copytree(folder, project, ignore=shutil.ignore_patterns("data", "packages", "logs"))
    (project.parent / "events").mkdir()
    settings = {
        **SETTINGS,
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": (project.parent / "events").as_uri(),
        "spark.executorEnv.DELOREAN_PYTHON": python_of_executors(),
        "spark.hadoop.fs.s3a.secret.key": "hush",
    }
    with (project / "delorean.toml").open("a") as file:
        file.write(f'\n[submit]\nmaster = "{cluster.master}"\nenvironment = "{environment}"\n\n[spark]\n')
        file.writelines(f'"{name}" = "{value}"\n' for name, value in settings.items())
    text = (project / "delorean.toml").read_text()
    (project / "one.toml").write_text(text + '"spark.cores.max" = "1"\n')
    spec = (project / "home.toml").read_text()
    (project / "home.toml").write_text(spec.replace("[labels]", "[labels]\nbuckets = 4"))
    return project


def submit(project, *arguments, config="delorean.toml", code=0):
    command = [sys.executable, "-m", "delorean", "submit", "--config", project / config, *arguments]
    done = subprocess.run([*map(str, command), "--json"], cwd="/", env=os.environ, capture_output=True, text=True)
    assert done.returncode == code, (done.stdout[-3000:], done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else done.stdout + done.stderr


def submit_nothing(*arguments, code=0):
    """Run a submission that starts no job, and give what it prints."""
    done = CliRunner().invoke(cli, ["submit", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def in_process(project, *arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(project / "delorean.toml"), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def feature_files(project):
    """The bytes of all files of features, by bucket."""
    files = (project / "data/feature_sets/home").glob("*/*.parquet")
    return {file: (file.name.split("-")[0], file.read_bytes()) for file in files}


def seen_by_spark(project):
    """Name, number of executors and descriptions of jobs of each application, in order, from Spark's event log."""
    seen = []
    for log in sorted((project.parent / "events").iterdir(), key=lambda path: path.name):
        events = [json.loads(line) for file in log.glob("events_*") for line in file.read_text().splitlines()]
        of = {kind: [event for event in events if event["Event"] == f"SparkListener{kind}"] for kind in KINDS}
        [name] = {event["App Name"] for event in of["ApplicationStart"]}
        jobs = [event["Properties"].get("spark.job.description") for event in of["JobStart"]]
        seen.append((name, len(of["ExecutorAdded"]), list(dict.fromkeys(jobs))))
    return seen


def test_the_whole_chain_runs_on_a_cluster_and_gives_what_one_machine_gives(project):
    assert submit(project, "select", project / "experiments.toml", "--date", DAY)["contexts"] == 120
    [history] = submit(project, "snapshot", "--date", DAY, "--buckets", 4, "--run-id", "r1")["services"]
    assert (history["asked"], history["confidence"]) == (120, 1.0)
    films = project / "films.parquet"
    in_process(project, "publish", "films", films, "--valid-from", "2026-01-05T00:00:00Z", "--version-id", "v1")
    made = submit(project, "generate", project / "home.toml", "--run-id", DAY)
    assert (made["contexts"], made["rows_without"]) == (120, {"films": 0, "history": 0})
    assert in_process(project, "experiment", "replay", made["run"], "--cores", "0")["identical"] is True
    assert in_process(project, "generate", project / "home.toml", "--run-id", DAY) == made

    on_cluster = feature_files(project)
    in_process(project, "generate", project / "home.toml", "--run-id", "here")
    here = {file: found for file, found in feature_files(project).items() if file not in on_cluster}
    assert len(here) == 4
    assert sorted(here.values()) == sorted(on_cluster.values())

    selected = [f"select contexts of {DAY}: {what}" for what in ("experiment 'everyone'", "write those of everyone")]
    made = ["look at the labels' tables", "materialise labels: query", "materialise labels: 4 buckets"]
    made.append("generate features: 4 buckets")
    assert [one for one in seen_by_spark(project) if one[0].startswith("delorean ")] == [
        ("delorean select", 2, selected),
        ("delorean snapshot", 2, ["snapshot 'r1': capture history"]),
        ("delorean generate", 2, made),
    ]


def test_a_dry_run_shows_the_command_without_secrets(project, cluster, monkeypatch):
    monkeypatch.chdir(project)
    shown = submit_nothing("--dry-run", "generate", "home.toml", "--run-id", DAY)
    for part in (f"--master {cluster.master}", "#environment", "--py-files", f"generate home.toml --run-id {DAY}"):
        assert part in shown
    assert "spark.hadoop.fs.s3a.secret.key=…" in shown
    assert "hush" not in shown
    described = json.loads(submit_nothing("--json", "--dry-run", "vacuum"))
    assert described["command"][-3:] == ["vacuum", "--config", str(project / "delorean.toml")]


CELLS = {
    "project": """
        import sys
        from dataclasses import replace

        sys.path[:0] = ["{root}", "{root}/tests/support"]  # in this order: tests has folders of these names
        from project_at_rest import long_labels

        from delorean import generate, materialise_labels
        from delorean.project.config import load_project
        from delorean.labels import LabelColumns
        from encoders import feature_encoder
        from snapshotter.index import open_index
        from snapshotter.storage import open_storage

        project = load_project("one.toml")
        index, storage = open_index(project.index), open_storage(project.storage)
        rows = long_labels([(k, 10, video, 0.0) for k in range(8) for video in range(3)])
        labels = materialise_labels(rows, LabelColumns(("video_id",)), storage, buckets=4)


        def generated():
            there = generate(labels, steps, index, storage, "steps", spark=spark)
            here = generate(labels, steps, index, storage, "steps")
            return there.digest == here.digest, sum(there.to_arrow()["step"].combine_chunks().flatten().to_pylist())
        """,
    "no master": """
        replace(project, submit=replace(project.submit, master="spark://127.0.0.1:1")).spark_session()
        """,
    "no archive": """
        replace(project, submit=replace(project.submit, environment="/nowhere.tar.gz")).spark_session()
        """,
    "session": """
        spark = project.spark_session()
        project.spark_session() is spark, spark.sparkContext.master
        """,
    "helper": """
        def stepped(x):
            return 2.0 * x
        """,
    "first": """
        @feature_encoder(features=["step"])
        def steps(context, items, data, out):
            for i in range(len(items.video_id)):
                out.step[i] = stepped(items.video_id[i])
        generated()
        """,
    "edited": """
        def stepped(x):
            return 3.0 * x
        generated()
        """,
    "mistake": """
        def stepped(x):
            return x // 0
        generated()
        """,
    "stop": "spark.stop()",
}


def test_a_session_of_a_notebook_reaches_the_cluster_with_the_archive_and_runs_encoders_of_cells(project, cluster):
    cells = {**CELLS, "project": CELLS["project"].replace("{root}", str(ROOT))}
    shown = run_cells(cells, project)
    assert shown["project"].error == ""
    assert re.match("SetupError: no Spark master answers at spark://127.0.0.1:1 →", shown["no master"].error)
    assert re.match("ConfigError: environment /nowhere.tar.gz does not exist →", shown["no archive"].error)
    assert shown["session"].result == f"(True, {cluster.master!r})", shown["session"]
    # eight profiles, each with the videos 0, 1 and 2
    assert (shown["first"].result, shown["edited"].result) == ("(True, 48.0)", "(True, 72.0)"), shown
    first = shown["mistake"].error.partition("\n")[0]
    place = rf"at cell In\[{shown['mistake'].number}\], line 2 \(`return x // 0`\)"
    assert re.match(rf"EncoderError: encoder 'steps' failed {place} .*ZeroDivisionError", first), shown["mistake"]


@pytest.mark.parametrize(
    ("change", "message", "code"),  # a master may be there the next time
    [
        ((r"spark://[\d.:]+", "spark://127.0.0.1:1"), "no Spark master answers at spark://127.0.0.1:1", 1),
        (
            (r"environment\.tar\.gz", "environment.tgz"),
            "environment .*environment.tgz does not exist → run make package",
            2,
        ),
    ],
)
def test_a_missing_cluster_or_archive_is_reported_in_one_line(project, change, message, code):
    other = project / "other.toml"
    text = (project / "delorean.toml").read_text()
    other.write_text(re.sub(*change, text))
    printed = submit_nothing("--config", other, "vacuum", code=code)
    assert re.search(message, printed)
    assert printed.count("\n") == 1


def test_a_cluster_without_the_archives_python_is_reported_in_one_line(project, environment, tmp_path):
    launcher = tmp_path / "launcher.tar.gz"  # without the packages, which are not reached
    with tarfile.open(environment, "r|gz") as whole, tarfile.open(launcher, "w:gz") as part:
        first = {member.name: part.addfile(member, whole.extractfile(member)) for member in islice(whole, 2)}
    assert first.keys() == {"environment.json", "bin/python"}
    text = (project / "one.toml").read_text().replace(python_of_executors(), "/nowhere/python")
    (project / "bare.toml").write_text(re.sub("environment = .*", f'environment = "{launcher}"', text))
    printed = submit(
        project, "select", project / "experiments.toml", "--date", "2026-01-09", config="bare.toml", code=1
    )
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert f"Python {HERE} is not on" in line
    assert "name it in spark.executorEnv.DELOREAN_PYTHON" in line


def test_an_archive_of_another_python_or_with_other_packages_is_refused(tmp_path):
    for listed, message in (
        ({"python": "3.9", "packages": {}}, "is for Python 3.9, this is Python 3.1"),
        ({"python": HERE, "packages": {**PACKAGES, "numpy": "1.0"}}, "has other packages than the driver: numpy 1.0, "),
        ({"python": HERE, "packages": {**PACKAGES, "foo": "1.0"}}, "has other packages .*: foo 1.0, here none"),
        ({"python": HERE, "packages": {"numpy": "1.0"}}, "lacks boto3, delorean-features, msgspec, numba, pandas, "),
        ({"python": HERE}, "is not an archive that begins with environment.json"),
    ):
        archive = tmp_path / "environment.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            content = json.dumps(listed).encode()
            member = tarfile.TarInfo("environment.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        with pytest.raises(ConfigError, match=message):
            check_environment(archive)

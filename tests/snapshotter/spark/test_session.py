from __future__ import annotations

import gc
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from proxy_process import until
from pyspark import SparkConf
from pyspark.sql import SparkSession

from schemas.errors import ConfigError
from schemas.tables import TIME
from snapshotter.spark.session import _chosen, _fill_in, _with_jars, spark_session

SHOW = """
from schemas.errors import DeloreanError
from snapshotter.spark.session import require_java
try:
    require_java()
except DeloreanError as error:
    print(type(error).__name__, error)
"""

SESSIONS = """
import json, os, sys
from snapshotter.spark.session import spark_session

folder = sys.argv[1]
sockets = {"spark__python__unix__domain__socket__dir": folder}
spark = spark_session("first", "local[1]", spark__ui__enabled="false", **sockets)
names = "sql.session.timeZone", "sql.shuffle.partitions", "ui.enabled", "sql.parquet.outputTimestampType"
chosen = [spark.conf.get(f"spark.{name}") for name in names]
spark.range(3).mapInArrow(lambda batches: batches, "id long").collect()
report = {"chosen": chosen, "sockets": len(os.listdir(folder)), "folder": folder}
spark.stop()
try:
    spark_session("second", "local[1]", delta=True)
except Exception as error:
    report["late"] = f"{type(error).__name__} {error}"
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def other_process() -> Iterator[dict[str, Any]]:
    """The report of a process that started a session with its own settings, stopped it, and asked for another.

    folder: of its sockets, whose names would be too long in a test's own folder
    """
    arguments = "--conf spark.sql.session.timeZone=Asia/Tokyo --conf spark.sql.shuffle.partitions=5 pyspark-shell"
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            [sys.executable, "-c", SESSIONS, folder],
            env={**os.environ, "PYSPARK_SUBMIT_ARGS": arguments},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        yield json.loads(ran.stdout)


def require_java_where(java: str | None, folder: Path) -> str:
    """Run the check in a process whose only Java is a script that prints this version."""
    if java is not None:
        script = folder / "java"
        script.write_text(f"#!/bin/sh\necho 'openjdk version \"{java}\"' >&2\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    ran = subprocess.run(
        [sys.executable, "-c", SHOW], env={**environment, "PATH": f"{folder}:/nowhere"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_missing_java_is_one_clear_line(tmp_path: Path) -> None:
    shown = require_java_where(None, tmp_path)
    assert shown.startswith("SetupError Java is missing")
    assert "install Java 17" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2"])
def test_an_old_java_is_one_clear_line(tmp_path: Path, version: str) -> None:
    shown = require_java_where(version, tmp_path)
    assert "Spark needs 17 or newer" in shown
    assert f"is Java {8 if version.startswith('1.') else 11}:" in shown


@pytest.mark.parametrize("version", ["17.0.15", "21", "25.0.1"])
def test_a_new_java_is_accepted(tmp_path: Path, version: str) -> None:
    assert require_java_where(version, tmp_path) == ""


def test_a_session_that_is_there_is_used_as_it_is(spark: SparkSession) -> None:
    assert spark_session("another", "local[1]", spark__sql__session__timeZone="Asia/Tokyo") is spark
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


def test_workers_are_forked_from_a_process_that_has_imported_what_tasks_need(spark: SparkSession) -> None:
    def loaded(_: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Report modules that are imported before any code of ours runs, and the objects that need no collection."""
        names = [name for name in ("pandas", "pyarrow.dataset", "numba.np.linalg") if name in sys.modules]
        yield pa.record_batch({"names": [names], "uncollected": [gc.get_freeze_count()]})

    rows = spark.range(0, 2, 1, 2).mapInArrow(loaded, "names array<string>, uncollected long").collect()
    for row in rows:
        assert row["names"] == ["pandas", "pyarrow.dataset", "numba.np.linalg"]
        assert row["uncollected"] > 100_000


def test_times_cross_spark_and_its_workers_unchanged(spark: SparkSession, tmp_path: Path) -> None:
    moments = [
        datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    table = pa.table({"at": pa.array(moments, TIME)})

    def same(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    frame = spark.createDataFrame(table)
    assert frame.mapInArrow(same, frame.schema).toArrow().column("at").to_pylist() == moments
    frame.write.parquet(str(tmp_path / "times"))
    at = pq.read_table(tmp_path / "times").column("at")
    assert (at.type, sorted(at.to_pylist())) == (TIME, sorted(moments))


def test_delta_asked_for_too_late_is_one_clear_line(other_process: dict[str, Any]) -> None:
    assert other_process["late"].startswith("SetupError Spark cannot read Delta tables: its JVM is running already")


def test_jars_for_delta_and_s3_are_asked_for_together() -> None:
    assert _with_jars(delta=False, s3=False) == {}
    alone = [_with_jars(delta=True, s3=False), _with_jars(delta=False, s3=True)]
    both = _with_jars(delta=True, s3=True)
    delta, s3 = both["spark.jars.packages"].split(",")
    assert both == alone[0] | alone[1] | {"spark.jars.packages": f"{delta},{s3}"}
    assert delta.startswith("io.delta:delta-spark_")
    hadoop = s3.removeprefix("org.apache.hadoop:hadoop-aws:")
    [client] = Path(pyspark.__file__).parent.glob("jars/hadoop-client-api-*.jar")
    assert client.stem == f"hadoop-client-api-{hadoop}"  # another version would not work with it
    assert s3 in (Path(__file__).parents[3] / "docs" / "STORAGE.md").read_text()


def test_what_the_caller_or_spark_submit_chose_wins(other_process: dict[str, Any]) -> None:
    assert other_process["chosen"] == ["Asia/Tokyo", "5", "false", "TIMESTAMP_MICROS"]


def test_a_driver_of_a_cluster_that_settings_name_is_not_bound_to_this_machine(tmp_path: Path) -> None:
    show = (
        "import os\n"
        "from snapshotter.spark.session import spark_session\n"
        "try:\n"
        "    spark_session('t', spark__master='no://cluster')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, os.environ.get('SPARK_LOCAL_IP'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SPARK_LOCAL_IP"}
    ran = subprocess.run([sys.executable, "-c", show], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.split() == ["SetupError", "None"], ran.stderr


@pytest.mark.parametrize(("master", "chosen"), [("local[2]", "true"), ("spark://h", "true"), ("yarn", None)])
def test_workers_are_spoken_to_without_tcp_where_names_of_sockets_are_short(master: str, chosen: str | None) -> None:
    conf = SparkConf(loadDefaults=False).setMaster(master)
    _fill_in(conf, "t")
    assert conf.get("spark.python.unix.domain.socket.enabled", None) == chosen


def test_no_socket_is_left_behind(other_process: dict[str, Any]) -> None:
    assert other_process["sockets"] >= 2  # of the workers and of the accumulators
    until(lambda: not os.listdir(other_process["folder"]))  # workers end soon after


def test_an_archive_is_checked_before_a_spark_connect_server_is_sought(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"environment {tmp_path}/none.tar.gz does not exist → run make package"):
        spark_session("t", "sc://127.0.0.1:1", environment=tmp_path / "none.tar.gz")


def test_packages_of_the_caller_are_loaded_beside_ours():
    packages = {"spark__jars__packages": "company:jar:1"}
    assert _chosen(None, False, False, packages)["spark.jars.packages"] == "company:jar:1"
    ours, theirs = _chosen(None, True, False, packages)["spark.jars.packages"].split(",")
    assert (ours.startswith("io.delta:"), theirs) == (True, "company:jar:1")

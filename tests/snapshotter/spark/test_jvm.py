"""Starting Spark's JVM: what a start that is broken off leaves behind, and what others see of it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from proxy_process import until
from quick_jvm import OF_DRIVERS

from snapshotter.spark.jvm import spark_options

START = """
import sys
from snapshotter.spark.session import spark_session
try:
    spark = spark_session(
        "doomed", "local[1]", spark__ui__enabled="false", spark__driver__memory="512m",
        **{"spark__hadoop__fs__azure__account__key__shop": "HUSH a=b:c\\\\", "spark__hadoop__plain": "shown"},
    )
except BaseException as error:
    print(type(error).__name__, str(error).partition(":")[0], flush=True)
    if "--stay" in sys.argv:
        sys.stdin.read()
    raise
print(spark.sparkContext._jsc.hadoopConfiguration().get("fs.azure.account.key.shop"), flush=True)
sys.stdin.read()
"""


@contextmanager
def starting(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).resolve().parents[3]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *words],
            env={**os.environ, **OF_DRIVERS, "PYTHONPATH": str(root), "TMPDIR": str(folder), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def belonging_to(folder: Path) -> list[psutil.Process]:
    """All processes with this folder for temporary files, whoever their parents are."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def children(folder: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [each for each in belonging_to(folder) if each.pid != process.pid]


@pytest.mark.parametrize("seconds", [0.0, 0.7])
def test_ctrl_c_while_spark_starts_leaves_no_java_even_where_the_program_goes_on(
    tmp_path: Path, seconds: float
) -> None:
    with starting(tmp_path, "--stay") as process:
        until(lambda: bool(children(tmp_path, process)))
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "KeyboardInterrupt \n"
        until(lambda: not children(tmp_path, process))
        assert process.poll() is None
        assert not list(tmp_path.glob("delorean-*"))


def test_sigterm_while_spark_starts_leaves_neither_java_nor_files(tmp_path: Path) -> None:
    with starting(tmp_path) as process:
        until(lambda: bool(list(tmp_path.glob("delorean-*"))) and bool(children(tmp_path, process)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        until(lambda: not belonging_to(tmp_path))
        assert not list(tmp_path.glob("delorean-*"))


def test_a_java_that_ends_before_it_is_ready_is_one_clear_line(tmp_path: Path) -> None:
    for arguments in ("--version pyspark-shell", "--no-such-option pyspark-shell"):  # the first ends with 0
        with starting(tmp_path, PYSPARK_SUBMIT_ARGS=arguments) as process:
            message, _ = process.communicate(timeout=120)
        assert message.startswith("SetupError Spark's JVM exited with ")
        until(lambda: not belonging_to(tmp_path))


def test_secret_settings_reach_spark_without_being_in_a_command_line_and_nothing_is_logged(tmp_path: Path) -> None:
    settings = tmp_path / "conf"
    settings.mkdir()
    (settings / "log4j2.properties.template").write_text("rootLogger.level = info\n")  # as in Spark's own download
    with starting(tmp_path, SPARK_CONF_DIR=str(settings)) as process:
        seen: set[str] = set()

        def started() -> bool:
            for each in children(tmp_path, process):
                try:
                    seen.update(each.cmdline())
                except psutil.Error:
                    continue
            return "spark.hadoop.plain=shown" in seen and any(word.endswith("SparkSubmit") for word in seen)

        until(started)
        assert process.stdout is not None
        assert process.stdout.readline() == "HUSH a=b:c\\\n"
        assert started()
        assert not [word for word in seen if "HUSH" in word]
        assert not list(tmp_path.glob("delorean-*"))
        lines = (tmp_path / "stderr").read_text().splitlines()
        assert [line for line in lines if "incubator modules" not in line] == []  # that is Java's, which has no switch


def test_secret_settings_are_in_a_file_for_this_user_alone_that_goes_in_the_end() -> None:
    with spark_options(
        {"spark.a": "1", "spark.ssl.keyPassword": "HUSH", "spark.url": "jdbc:x://me:HUSH@host"}
    ) as given:
        assert "HUSH" not in " ".join(given)
        assert given[-2:] == ["--conf", "spark.a=1"]
        file = Path(given[given.index("--properties-file") + 1])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().splitlines() == [
            "spark.ssl.keyPassword=HUSH",
            r"spark.url=jdbc\:x\://me\:HUSH@host",
        ]
    assert not file.exists()
    with spark_options({"spark.a": "1"}) as given:
        assert given == ["--conf", "spark.a=1"]

"""Builds a Spark session with the settings that correctness needs, wherever nobody has chosen otherwise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from schemas.errors import SetupError

_OLDEST_JAVA = 17
_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",  # times are UTC everywhere; a naive shift would be silent
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96 has no statistics and no zone
}
# The JVM's launcher must know these, or it chooses otherwise itself.
_QUIET = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}


def spark_session(app_name: str, master: str | None = None, **settings: str) -> SparkSession:
    """Give the active session as it is, or start one.

    What spark-submit, spark-defaults.conf or `settings` say wins over what this function would choose.

    master: where to run; None leaves it to spark-submit, else every core of this machine
    settings: Spark's own, with __ for a dot: `spark__sql__shuffle__partitions="8"`

    Raises SetupError when Java is missing or too old.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    require_java()
    chosen = {name.replace("__", "."): value for name, value in settings.items()}
    if master is not None:
        chosen["spark.master"] = master
    if os.environ.get("PYSPARK_GATEWAY_PORT") is None:  # nobody has started the JVM for us, as spark-submit does
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if (master or "local").startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    launch = SparkConf(loadDefaults=False)
    launch.setAll(list({**_QUIET, **chosen}.items()))
    SparkContext._ensure_initialized(conf=launch)  # only with the JVM up can we see what spark-submit has set
    conf = SparkConf()
    conf.setAll(list(chosen.items()))
    for name, value in {"spark.app.name": app_name, "spark.master": "local[*]", **_DEFAULTS}.items():
        conf.setIfMissing(name, value)
    if str(conf.get("spark.master")).startswith("local"):  # Spark's 200 are meant for a cluster
        conf.setIfMissing("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
    return SparkSession.builder.config(conf=conf).getOrCreate()


def require_java() -> None:
    """Raise SetupError unless a Java that Spark can run on is there."""
    hint = f"install Java {_OLDEST_JAVA} or newer (openjdk-{_OLDEST_JAVA}-jre-headless) or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        raise SetupError.because("Java is missing: Spark needs it", hint)
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=30)  # noqa: S603  # the user's own Java
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError.because(f"Java at {java} does not run: {error}", hint) from error
    version = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        found = version[1] if version else "of unknown version"
        raise SetupError.because(f"Java at {java} is {found}, Spark needs {_OLDEST_JAVA} or newer", hint)

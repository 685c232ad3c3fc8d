"""Builds a Spark session with the settings that correctness needs, wherever nobody has chosen otherwise."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from schemas.errors import SetupError
from schemas.file_uri import file_uri
from schemas.redaction import SENSITIVE
from snapshotter.spark.cluster import ENVIRONMENT, PACKED_PYTHON, check_environment, find_master
from snapshotter.spark.jvm import launch
from snapshotter.spark.system_requirements import java_problem

_DEFAULTS = {
    "spark.redaction.regex": SENSITIVE,  # of what Spark itself shows, in its user interface and its log
    "spark.sql.session.timeZone": "UTC",  # times are UTC everywhere; a naive shift would be silent
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96 has no statistics and no zone
    # What is kept may have as few partitions as its size asks for, or each of Spark's 200 is a task again and again.
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}
# By TCP each Python task waits 40 ms for an acknowledgement, as small packets do. Not for YARN and Kubernetes, whose
# temporary folders may have longer names than a socket.
_SOCKETS = ("spark.python.unix.domain.socket.enabled", "true")
# The JVM's launcher must know these, or it chooses otherwise itself.
QUIET = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
_PACKAGES = "spark.jars.packages"
_EXCLUDES = {
    "spark.jars.excludes": "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime",  # Spark's own
}
_DELTA = {
    _PACKAGES: "io.delta:delta-spark_4.2_2.13:4.4.0",  # no later one is published for Spark 4.2
    **_EXCLUDES,
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.legacy.parameterSubstitution.constantsOnly": "true",  # Delta's parser does not know `:date` by itself
}
_CHAIN = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
_S3 = {
    _PACKAGES: "org.apache.hadoop:hadoop-aws:3.5.0",  # as the Hadoop client that comes with pyspark
    **_EXCLUDES,
    # The chain of the workers' own client: environment, profile, role.
    "spark.hadoop.fs.s3a.aws.credentials.provider": _CHAIN,
}


def spark_session(
    app_name: str,
    master: str | None = None,
    *,
    environment: str | Path | None = None,
    delta: bool = False,
    s3: bool = False,
    **settings: str,
) -> SparkSession:
    """Give the active session as it is, or start one.

    What spark-submit, spark-defaults.conf or `settings` say wins over what this function would choose.

    master: where to run; None leaves it to spark-submit, else every core of this machine
    environment: an archive that `make package` made, for executors of a cluster that have nothing of ours; None: they
        have our packages
    delta: whether Spark itself is to read Delta tables; its jar is resolved once, by Spark's package mechanism. What
        spark-submit has started already has the jars it was given: `--packages`
    s3: whether Spark itself is to read tables in S3, which workers need not; its jars (600 MB) are resolved likewise
    settings: Spark's own, with __ for a dot: `spark__sql__shuffle__partitions="8"`

    Raises SetupError when Java is missing or too old, or no master answers, ConfigError for an archive that is not
    there, of another Python, or with other packages than are here.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    require_java()
    if environment is not None:
        check_environment(Path(environment))
    chosen = {**_with_jars(delta, s3), **{name.replace("__", "."): value for name, value in settings.items()}}
    if master is not None:
        chosen["spark.master"] = master
    find_master(chosen.get("spark.master", ""))
    if os.environ.get("PYSPARK_GATEWAY_PORT") is None:  # nobody has started the JVM for us, as spark-submit does
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if chosen.get("spark.master", "local").startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if SparkContext._gateway is None and os.environ.get("PYSPARK_GATEWAY_PORT") is None:
        SparkContext._ensure_initialized(gateway=launch({**QUIET, **chosen}))
    SparkContext._ensure_initialized()  # only with the JVM up can we see what spark-submit has set
    if delta:
        _require_delta()
    conf = SparkConf()
    conf.setAll(list(chosen.items()))
    _fill_in(conf, app_name)
    if not str(conf.get("spark.master")).startswith("local"):
        return _on_cluster(conf, environment)
    session = _start(conf)
    if "spark.log.level" not in chosen:
        _hush_executor(session)
    return session


def _start(conf: SparkConf) -> SparkSession:
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    accumulators: Any = session.sparkContext._accumulatorServer
    if isinstance(accumulators.server_address, str):  # a socket's file, which Spark leaves there
        atexit.register(Path(accumulators.server_address).unlink, missing_ok=True)
    return session


def _fill_in(conf: SparkConf, app_name: str) -> None:
    """Choose what nobody has chosen."""
    for name, value in {"spark.app.name": app_name, "spark.master": "local[*]", **_DEFAULTS}.items():
        conf.setIfMissing(name, value)
    master = str(conf.get("spark.master"))
    if master.startswith(("local", "spark://")):
        conf.setIfMissing(*_SOCKETS)
    if master.startswith("local"):
        conf.setIfMissing("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))  # 200 are for a cluster
        conf.setIfMissing("spark.databricks.delta.snapshotPartitions", "2")  # likewise Delta's 50, for a log


def _on_cluster(conf: SparkConf, environment: str | Path | None) -> SparkSession:
    """Start a session whose executors run the Python of an archive, if there is one; this process keeps its own."""
    if environment is None:
        return _start(conf)
    conf.set("spark.archives", f"{file_uri(Path(environment).resolve())}#{ENVIRONMENT}")
    before = os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = PACKED_PYTHON  # read once, when the session starts
    try:
        return _start(conf)
    finally:
        os.environ["PYSPARK_PYTHON"] = before or sys.executable


def _require_delta() -> None:
    """A JVM is given its jars when it starts, and outlives its sessions."""
    jvm: Any = SparkContext._jvm
    if not jvm.org.apache.spark.util.Utils.classIsLoadable(_DELTA["spark.sql.catalog.spark_catalog"]):
        raise SetupError.because(
            "Spark cannot read Delta tables here: its Java runs already, and was started without Delta's jar",
            f"start a new process or kernel, or give spark-submit --packages {_DELTA[_PACKAGES]}",
        )


def _hush_executor(session: SparkSession) -> None:
    """Say once what a task raises: the driver raises it, and here the executor would write to the same terminal."""
    jvm: Any = session.sparkContext._jvm
    configurator, level = jvm.org.apache.logging.log4j.core.config.Configurator, jvm.org.apache.logging.log4j.Level
    for name in ("org.apache.spark.executor.Executor", "org.apache.spark.scheduler.TaskSetManager"):
        configurator.setLevel(name, level.OFF)


def _with_jars(delta: bool, s3: bool) -> dict[str, str]:
    needed = [*([_DELTA] if delta else []), *([_S3] if s3 else [])]
    packages = {_PACKAGES: ",".join(each[_PACKAGES] for each in needed)} if needed else {}
    return {name: value for each in needed for name, value in each.items()} | packages


def require_java() -> None:
    """Raise SetupError unless a Java that Spark can run on is there."""
    problem = java_problem(os.environ)
    if problem is not None:
        raise SetupError(problem)

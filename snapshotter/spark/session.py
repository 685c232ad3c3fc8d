"""Builds a Spark session with the settings that correctness needs, unless somebody chose others."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from schemas.errors import SetupError
from schemas.file_uri import file_uri
from schemas.redaction import SENSITIVE
from snapshotter.spark.cluster import ENVIRONMENT, PACKED_PYTHON, check_environment, require_master
from snapshotter.spark.connect import REMOTE, remote_session
from snapshotter.spark.jvm import launch
from snapshotter.spark.system_requirements import java_problem

_TIME_ZONE = "spark.sql.session.timeZone"
_DEFAULTS = {
    "spark.redaction.regex": SENSITIVE,  # in Spark's user interface and its log
    _TIME_ZONE: "UTC",  # times are UTC everywhere; a naive shift would be silent
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96 has no statistics and no zone
    # Cached data may have as few partitions as its size needs; otherwise each of Spark's 200 is a task every time.
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}
# Over TCP each Python task waits 40 ms for the acknowledgement of a small packet. Not for YARN and Kubernetes, whose
# temporary folders may have longer names than a socket can.
_SOCKETS = ("spark.python.unix.domain.socket.enabled", "true")
# Where workers are sure to have our package: it imports what tasks need once for all workers of an executor.
WORKER_DAEMON = ("spark.python.daemon.module", "snapshotter.spark.worker_daemon")
# For the JVM's launcher, which otherwise chooses these itself.
QUIET = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
_PACKAGES = "spark.jars.packages"
_SPARK_HAS = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime"
_DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_DELTA = {
    "spark.jars.excludes": _SPARK_HAS,
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": _DELTA_CATALOG,
    "spark.sql.legacy.parameterSubstitution.constantsOnly": "true",  # Delta's parser does not know `:date` by itself
}
_S3_PACKAGE = "org.apache.hadoop:hadoop-aws:3.5.0"  # the version of pyspark's Hadoop client
_S3 = {
    "spark.jars.excludes": _SPARK_HAS,
    # The chain that workers use: environment, profile, role.
    "spark.hadoop.fs.s3a.aws.credentials.provider": (
        "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
    ),
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
    """Return the active session as it is, or start one.

    What spark-submit, spark-defaults.conf or `settings` choose wins over the choices of this function.

    master: where to run, or a Spark Connect server, `sc://host:15002`, which has its own jars and machines; None: as
        spark-submit says, otherwise on every core of this machine
    environment: an archive from `make package`, for executors of a cluster, or workers of a Spark Connect server, that
        lack our packages; None: they have them
    delta: whether Spark itself reads Delta tables; Spark's package mechanism resolves the jar once. A JVM that
        spark-submit has started has only the jars it was started with: `--packages`
    s3: whether Spark itself reads tables in S3, which workers do without it; the jars (600 MB) are resolved likewise
    settings: Spark's own, with __ for a dot: `spark__sql__shuffle__partitions="8"`

    Raises SetupError if Java is missing or too old, or no master answers; ConfigError for an archive that is missing,
    of another Python version, or with other package versions than this process.
    """
    if (master or "").startswith(REMOTE):
        chosen = {name.replace("__", "."): value for name, value in settings.items()}
        archive = None if environment is None else Path(environment)
        return remote_session(str(master), app_name, {_TIME_ZONE: "UTC", **chosen}, archive)
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    require_java()
    if environment is not None:
        check_environment(Path(environment))
    chosen = _chosen(master, delta, s3, settings)
    _start_jvm(chosen)
    if delta:
        _require_delta()
    conf = SparkConf()
    conf.setAll(list(chosen.items()))
    _fill_in(conf, app_name)
    if not str(conf.get("spark.master")).startswith("local"):
        return _on_cluster(conf, environment)
    session = _start(conf)
    if "spark.log.level" not in chosen:
        _silence_executor(session)
    return session


def _chosen(master: str | None, delta: bool, s3: bool, settings: Mapping[str, str]) -> dict[str, str]:
    """Return what the caller chose, by Spark's names of its settings."""
    ours = _with_jars(delta, s3)
    chosen = {**ours, **{name.replace("__", "."): value for name, value in settings.items()}}
    packages = [*ours.get(_PACKAGES, "").split(","), *chosen.get(_PACKAGES, "").split(",")]
    if any(packages):  # the caller's are loaded beside ours
        chosen[_PACKAGES] = ",".join(dict.fromkeys(filter(None, packages)))
    if master is not None:
        chosen["spark.master"] = master
    return chosen


def _start_jvm(chosen: dict[str, str]) -> None:
    """Start the JVM, unless spark-submit has; only a running one shows what spark-submit has set."""
    require_master(chosen.get("spark.master", ""))
    if os.environ.get("PYSPARK_GATEWAY_PORT") is None:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if chosen.get("spark.master", "local").startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if SparkContext._gateway is None and os.environ.get("PYSPARK_GATEWAY_PORT") is None:
        SparkContext._ensure_initialized(gateway=launch({**QUIET, **chosen}))
    SparkContext._ensure_initialized()


def _start(conf: SparkConf) -> SparkSession:
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    accumulators: Any = session.sparkContext._accumulatorServer
    if isinstance(accumulators.server_address, str):  # the file of a Unix socket, which Spark does not delete
        atexit.register(Path(accumulators.server_address).unlink, missing_ok=True)
    return session


def _fill_in(conf: SparkConf, app_name: str) -> None:
    """Set what nobody has chosen."""
    for name, value in {"spark.app.name": app_name, "spark.master": "local[*]", **_DEFAULTS}.items():
        conf.setIfMissing(name, value)
    master = str(conf.get("spark.master"))
    if master.startswith(("local", "spark://")):
        conf.setIfMissing(*_SOCKETS)
    if master.startswith("local"):
        conf.setIfMissing("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))  # 200 are for a cluster
        conf.setIfMissing("spark.databricks.delta.snapshotPartitions", "2")  # likewise Delta's 50, for a log
        conf.setIfMissing(*WORKER_DAEMON)


def _on_cluster(conf: SparkConf, environment: str | Path | None) -> SparkSession:
    """Start a session whose executors run the Python of an archive, if there is one; this process keeps its own."""
    if environment is None:
        return _start(conf)
    conf.setIfMissing(*WORKER_DAEMON)
    conf.set("spark.archives", f"{file_uri(Path(environment).resolve())}#{ENVIRONMENT}")
    before = os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = PACKED_PYTHON  # read once, when the session starts
    try:
        return _start(conf)
    finally:
        os.environ["PYSPARK_PYTHON"] = before or sys.executable


def _require_delta() -> None:
    """Raise SetupError if the JVM has no Delta jar: it gets its jars when it starts, and outlives its sessions."""
    jvm: Any = SparkContext._jvm
    if not jvm.org.apache.spark.util.Utils.classIsLoadable(_DELTA_CATALOG):
        raise SetupError.because(
            "Spark cannot read Delta tables: its JVM is running already, and was started without Delta's jar",
            f"start a new process or kernel, or give spark-submit --packages {_delta_package()}",
        )


def _silence_executor(session: SparkSession) -> None:
    """Turn off the executor's log of what tasks raise: the driver raises it, and both write to the same terminal."""
    jvm: Any = session.sparkContext._jvm
    configurator, level = jvm.org.apache.logging.log4j.core.config.Configurator, jvm.org.apache.logging.log4j.Level
    for name in ("org.apache.spark.executor.Executor", "org.apache.spark.scheduler.TaskSetManager"):
        configurator.setLevel(name, level.OFF)


def _with_jars(delta: bool, s3: bool) -> dict[str, str]:
    packages = [*([_delta_package()] if delta else []), *([_S3_PACKAGE] if s3 else [])]
    settings = {_PACKAGES: ",".join(packages)} if packages else {}
    return settings | (_DELTA if delta else {}) | (_S3 if s3 else {})


def _delta_package() -> str:
    """Return the Maven coordinates of the jar that belongs to the installed delta-spark and pyspark."""
    from delta import configure_spark_with_delta_pip

    builder: Any = configure_spark_with_delta_pip(SparkSession.Builder())
    return str(builder._options[_PACKAGES])  # read here, since the JVM must have its jars before a session is built


def require_java() -> None:
    """Raise SetupError unless a Java is installed that Spark can run on."""
    problem = java_problem(os.environ)
    if problem is not None:
        raise SetupError(problem)

"""Sessions on a Spark Connect server, which have no JVM in this process: what they need done differently."""

from __future__ import annotations

import socket
import sys
import weakref
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from schemas.errors import SetupError
from schemas.file_uri import file_uri
from snapshotter.spark.cluster import ENVIRONMENT, PACKED_PYTHON, check_environment
from snapshotter.spark.errors import spark_errors_as

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

REMOTE = "sc://"
_PORT = 15_002
_PATIENCE_SECONDS = 10.0
_PYTHON = "spark.sql.execution.pyspark.python"  # the program that the server's workers run
_PACKAGE = "delorean-features"
_IMPORTED = ("schemas", "encoders", "snapshotter", "delorean")
_checked: weakref.WeakSet[SparkSession] = weakref.WeakSet()


def is_remote(spark: object) -> bool:
    """Return whether a session, or a data frame, is of a Spark Connect server."""
    return type(spark).__module__.startswith("pyspark.sql.connect.")


def require_workers(spark: SparkSession) -> None:
    """Raise SetupError unless the server's workers have this version of our package, and this process's of Python.

    Each session is checked once; sessions with a JVM in this process never.
    """
    if not is_remote(spark) or spark in _checked:
        return

    def probe(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for name in _IMPORTED:
            import_module(name)
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"version": [_version_here()]})

    try:
        with spark_errors_as(SetupError, "the workers of the Spark Connect server cannot run DeLorean"):
            (there,) = spark.range(0, 1, 1, 1).mapInArrow(probe, "version string").collect()
    except SetupError as error:
        raise SetupError.because(error.args[0], _what_to_install()) from error
    if there.version != _version_here():
        raise SetupError.because(
            f"the workers of the Spark Connect server have {there.version}, this process has {_version_here()}",
            _what_to_install(),
        )
    _checked.add(spark)


def query_with_tables(
    spark: SparkSession, query: str, tables: Mapping[str, DataFrame], args: Mapping[str, Any] | None
) -> DataFrame:
    """Run a query in which names stand for frames.

    A remote frame resolves its names whenever it is used, so temporary views would have to stay as long as it does.
    """
    from pyspark.sql.connect import functions
    from pyspark.sql.connect.dataframe import DataFrame as RemoteFrame
    from pyspark.sql.connect.plan import SQL, SubqueryAlias

    remote: Any = spark
    frames: Mapping[str, Any] = tables
    aliases = [SubqueryAlias(frame._plan, name) for name, frame in frames.items()]
    named = {name: functions.lit(value) for name, value in (args or {}).items()}
    frame = RemoteFrame(SQL(query, [], named, aliases), remote)
    frame.schema  # noqa: B018  # raises what is wrong with the query now, as a session with a JVM does
    return frame


def remote_session(
    url: str, app_name: str, settings: Mapping[str, str], environment: Path | None = None
) -> SparkSession:
    """Return a session on the Spark Connect server at a URL.

    settings: by Spark's own names
    environment: an archive from `make package`, which is sent to the server for its workers; None: they have our
        packages

    Raises SetupError if the client's packages are missing, the server does not answer or its workers cannot be used,
    and ConfigError for an archive that does not fit, see `check_environment`.
    """
    from pyspark.sql import SparkSession

    try:
        from pyspark.sql.connect.utils import check_dependencies

        check_dependencies()
    except ImportError as error:
        raise SetupError.because(
            "Spark Connect needs packages that are not installed here", 'pip install "delorean-features[connect]"'
        ) from error
    if environment is not None:
        check_environment(environment)
    _require_server(url)
    with spark_errors_as(SetupError, f"could not start a session on the Spark Connect server {_without_token(url)}"):
        session = SparkSession.builder.remote(url).appName(app_name).getOrCreate()
        for name, value in settings.items():
            session.conf.set(name, value)
        if environment is not None and session.conf.get(_PYTHON, None) != PACKED_PYTHON:
            session.addArtifacts(f"{file_uri(environment.resolve())}#{ENVIRONMENT}", archive=True)
            session.conf.set(_PYTHON, PACKED_PYTHON)
    require_workers(session)
    return session


def _require_server(url: str) -> None:
    """Raise SetupError unless something listens there; Spark's client would try again for minutes."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or _PORT), _PATIENCE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise SetupError.because(
            f"no Spark Connect server answers at {_without_token(url)}: {error}", "start it, or correct the URL"
        ) from error


def _without_token(url: str) -> str:
    return url.partition("/;")[0]


def _version_here() -> str:
    python = ".".join(map(str, sys.version_info[:2]))
    return f"{_PACKAGE} {version(_PACKAGE)} with Python {python}"


def _what_to_install() -> str:
    return (
        f"install {_version_here()} on its machines, name a Python that has it in {_PYTHON}, "
        "or send an archive from make package: spark_session(…, environment=…)"
    )

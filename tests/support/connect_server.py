"""A Spark Connect server on loopback, from the jars of pyspark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyspark
from maven import free_port

CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"
START_SECONDS = 240  # on a busy machine


@contextmanager
def connect_server(folder: Path, environment: Mapping[str, str], **more: str) -> Iterator[str]:
    """Give the URL of a server whose workers run this Python with an environment.

    folder: for its log and files
    more: settings, with __ for a dot
    """
    port = free_port()
    settings = {
        "spark.master": "local[2]",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.sql.shuffle.partitions": "2",
        "spark.python.unix.domain.socket.enabled": "true",
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    options = [option for name, value in settings.items() for option in ("--conf", f"{name}={value}")]
    command = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        "--class",
        CLASS,
        *options,
        "spark-internal",
    ]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _await(port, server, folder / "server.log")
            yield f"sc://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, log.read_text()[-3_000:]
        time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3_000:])

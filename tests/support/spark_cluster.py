"""A standalone Spark cluster on loopback: a master and some workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyspark
import quick_jvm
from maven import BECOME, free_port

from delorean.demo.processes import Processes, Running

ROOT = Path(__file__).resolve().parents[2]
SPARK_CLASS = Path(pyspark.__file__).parent / "bin/spark-class"
WORKER_MB = 1500
SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.executor.extraJavaOptions": quick_jvm.OPTIONS,
    "spark.executor.memory": "768m",
    "spark.ui.enabled": "false",
}


@dataclass
class SparkCluster:
    """Each worker has its own address, as a machine has: Spark speculates only on another one.

    Executors have nothing of this environment, neither its Python nor its packages, unless a job ships them.
    """

    folder: Path
    processes: Processes
    port: int = field(default_factory=free_port)
    workers: list[Running] = field(default_factory=list)

    @property
    def master(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    def start(self, workers: int) -> None:
        """Start the master and the workers, and wait until all have registered."""
        self._become("master", "127.0.0.1", "master.Master", "--port", str(self.port), "--webui-port", "0")
        for number in range(workers):
            folder = self.folder / f"worker-{number}"
            options = ("-c", "1", "-m", f"{WORKER_MB}m", "-d", str(folder), "--webui-port", "0", self.master)
            host = f"127.0.0.{number + 1}"
            self.workers.append(self._become(f"worker-{number}", host, "worker.Worker", *options))
        for worker in self.workers:
            worker.wait_for(r"(Successfully registered with master)")

    def executors(self) -> list[psutil.Process]:
        """The JVMs of applications' executors."""
        found = []
        for worker in self.workers:
            for child in psutil.Process(worker.process.pid).children(recursive=True):
                try:
                    if any("CoarseGrainedExecutorBackend" in word for word in child.cmdline()):
                        found.append(child)
                except psutil.NoSuchProcess:
                    continue
        return found

    def _become(self, name: str, host: str, main: str, *options: str) -> Running:
        bare = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.folder), "SPARK_LOCAL_IP": host}
        bare["SPARK_DAEMON_JAVA_OPTS"] = quick_jvm.OPTIONS
        bare["SPARK_LAUNCHER_OPTS"] = quick_jvm.LAUNCHER_OPTIONS
        if "JAVA_HOME" in os.environ:
            bare["JAVA_HOME"] = os.environ["JAVA_HOME"]
        else:
            bare["PATH"] = os.environ["PATH"]  # it leads to Java
        words = [*(f"{key}={value}" for key, value in bare.items()), str(SPARK_CLASS)]
        command = ["/usr/bin/env", "-i", *words, f"org.apache.spark.deploy.{main}", "--host", host, *options]
        return self.processes.start(name, ["-c", BECOME, *command])


@contextmanager
def spark_cluster(folder: Path, workers: int = 2) -> Iterator[SparkCluster]:
    """Run a cluster."""
    with Processes(folder / "logs") as processes:
        cluster = SparkCluster(folder, processes)
        cluster.start(workers)
        yield cluster


def environment_archive() -> Path:
    """Run `make package`, and give its archive."""
    made = subprocess.run([sys.executable, ".ci/package.py"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / made.stdout.partition(":")[0]


def python_of_executors() -> str:
    """The base Python of our environment, without our packages, for executors."""
    version = re.match(r"\d+\.\d+", sys.version)
    assert version is not None
    return str(Path(sys.base_prefix) / "bin" / f"python{version[0]}")

"""Real Cassandra servers on loopback, from Maven's artifacts: one node, or several of a cluster.

The jars are kept in `~/.cache/delorean/cassandra-…`; one digest over all files pins them. Tests fail where they are
neither there nor can be fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maven import BECOME, cache, free_port, java, run_ivy

from delorean.demo.processes import Processes, Running
from snapshotter.index import init_index
from snapshotter.index.cassandra.address import read_address
from snapshotter.index.cassandra.cluster_session import CassandraSession

VERSION = "5.0.9"
# Of a line for each file: its digest and name, sorted by name.
SHA256 = "cb16a4ec3678635d44fa3124ec87a90f7f0e6abd35781774c869f3b39be8a318"
START_SECONDS = 300  # on a busy machine
EXPORTED = {
    "java.base": "jdk.internal.misc java.lang.ref jdk.internal.ref sun.nio.ch",
    "java.management.rmi": "com.sun.jmx.remote.internal.rmi",
    "java.rmi": "sun.rmi.registry sun.rmi.server sun.rmi.transport.tcp",
    "java.sql": "java.sql",
}
OPENED = {
    "java.base": "java.lang java.lang.module java.lang.reflect java.io java.nio java.net java.util java.util.concurrent"
    " java.util.concurrent.atomic jdk.internal.loader jdk.internal.ref jdk.internal.reflect jdk.internal.math"
    " jdk.internal.module jdk.internal.util.jar sun.nio.ch",
    "jdk.management": "com.sun.management.internal",
}
PROPERTIES = {
    "jdk.attach.allowAttachSelf": "true",
    "io.netty.tryReflectionSetAccessible": "true",
    "cassandra.ring_delay_ms": 1000,
    "cassandra.skip_wait_for_gossip_to_settle": 0,
    "cassandra.consistent.rangemovement": "false",
    "cassandra.superuser_setup_delay_ms": 0,
    "cassandra.auth_bcrypt_gensalt_log2_rounds": 4,  # a password is checked at once
}
_WITH_AGENT = ("-XX:+UnlockDiagnosticVMOptions", "-XX:+AllowArchivingWithJavaAgent", "-Xlog:disable")
LOGGING = """
<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %d{HH:mm:ss.SSS} %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""


@contextmanager
def new_keyspace(authority: str) -> Iterator[str]:
    """Give the URI of a new keyspace of a server, and drop it at the end."""
    uri = f"cassandra://{authority}/tests_{uuid.uuid4().hex[:8]}"
    yield uri
    _drop_keyspaces(uri)


def new_index(keyspace: str) -> str:
    """Prepare a new index in a keyspace; only the first creates the tables."""
    uri = f"{keyspace}?index=test_{uuid.uuid4().hex[:8]}"
    assert init_index(uri, {"": 1})
    return uri


def _drop_keyspaces(uri: str) -> None:
    """Drop a keyspace and those whose names begin with its: the server may stay."""
    address = read_address(uri)
    session = CassandraSession(address)
    for row in session.execute("SELECT keyspace_name FROM system_schema.keyspaces", {}):
        if row.keyspace_name.startswith(address.keyspace):
            session.change_schema(f"DROP KEYSPACE {row.keyspace_name}")
    session.close()


@contextmanager
def server_at_hand(folder: Path) -> Iterator[str]:
    """Give the address of a server: the one in DELOREAN_TEST_CASSANDRA, one in a container, or our own node."""
    if address := os.environ.get("DELOREAN_TEST_CASSANDRA"):
        yield address
    elif _docker_answers():
        from testcontainers.community.cassandra import CassandraContainer  # takes long to import

        with CassandraContainer(f"cassandra:{VERSION}") as container:
            [(host, port)] = container.get_contact_points()
            yield f"{host}:{port}"
    else:
        node = CassandraNode(folder)
        try:
            node.start()
            node.wait()
            yield f"{node.host}:{node.port}"
        finally:
            node.kill()


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@dataclass
class CassandraNode:
    """One server. It may be killed and started again: it keeps its data and its address.

    hosts: of the whole cluster; number: which of them this one is
    settings: of cassandra.yaml, beside what every node has; None takes one away
    java_options: in the place of those that let it start from an archive of classes
    """

    folder: Path
    hosts: Sequence[str] = ("127.0.0.1",)
    number: int = 0
    port: int = field(default_factory=free_port)
    storage_port: int = field(default_factory=free_port)
    settings: Mapping[str, Any] = field(default_factory=dict)
    java_options: Sequence[str] | None = None
    _starts: int = 0
    _running: Running | None = None
    _processes: Processes | None = None

    @property
    def host(self) -> str:
        return self.hosts[self.number]

    @property
    def running(self) -> bool:
        return self._running is not None

    def start(self) -> None:
        """Start it without waiting, on the main thread: the server ends with the thread that started it."""
        jars = fetched()
        self.folder.mkdir(parents=True, exist_ok=True)
        config, logging = self.folder / "cassandra.yaml", self.folder / "logback.xml"
        config.write_text(json.dumps(self._config()))
        logging.write_text(LOGGING)
        files = {
            "cassandra.config": config.as_uri(),
            "cassandra.storagedir": self.folder,
            "logback.configurationFile": logging,
            "java.io.tmpdir": self.folder,
        }
        command = [java(), f"-javaagent:{jars}/jamm-0.4.0.jar", "-Xms256m", "-Xmx384m", "-Xss512k"]
        command += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"]
        command += archived_classes() if self.java_options is None else self.java_options
        for option, packages in (("--add-exports", EXPORTED), ("--add-opens", OPENED)):
            command += [f"{option}={of}/{name}=ALL-UNNAMED" for of, names in packages.items() for name in names.split()]
        command += [f"-D{name}={value}" for name, value in {**PROPERTIES, **files}.items()]
        command += ["-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"]
        self._starts += 1
        self._processes = Processes(self.folder)
        self._running = self._processes.start(f"cassandra-{self._starts}", ["-c", BECOME, *command])

    def wait(self) -> None:
        """Wait until it accepts connections."""
        assert self._running is not None
        deadline = time.monotonic() + START_SECONDS
        while not _listens(self.host, self.port):
            assert self._running.process.poll() is None, f"Cassandra ended: {self._running.log_tail()}"
            assert time.monotonic() < deadline, f"no Cassandra after {START_SECONDS} s: {self._running.log_tail()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it, if it runs, as a power cut would (kill -9)."""
        if self._running is not None and self._processes is not None:
            self._running.process.kill()
            self._processes.__exit__()
        self._running = self._processes = None

    def stop(self) -> None:
        """End it in order."""
        assert self._running is not None
        self._running.process.terminate()
        self._running.process.wait(START_SECONDS)
        self.kill()

    def pause(self) -> None:
        """Stop it as a long collection of garbage does; it still accepts connections. `kill` ends it too."""
        assert self._running is not None
        self._running.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the pause, if there is one and the server runs."""
        if self._running is not None:
            self._running.process.send_signal(signal.SIGCONT)

    def _config(self) -> dict[str, Any]:
        seeds = ",".join(f"{host}:{self.storage_port}" for host in self.hosts)
        seeding = {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": [{"seeds": seeds}]}
        folders = {
            "data_file_directories": [str(self.folder / "data")],
            **{
                f"{name}_directory": str(self.folder / name)
                for name in ("commitlog", "saved_caches", "hints", "cdc_raw")
            },
        }
        config = {
            "cluster_name": "tests",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "num_tokens": 4,
            "auto_bootstrap": False,
            "listen_address": self.host,
            "rpc_address": self.host,
            "storage_port": self.storage_port,
            "native_transport_port": self.port,
            "seed_provider": [seeding],
            "commitlog_sync": "periodic",
            "commitlog_sync_period": "10000ms",
            "auto_snapshot": False,
            **folders,
            **self.settings,
        }
        return {name: value for name, value in config.items() if value is not None}


def fetched() -> Path:
    """Give the folder of the server's jars. Runs at the same time do not disturb each other."""
    folder = cache() / f"cassandra-{VERSION}"
    if _digest(folder) == SHA256:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        arguments = ["-dependency", "org.apache.cassandra", "cassandra-all", VERSION]
        arguments += ["-retrieve", f"{work}/jars/[artifact]-[revision](-[classifier]).[ext]"]
        for _ in range(2):  # the network may fail once
            output = run_ivy(arguments, Path(work))
            if _digest(Path(work, "jars")) == SHA256:
                folder.mkdir(exist_ok=True)
                for jar in Path(work, "jars").iterdir():
                    os.replace(jar, folder / jar.name)
                return folder
    raise AssertionError(
        f"Cassandra for tests is not in {folder} and could not be fetched from Maven Central → give this machine access"
        f" to it, or name a server by its address, see CONTRIBUTING.md. Ivy printed:\n{output[-3000:]}"
    )


def archived_classes() -> list[str]:
    """Give the options by which a server takes its classes from an archive: it then starts with a third less work.

    The first server on a machine writes the archive, one for each Java: one of another Java is ignored.
    """
    version = int(Path(java()).resolve().stat().st_mtime)
    archive = cache() / f"cassandra-{VERSION}" / f"classes-{version}.jsa"
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory() as folder:
                new = Path(folder, "classes.jsa")
                node = CassandraNode(
                    Path(folder, "node"), java_options=[f"-XX:ArchiveClassesAtExit={new}", *_WITH_AGENT]
                )
                node.start()
                node.wait()
                node.stop()
                shutil.move(new, archive)
    return [f"-XX:SharedArchiveFile={archive}", *_WITH_AGENT]


def _digest(folder: Path) -> str:
    lines = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()} {jar.name}\n" for jar in sorted(folder.glob("*.jar"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True

"""A real Eureka server on loopback, and instances that register with it and renew their leases.

Its war and a Jetty to run it come from Maven Central, fetched by the Ivy that pyspark ships, once: they are kept in
`~/.cache/delorean/eureka-server` under the digests that are pinned here. Where they cannot be had, tests fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from maven import BECOME, cache, free_port, java, run_ivy
from py_eureka_client import eureka_basic

from delorean.demo.processes import Processes

EUREKA, JETTY = "1.10.1", "9.4.58.v20250814"
WAR, RUNNER = f"eureka-server-{EUREKA}.war", f"jetty-runner-{JETTY}.jar"
SHA256 = {
    WAR: "8babe5189e5b50b6e1d58a20ae74c8f7d7656f5cc371cb5e01b9bc15e1c8ae51",
    RUNNER: "b692f66bb7a53bfa739b7eb466dc2bf75bddd5bfa0e7d425cd2a0434233987c2",
}
IVY = f"""
<ivy-module version="2.0">
  <info organisation="tests" module="eureka"/>
  <dependencies>
    <dependency org="com.netflix.eureka" name="eureka-server" rev="{EUREKA}" transitive="false">
      <artifact name="eureka-server" type="war" ext="war"/>
    </dependency>
    <dependency org="org.eclipse.jetty" name="jetty-runner" rev="{JETTY}" transitive="false">
      <artifact name="jetty-runner" type="jar" ext="jar"/>
    </dependency>
  </dependencies>
</ivy-module>
"""
START_SECONDS = 120
LEASE_SECONDS = 2  # Eureka evicts twice this after the last renewal: its lease counts the duration in twice


class EurekaServer:
    """A server that evicts within a second whose lease is over. Start it as often as you stop it: at the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._processes = Processes(folder)
        self._starts = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}/eureka/v2"

    def start(self) -> None:
        """Start it, knowing nobody, and wait until it answers; on the main thread: it ends with who started it."""
        files = _fetched(cache() / "eureka-server")
        self._starts += 1
        temporary = self._folder / f"jetty-{self._starts}"
        temporary.mkdir()
        settings = {
            "java.io.tmpdir": temporary,
            "eureka.shouldUseDns": "false",
            "eureka.region": "default",
            "eureka.registration.enabled": "false",
            "eureka.shouldFetchRegistry": "false",
            "eureka.serviceUrl.default": f"{self.url}/",
            "eureka.waitTimeInMsWhenSyncEmpty": 0,
            "eureka.numberRegistrySyncRetries": 0,
            "eureka.enableSelfPreservation": "false",
            "eureka.evictionIntervalTimerInMs": 500,
            "eureka.responseCacheUpdateIntervalMs": 250,
        }
        opened = ("java.lang", "java.util", "java.lang.reflect", "java.io")
        command = [java(), "-Xmx256m", "-XX:TieredStopAtLevel=1"]
        command += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in opened]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        command += ["-jar", str(files / RUNNER), "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--path", "/eureka", str(files / WAR)]
        server = self._processes.start(f"eureka-{self._starts}", ["-c", BECOME, *command])
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{self.url}/apps/"):
            assert server.process.poll() is None, f"Eureka ended: {server.log_tail()}"
            assert time.monotonic() < deadline, f"Eureka does not answer after {START_SECONDS} s: {server.log_tail()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it; what was registered is forgotten."""
        self._processes.__exit__()
        self._processes = Processes(self._folder)

    def register(
        self, app: str, port: int, status: str = "UP", secure_port: int | None = None, lease_seconds: int = 90
    ) -> eureka_basic.Instance:
        """Register an instance; it does not renew its lease by itself."""
        instance = eureka_basic.Instance(
            instanceId=f"127.0.0.1:{port}",
            app=app,
            hostName="127.0.0.1",
            ipAddr="127.0.0.1",
            port=eureka_basic.PortWrapper(port, enabled=True),
            securePort=eureka_basic.PortWrapper(secure_port or 443, enabled=secure_port is not None),
            status=status,
            leaseInfo=eureka_basic.LeaseInfo(renewalIntervalInSecs=1, durationInSecs=lease_seconds),
        )
        asyncio.run(eureka_basic.register(self.url, instance))
        return instance

    @contextlib.asynccontextmanager
    async def renewing(self, app: str, port: int) -> AsyncIterator[None]:
        """Keep an instance registered. At the end it just stops renewing, as if its machine had died."""

        async def register() -> eureka_basic.Instance:
            return await asyncio.to_thread(self.register, app, port, lease_seconds=LEASE_SECONDS)

        instance = await register()

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 4)
                with contextlib.suppress(HTTPError):  # evicted while the machine was too busy to renew
                    await eureka_basic.send_heartbeat(self.url, app, instance.instanceId, 0)
                    continue
                await register()

        renewal = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)


def _fetched(folder: Path) -> Path:
    """Give the folder once it has both files, each as it is pinned. Runs at the same time do not disturb each other."""
    for _ in range(2):  # the network may fail once
        if all(_is_as_pinned(folder / name) for name in SHA256):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            Path(work, "ivy.xml").write_text(IVY)
            message = run_ivy(["-ivy", "ivy.xml", "-retrieve", f"{work}/[artifact]-[revision].[ext]"], Path(work))
            for name in SHA256:
                if _is_as_pinned(Path(work, name)):
                    os.replace(Path(work, name), folder / name)
    if all(_is_as_pinned(folder / name) for name in SHA256):
        return folder
    raise AssertionError(
        f"the Eureka server for tests is not in {folder} and could not be fetched from Maven Central → give this "
        f"machine access to it, or put {' and '.join(SHA256)} there. Ivy said:\n{message[-3000:]}"
    )


def _is_as_pinned(path: Path) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]
    except OSError:
        return False


def _answers(url: str) -> bool:
    try:
        urlopen(Request(url, headers={"Accept-Encoding": "gzip"}), timeout=5).close()  # it refuses to answer plainly
    except OSError:
        return False
    return True

"""A proxy as people run it: in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_SERVE = "import json, sys; from prana_proxy.server import serve; serve(sys.argv[1], json.loads(sys.argv[2]), 'json')"


@dataclass
class ProxyProcess:
    """A proxy that is ready. addresses: of the proxy; log: its events, as a file."""

    process: subprocess.Popen[str]
    addresses: list[str]
    log: Path

    @property
    def workers(self) -> list[psutil.Process]:
        """Its processes, but for the one that supervises them."""
        return [child for child in psutil.Process(self.process.pid).children() if child.is_running()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under a name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    def reported(self, page: str) -> tuple[int, str]:
        """What its HTTP port says."""
        url = f"http://{self.events('http_listening')[0]['address']}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """One of its metrics."""
        lines = self.reported("metrics")[1].splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


@contextmanager
def proxy_process(path: Path, **settings: Any) -> Iterator[ProxyProcess]:
    """Run a proxy of a services.toml, on a free port; whatever happens, none of its processes stays behind."""
    log = path.with_name("proxy.log")
    arguments = [str(path), json.dumps({"port": 0, **settings})]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _SERVE, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        family = [process]
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("Prana proxy ready on "), log.read_text()
            addresses = ready.removeprefix("Prana proxy ready on ").rpartition(": ")[0].split(",")
            running = ProxyProcess(process, addresses, log)
            family += running.workers
            yield running
        finally:
            with suppress(psutil.NoSuchProcess):
                family += psutil.Process(process.pid).children()
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def services_toml(path: Path, services: Mapping[str, Mapping[str, Any]], server: str = "") -> Path:
    """Write a services.toml, as editors do: by putting another file in its place."""
    text = server
    for name, fields in services.items():
        table = {"type": "list<int64>", "key": {"profile_id": "int64"}, "timeout_seconds": 30.0, **fields}
        text += f"\n[services.{name}]\n" + "".join(f"{field} = {_toml(value)}\n" for field, value in table.items())
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)
    return path


def until(happened: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something to happen, but not for ever. The longer it takes, the less often it is looked for."""
    started = time.monotonic()
    while not happened():
        waited = time.monotonic() - started
        assert waited < seconds, "it did not happen"
        time.sleep(min(max(0.005, waited / 50), 0.25))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)

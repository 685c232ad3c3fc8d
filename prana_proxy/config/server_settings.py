"""The proxy's own part of services.toml: `[server]`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from prana_proxy.config.toml_file import TomlContent
from prana_proxy.gateway.shared_counters import MOST_PROCESSES
from schemas.errors import ConfigError

_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Port = Annotated[int, Meta(ge=0, le=65_535)]


@dataclass(frozen=True)
class TlsConfig:
    """`[server.tls]`. Paths are relative to the file.

    certificate, key: the proxy's own, PEM
    client_authority: signs the certificates that clients must present; None: they need none
    """

    certificate: str
    key: str
    client_authority: str | None = None


@dataclass(frozen=True)
class ServerConfig:
    """How a proxy serves.

    host, port: where it listens; port 0: a free one
    processes: how many serve; ports: "one" for all, or "each" its own, counted up from `port`
    workers: calls in progress at a time, per process; queue: calls that may wait there, rejected beyond that
    max_connections: per process; idle_seconds: after which an idle one is closed
    stop_seconds: for calls in progress when the proxy is stopped
    http_port: for health, readiness and metrics; None: none
    tls: None: connections are plain
    tokens_file: one token per line, of which each connection must present one; None: none is required
    """

    host: str = "127.0.0.1"
    port: _Port = 9090
    processes: Annotated[int, Meta(ge=1, le=MOST_PROCESSES)] = 1
    ports: Literal["one", "each"] = "one"
    workers: Annotated[int, Meta(ge=1, le=1_000)] = 32
    queue: Annotated[int, Meta(ge=0, le=10_000)] = 64
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 256
    idle_seconds: _Seconds = 600.0
    stop_seconds: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    http_port: _Port | None = None
    tls: TlsConfig | None = None
    tokens_file: str | None = None

    def __post_init__(self) -> None:
        """Reject ports beyond 65535, and ports used twice."""
        if self.port and self.port_count > 1 and self.port + self.port_count - 1 > 65_535:
            raise ConfigError.because(f"port is {self.port}, but {self.processes} processes need as many from there on")
        if self.http_port and self.port <= self.http_port < self.port + self.port_count:
            raise ConfigError.because(
                f"http_port is {self.http_port}, where the proxy itself listens", "choose another"
            )

    @property
    def port_count(self) -> int:
        """How many ports the proxy listens on."""
        return self.processes if self.ports == "each" else 1


def with_files(config: ServerConfig, fields: TomlContent, folder: Path) -> ServerConfig:
    """Resolve the files that a configuration names. Raises ConfigError for one that cannot be read."""

    def resolve(name: str | None, *place: str) -> str | None:
        if name is None:
            return None
        path = folder / name
        with fields.at(("server", *place)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise ConfigError.because(
                    f"{path} cannot be read: {error.strerror}", "name a file that exists"
                ) from error
        return str(path)

    if config.tls is not None:
        tls = {name: resolve(path, "tls", name) for name, path in vars(config.tls).items()}
        config = replace(config, tls=TlsConfig(**tls))  # type: ignore[arg-type]  # only client_authority may be None
    return replace(config, tokens_file=resolve(config.tokens_file, "tokens_file"))

"""Parses `cassandra://` URIs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from prana_proxy.config.toml_file import read_toml
from schemas.errors import ConfigError

_PORT = 9042
_FORM = "cassandra://host,host/keyspace"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CONSISTENCY = {"consistency": ("LOCAL_QUORUM", "QUORUM"), "serial_consistency": ("SERIAL", "LOCAL_SERIAL")}
_SECONDS = ("timeout_seconds", "patience_seconds")
_FILES = ("authority", "certificate", "key", "credentials")
OPTIONS = ("index", "datacenter", "check_hostname", *_CONSISTENCY, *_SECONDS, *_FILES)


@dataclass(frozen=True)
class CassandraCredentials:
    """The user at the cluster. A credentials file is TOML with these two fields."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class CassandraAddress:
    """An index in a cluster, and the settings of its client.

    hosts: with ports; the driver discovers the other nodes
    index: its name: several share a keyspace
    datacenter: whose nodes get the requests; None: that of the first host that answers
    serial_consistency: LOCAL_SERIAL is faster over several datacenters, if only one of them ever publishes
    timeout_seconds: of a request; patience_seconds: how long a request that a transient fault hit is repeated
    authority: a PEM file of who signs the servers' certificates; None: connections are not encrypted
    certificate, key: PEM files of our own
    """

    hosts: tuple[tuple[str, int], ...]
    keyspace: str
    index: str = "main"
    credentials: CassandraCredentials | None = None
    datacenter: str | None = None
    consistency: str = "LOCAL_QUORUM"
    serial_consistency: str = "SERIAL"
    timeout_seconds: float = 10.0
    patience_seconds: float = 30.0
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    check_hostname: bool = True

    @property
    def uri(self) -> str:
        """The URI for messages: without credentials and options."""
        hosts = ",".join(_host_text(host, port) for host, port in self.hosts)
        return f"cassandra://{hosts}/{self.keyspace}" + ("" if self.index == "main" else f"?index={self.index}")


def read_address(uri: str) -> CassandraAddress:
    """Parse a URI, and read the credentials file it names. Raises ConfigError, whose message has no credentials."""
    try:
        parts = urlsplit(uri)
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            raise ConfigError.because("has an '@' after its hosts", "in credentials write %2F, %3F and %23 for / ? #")
        userinfo, _, hosts = parts.netloc.rpartition("@")
        address = _address(parts.path[1:], hosts, parts.query, userinfo)
        if parts.fragment:
            raise ConfigError.because("has a '#'", "write %23")
    except (ConfigError, ValueError) as error:
        raise ConfigError.because(f"index URI '{_without_credentials(uri)}': {error}") from None
    return address


def _address(keyspace: str, hosts: str, query: str, userinfo: str) -> CassandraAddress:
    nodes = [_host(host) for host in hosts.split(",")]
    if not _NAME.fullmatch(keyspace):
        raise ConfigError.because(
            f"keyspace is '{keyspace}', expected lower-case letters, digits and _",
            f"write {_FORM}, and escape /:@#? in credentials by %",
        )
    options = _options(query)
    file = options.pop("credentials", None)
    credentials = read_toml(Path(file), CassandraCredentials) if file else None
    if userinfo:
        if credentials is not None:
            raise ConfigError.because("has both credentials and a credentials file", "keep the file")
        user, _, password = userinfo.partition(":")
        credentials = CassandraCredentials(unquote(user), unquote(password))
    return CassandraAddress(tuple(nodes), keyspace, credentials=credentials, **options)


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ConfigError.because("names no host", f"write {_FORM}")
    return parts.hostname, parts.port or _PORT


def _host_text(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == _PORT else f"{name}:{port}"


def _options(query: str) -> dict[str, Any]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options: dict[str, Any] = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError.because("has an option twice", "keep one")
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigError.unknown("option", name, OPTIONS)
        if name in _CONSISTENCY and value not in _CONSISTENCY[name]:
            raise ConfigError.unknown(name, value, _CONSISTENCY[name])
        if name in _SECONDS:
            options[name] = _seconds(name, value)
        if name in _FILES and not Path(value).is_absolute():
            raise ConfigError.because(f"{name} is '{value}'", "write an absolute path")
    if not _NAME.fullmatch(options.get("index", "main")):
        raise ConfigError.because(f"index is '{options['index']}', expected lower-case letters, digits and _")
    if "check_hostname" in options:
        options["check_hostname"] = _boolean("check_hostname", options["check_hostname"])
    _check_tls_options(options)
    return options


def _check_tls_options(options: Mapping[str, Any]) -> None:
    if ("certificate" in options) != ("key" in options):
        raise ConfigError.because("has only one of certificate and key, expected both or neither")
    if "authority" not in options and ("certificate" in options or "check_hostname" in options):
        raise ConfigError.because("has no authority, so connections are not encrypted", "set authority, too")


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise ConfigError.because(f"{name} is '{text}', expected seconds from above 0 to below 3600")
    return seconds


def _boolean(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError.because(f"{name} is '{text}', expected true or false")
    return text == "true"


def _without_credentials(uri: str) -> str:
    """Remove everything that may be credentials from a URI that may be invalid."""
    return re.sub(r"//.*@", "//", uri, flags=re.DOTALL)

"""What a `cassandra://` URI says."""

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
    """Who we are to the cluster. A credentials file is TOML with these two."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class CassandraAddress:
    """Where an index is, and how to get there.

    hosts: with ports; the others of the cluster are found through them
    index: its name: several share a keyspace
    datacenter: whose nodes are asked; None: that of the first host that answers
    serial_consistency: LOCAL_SERIAL is faster over several datacenters, if only one of them ever publishes
    timeout_seconds: of a request; patience_seconds: for how long one that a passing fault hit is tried again
    authority: who signs the servers' certificates, a PEM file; None: connections are plain
    certificate, key: our own, PEM files
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
        """Give the URI for people to read: without credentials and options."""
        hosts = ",".join(_host_text(host, port) for host, port in self.hosts)
        return f"cassandra://{hosts}/{self.keyspace}" + ("" if self.index == "main" else f"?index={self.index}")


def read_address(uri: str) -> CassandraAddress:
    """Read a URI, and the credentials file that it may name. Raises ConfigError, which never shows credentials."""
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
    found = [_host(host) for host in hosts.split(",")]
    if not _NAME.fullmatch(keyspace):
        raise ConfigError.because(
            f"keyspace is '{keyspace}', expected small letters, digits and _",
            f"write {_FORM}, in credentials % for /:@#?",
        )
    options = _options(query)
    given = options.pop("credentials", None)
    credentials = read_toml(Path(given), CassandraCredentials) if given else None
    if userinfo:
        if credentials is not None:
            raise ConfigError.because("has credentials of its own and a credentials file", "keep the file")
        user, _, password = userinfo.partition(":")
        credentials = CassandraCredentials(unquote(user), unquote(password))
    return CassandraAddress(tuple(found), keyspace, credentials=credentials, **options)


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
        raise ConfigError.because(f"index is '{options['index']}', expected small letters, digits and _")
    if "check_hostname" in options:
        options["check_hostname"] = _boolean("check_hostname", options["check_hostname"])
    _refuse_half_of_tls(options)
    return options


def _refuse_half_of_tls(options: Mapping[str, Any]) -> None:
    if ("certificate" in options) != ("key" in options):
        raise ConfigError.because("has one of certificate and key, expected both or none")
    if "authority" not in options and ("certificate" in options or "check_hostname" in options):
        raise ConfigError.because("has no authority, so connections are plain", "name who signs the servers' too")


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
    """Leave out all that could be credentials, in a URI that may be anything."""
    return re.sub(r"//.*@", "//", uri, flags=re.DOTALL)

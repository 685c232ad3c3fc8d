"""What an `s3://` URI contains: a bucket, a prefix, and the server with its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from schemas.errors import ConfigError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_CONTROL = re.compile(r"^\s|[\x00-\x1f\x7f]|\s$")
_UNUSABLE = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f]")
_ADDRESSING = ("auto", "path", "virtual")


@dataclass(frozen=True)
class S3Server:
    """A server and the settings of its client.

    endpoint: `http://host:port`; None: AWS, or AWS_ENDPOINT_URL
    region: None: the profile's or AWS_DEFAULT_REGION, else us-east-1
    addressing: whether the bucket is in the path or the host name: "path", "virtual" or "auto"
    attempts: how often a request is sent at most, with growing pauses
    timeout: seconds without a byte after which an attempt has failed
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: str = "auto"
    attempts: int = 5
    timeout: float = 20.0

    def __post_init__(self) -> None:
        """Reject values that no client can have."""
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
            if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
                raise _invalid("endpoint is not http://host:port or https://host:port", "remove the rest")
        if self.addressing not in _ADDRESSING:
            raise ConfigError.unknown("addressing of an s3:// URI", self.addressing, _ADDRESSING)
        if self.attempts < 1 or not 0 < self.timeout < float("inf"):
            raise _invalid("attempts and timeout must be above 0")


@dataclass(frozen=True)
class S3Location:
    """A bucket and a prefix in it: `s3://bucket/prefix?endpoint=…&region=…&addressing=…&attempts=…&timeout=…`.

    prefix: ends with / unless it is empty
    """

    bucket: str
    prefix: str
    server: S3Server

    @classmethod
    def of(cls, uri: str) -> Self:
        """Parse a URI. Raises ConfigError, whose message does not repeat it: it may contain a secret."""
        if "#" in uri:
            raise _invalid("it has a '#', after which everything is ignored", "write %23")
        if _CONTROL.search(uri):
            raise _invalid("it has spaces at its ends, or control characters", "remove them")
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc):
            raise _invalid("it is not s3://bucket/prefix", "credentials come from the environment, a profile or a role")
        return cls(parts.netloc, _prefix(parts.path), S3Server(**_parameters(parts.query)))

    @property
    def spark_uri(self) -> str:
        """The URI for Spark's reader."""
        return f"s3a://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def spark_options(self) -> dict[str, str]:
        """The options of Spark's reader for the server; it finds credentials itself."""
        server, options = self.server, {}
        if server.endpoint is not None:
            options["endpoint"] = server.endpoint
            options["path.style.access"] = str(server.addressing != "virtual").lower()
        if server.region is not None:
            options["endpoint.region"] = server.region
        return {f"fs.s3a.bucket.{self.bucket}.{name}": value for name, value in options.items()}


def _prefix(path: str) -> str:
    """Decode the prefix. Rejects one below which Delta tables cannot be read: deltalake decodes paths twice."""
    try:
        parts = [part for part in unquote(path, errors="strict").split("/") if part]
    except UnicodeDecodeError as error:
        raise _invalid("its prefix is not UTF-8", "rename the prefix") from error
    for part in parts:
        if part in (".", "..") or _UNUSABLE.search(part):
            raise _invalid(
                "its prefix has . or .. in it, a control character or an escape like %20", "rename the prefix"
            )
    return "".join(f"{part}/" for part in parts)


def _parameters(query: str) -> dict[str, Any]:
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    for name in values:
        if name not in S3Server.__dataclass_fields__:
            raise ConfigError.unknown("parameter of an s3:// URI", name, S3Server.__dataclass_fields__)
    if len(values) < len(pairs):
        raise _invalid("it has a parameter twice", "keep one")
    return {**values, **_numbers(values)}


def _numbers(values: dict[str, str]) -> dict[str, Any]:
    try:
        return {name: kind(values[name]) for name, kind in (("attempts", int), ("timeout", float)) if name in values}
    except ValueError as error:
        raise _invalid("attempts and timeout must be numbers") from error


def _invalid(problem: str, hint: str | None = None) -> ConfigError:
    return ConfigError.because(f"s3:// URI: {problem}", hint)

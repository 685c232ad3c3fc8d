"""Where in S3 something lies, and how its server is spoken to: what an `s3://` URI says."""

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
    """A server, and how it is spoken to.

    endpoint: `http://host:port`, None: that of AWS, or what AWS_ENDPOINT_URL says
    region: None: the profile's or AWS_DEFAULT_REGION's, else us-east-1
    addressing: whether the bucket is named in the path or the host: "path", "virtual" or "auto"
    attempts: the most times that a request is sent, with longer and longer waits between
    timeout: seconds without a byte after which an attempt counts as failed
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: str = "auto"
    attempts: int = 5
    timeout: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what no client can be made of."""
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
            if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
                raise _wrong("endpoint is not http://host:port or https://host:port", "write no more than that")
        if self.addressing not in _ADDRESSING:
            raise ConfigError.unknown("addressing of an s3:// URI", self.addressing, _ADDRESSING)
        if self.attempts < 1 or not 0 < self.timeout < float("inf"):
            raise _wrong("attempts and timeout must be above 0")


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
        """Read a URI. Raises ConfigError that does not repeat it: somebody may have put a secret in."""
        if "#" in uri:
            raise _wrong("it has a '#', after which nothing would count", "write %23")
        if _CONTROL.search(uri):
            raise _wrong("it has spaces around it or control characters in it", "leave them out")
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc):
            raise _wrong("it is not s3://bucket/prefix", "credentials come from the environment, a profile or a role")
        return cls(parts.netloc, _prefix(parts.path), S3Server(**_parameters(parts.query)))

    @property
    def spark_uri(self) -> str:
        """The URI that Spark reads by."""
        return f"s3a://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def spark_options(self) -> dict[str, str]:
        """What Spark's reader is told of the server; credentials it finds by itself."""
        server, options = self.server, {}
        if server.endpoint is not None:
            options["endpoint"] = server.endpoint
            options["path.style.access"] = str(server.addressing != "virtual").lower()
        if server.region is not None:
            options["endpoint.region"] = server.region
        return {f"fs.s3a.bucket.{self.bucket}.{name}": value for name, value in options.items()}


def _prefix(path: str) -> str:
    """Read the prefix, without what Delta tables cannot be read below: deltalake decodes paths twice."""
    try:
        parts = [part for part in unquote(path, errors="strict").split("/") if part]
    except UnicodeDecodeError as error:
        raise _wrong("its prefix is not UTF-8", "rename the prefix") from error
    for part in parts:
        if part in (".", "..") or _UNUSABLE.search(part):
            raise _wrong("its prefix has . or .. in it, a control character or an escape like %20", "rename the prefix")
    return "".join(f"{part}/" for part in parts)


def _parameters(query: str) -> dict[str, Any]:
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    for name in given:
        if name not in S3Server.__dataclass_fields__:
            raise ConfigError.unknown("parameter of an s3:// URI", name, S3Server.__dataclass_fields__)
    if len(given) < len(pairs):
        raise _wrong("it has a parameter twice", "keep one")
    return {**given, **_numbers(given)}


def _numbers(given: dict[str, str]) -> dict[str, Any]:
    try:
        return {name: kind(given[name]) for name, kind in (("attempts", int), ("timeout", float)) if name in given}
    except ValueError as error:
        raise _wrong("attempts and timeout must be numbers") from error


def _wrong(problem: str, hint: str | None = None) -> ConfigError:
    return ConfigError.because(f"s3:// URI: {problem}", hint)

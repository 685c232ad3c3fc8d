"""The way to S3: one client a process for each server, with credentials by the usual chain."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError

from schemas.redaction import without_password
from snapshotter.storage.s3_location import S3Server

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Access:
    """A client, which threads may share, and the session whose credentials it has."""

    client: Any
    session: Any


def access(server: S3Server) -> Access:
    """Give this process's way to a server. Raises botocore's errors."""
    return _access(server, os.getpid())  # a forked process must not speak through its parent's connections


def endpoint_of(server: S3Server) -> str:
    """Say where a server is, for errors."""
    with suppress(BotoCoreError):
        return without_password(str(access(server).client.meta.endpoint_url))
    return server.endpoint or "AWS"


def forget_clients() -> None:
    """Have credentials looked up anew by whoever comes next: these ones were not accepted."""
    _access.cache_clear()


def delta_options(server: S3Server) -> dict[str, str]:
    """Give what deltalake must know of a server, by the same chain; it is secret. Raises botocore's errors."""
    way = access(server)
    found = way.session.get_credentials()
    if found is None:
        raise NoCredentialsError
    keys = found.get_frozen_credentials()
    options = {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_region": way.client.meta.region_name,
        "aws_virtual_hosted_style_request": str(server.addressing == "virtual").lower(),
        "aws_conditional_put": "etag",  # a commit is one conditional write
        "retry_timeout": _millis(server.timeout),  # Polars takes no max_retries as deltalake writes it
        "timeout": _millis(server.timeout),
        "connect_timeout": _millis(min(server.timeout, _CONNECT_SECONDS)),
    }
    if keys.token:
        options["aws_session_token"] = keys.token
    endpoint = way.client.meta.endpoint_url
    if ".amazonaws." not in endpoint:
        options["aws_endpoint_url"] = endpoint
        options["aws_allow_http"] = str(endpoint.startswith("http:")).lower()
    return options


@lru_cache(maxsize=8)
def _access(server: S3Server, _: int) -> Access:
    session = boto3.session.Session()
    config = Config(
        connect_timeout=min(server.timeout, _CONNECT_SECONDS),
        read_timeout=server.timeout,
        retries={"mode": "standard", "total_max_attempts": server.attempts},
        s3={"addressing_style": server.addressing},
        max_pool_connections=32,
        request_checksum_calculation="when_required",  # of other servers than AWS's not all know the newer checksums
        response_checksum_validation="when_required",
    )
    region = server.region or session.region_name or "us-east-1"
    return Access(session.client("s3", endpoint_url=server.endpoint, region_name=region, config=config), session)


def _millis(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"

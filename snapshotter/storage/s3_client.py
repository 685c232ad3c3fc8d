"""Clients of S3: one for each server in each process, with credentials from the usual chain."""

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
class S3Client:
    """A client, which threads may share, and the session whose credentials it has."""

    client: Any
    session: Any


def s3_client(server: S3Server) -> S3Client:
    """Return this process's client of a server. Raises botocore's errors."""
    return _client_of_process(server, os.getpid())  # a forked process must not use its parent's connections


def endpoint_of(server: S3Server) -> str:
    """Return a server's URL, for errors."""
    with suppress(BotoCoreError):
        return without_password(str(s3_client(server).client.meta.endpoint_url))
    return server.endpoint or "AWS"


def forget_clients() -> None:
    """Look up credentials again for the next request: these were not accepted."""
    _client_of_process.cache_clear()


def delta_options(server: S3Server) -> dict[str, str]:
    """Return deltalake's options for a server, with credentials by the same chain. Raises botocore's errors."""
    client = s3_client(server)
    credentials = client.session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    keys = credentials.get_frozen_credentials()
    options = {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_region": client.client.meta.region_name,
        "aws_virtual_hosted_style_request": str(server.addressing == "virtual").lower(),
        "aws_conditional_put": "etag",  # a commit is one conditional write
        "retry_timeout": _millis(server.timeout),  # Polars has no max_retries in deltalake's format
        "timeout": _millis(server.timeout),
        "connect_timeout": _millis(min(server.timeout, _CONNECT_SECONDS)),
    }
    if keys.token:
        options["aws_session_token"] = keys.token
    endpoint = client.client.meta.endpoint_url
    if ".amazonaws." not in endpoint:
        options["aws_endpoint_url"] = endpoint
        options["aws_allow_http"] = str(endpoint.startswith("http:")).lower()
    return options


@lru_cache(maxsize=8)
def _client_of_process(server: S3Server, _: int) -> S3Client:
    session = boto3.session.Session()
    config = Config(
        connect_timeout=min(server.timeout, _CONNECT_SECONDS),
        read_timeout=server.timeout,
        retries={"mode": "standard", "total_max_attempts": server.attempts},
        s3={"addressing_style": server.addressing},
        max_pool_connections=32,
        request_checksum_calculation="when_required",  # not all other servers know AWS's newer checksums
        response_checksum_validation="when_required",
    )
    region = server.region or session.region_name or "us-east-1"
    return S3Client(session.client("s3", endpoint_url=server.endpoint, region_name=region, config=config), session)


def _millis(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"

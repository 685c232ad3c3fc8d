"""HTTP and JSON: a GET for each context, or POSTs of many.

A batch is `POST {"contexts": [{"profile_id": 1}, …]}`, answered by `{"answers": [{"value": …} | {"error": "…"}, …]}`
in the order asked.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from datetime import date, datetime
from string import Formatter
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from prana_proxy.answers import Reply
from prana_proxy.clock import Clock
from prana_proxy.services import MEBIBYTE, Ask, Key, Protocol, ServiceConfig
from prana_proxy.services.json_answers import JsonAnswer
from schemas.services import Status

# Shorter than servers' usual 5 s, so that a pooled connection is seldom one the service is just closing.
_KEEP_ALIVE_SECONDS = 4.0
_MOST_OF_AN_ERROR = 65_536  # read, so that the connection can be used again, and thrown away
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "prana-proxy"}


class HttpProtocol(Protocol):
    """All HTTP services of a gateway: one session, its connections pooled; no cookies, no redirects, no compression."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),  # bulkheads limit instead
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # policies hold the time
            auto_decompress=False,
            headers=_HEADERS,
        )

    def asking(self, config: ServiceConfig) -> Ask:
        """Give the function that asks this service."""
        return self._asking_batches(config) if config.batched else self._asking_one(config)

    async def close(self) -> None:
        """Close the session and its connections."""
        await self._session.close()

    def _asking_one(self, config: ServiceConfig) -> Ask:
        url_of = url_template(config.url)
        answer = JsonAnswer(config)

        async def ask(keys: Sequence[Key], deadline: float) -> list[Reply]:  # noqa: ARG001  # policies hold the time
            url = url_of(keys[0])
            if url is None:
                return [Reply.failed(Status.INVALID, "a key that is empty, '.' or '..' cannot stand in a URL's path")]
            body = await self._exchange("GET", url, None, config.max_answer_bytes)
            return [body if isinstance(body, Reply) else answer.decode(body, self._clock())]

        return ask

    def _asking_batches(self, config: ServiceConfig) -> Ask:
        url = URL(config.url, encoded=True)
        answer = JsonAnswer(config)

        async def ask(keys: Sequence[Key], deadline: float) -> list[Reply]:  # noqa: ARG001
            body = await self._exchange("POST", url, msgspec.json.encode({"contexts": keys}), config.max_batch_bytes)
            return (
                [body] * len(keys) if isinstance(body, Reply) else answer.decode_batch(body, len(keys), self._clock())
            )

        return ask

    async def _exchange(self, method: str, url: URL, data: bytes | None, most: int) -> bytes | Reply:
        """Give the body of a good answer, or the reply that says why there is none."""
        headers = None if data is None else {"Content-Type": "application/json"}
        # Large bodies go as files: aiohttp sends bytes in one piece, which would hold up the other services' answers.
        body_sent = io.BytesIO(data) if data is not None and len(data) > MEBIBYTE else data
        try:
            async with self._session.request(
                method, url, data=body_sent, headers=headers, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    await _read(response, _MOST_OF_AN_ERROR)
                    hint = ": redirects are not followed" if response.status < 400 else ""
                    return Reply.failed(Status.ERROR, f"HTTP {response.status}{hint}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    return Reply.failed(Status.INVALID, "the answer is compressed, which was not asked for")
                body = await _read(response, most)
                return body or Reply.failed(
                    Status.INVALID, "the answer is empty" if body == b"" else f"the answer is larger than {most} bytes"
                )
        except aiohttp.ClientResponseError:
            return Reply.failed(Status.INVALID, "the answer is not HTTP")
        except aiohttp.ClientPayloadError:
            return Reply.failed(Status.UNREACHABLE, "the connection was cut within the answer")
        except (aiohttp.ClientError, OSError) as error:
            return Reply.failed(Status.UNREACHABLE, _why_unreachable(error, url))


def url_template(template: str) -> Callable[[Key], URL | None]:
    """Build the function that puts a key's values, percent-encoded, into a URL; None where they would change its path.

    >>> url_template("http://host/lists/{profile}?country={country}")({"profile": "a/b", "country": "U S"})
    URL('http://host/lists/a%2Fb?country=U%20S')
    """
    parts = list(Formatter().parse(template))
    path_ends = template.find("?") if "?" in template else len(template)

    def url_of(key: Key) -> URL | None:
        text, at = "", 0
        for literal, name, _, _ in parts:
            text += literal
            at += len(literal)
            if name is not None:
                value = _as_text(key[name])
                if at < path_ends and value in ("", ".", ".."):
                    return None
                text += quote(value, safe="")
                at += len(name) + 2
        return URL(text, encoded=True)

    return url_of


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Read the body; None, without reading on, when it is larger than allowed."""
    if response.content_length is not None and response.content_length > most:
        return None
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _why_unreachable(error: Exception, url: URL) -> str:
    where = f"{url.host}:{url.port}"  # never the path: it holds the key
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{where}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"{where}: {os.strerror(number) if number else 'no connection'}"
    return f"{where}: the connection was closed ({error.__class__.__name__})"

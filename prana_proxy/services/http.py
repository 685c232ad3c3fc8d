"""HTTP and JSON: a GET for each context, or POSTs of many.

A batch is `POST {"contexts": [{"profile_id": 1}, …]}`, answered by `{"answers": [{"value": …} | {"error": "…"}, …]}`
in the order asked.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import date, datetime
from string import Formatter
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from prana_proxy.answers import Cause, Reply
from prana_proxy.clock import Clock
from prana_proxy.discovery import Instance
from prana_proxy.json_answers import JsonAnswer
from prana_proxy.services import MEBIBYTE, Ask, Key, Protocol, ServiceConfig, unreachable
from schemas.errors import ConfigError
from schemas.services import Status

# Shorter than servers' usual 5 s, so that a pooled connection is seldom one the service is just closing.
_KEEP_ALIVE_SECONDS = 4.0
_MOST_OF_AN_ERROR = 65_536  # read, so that the connection can be used again, and thrown away
_NOT_OURS = (408, 425, 429)  # 4xx that tell of the service's state, not of the question
_NO_PATH = Reply.failed(Status.INVALID, "a key that is empty, '.' or '..' cannot stand in a URL's path", Cause.REQUEST)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "prana-proxy"}


class HttpProtocol(Protocol):
    """All HTTP services of a gateway: one session, its connections pooled; no cookies, no redirects, no compression."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # bulkheads limit instead
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ssl=ssl.create_default_context(),  # not the one that aiohttp made of the environment it was imported in
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # policies hold the time
            auto_decompress=False,
            headers=_HEADERS,
        )
        # aiohttp would send a request again by itself: a call that no limit, budget or count knows of.
        self._session._retry_connection = False

    @staticmethod
    def check(config: ServiceConfig) -> None:
        """Refuse what is no URL, or one that does not take just the key's variables."""
        _check_url(config.url)
        if not config.batched:
            _check_template(config.url, [variable.name for variable in config.service.key])
        elif "{" in config.url or "}" in config.url:
            raise ConfigError.because("has a {variable}, but a batch_url takes all of them in its body", "remove it")

    @staticmethod
    def own_instance(config: ServiceConfig) -> Instance:
        """Give the URL's host and port."""
        parts = urlsplit(config.url)
        return Instance(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))

    def asking(self, config: ServiceConfig) -> Ask:
        """Give the function that asks this service."""
        return self._asking_batches(config) if config.batched else self._asking_one(config)

    async def close(self) -> None:
        """Close the session and its connections."""
        await self._session.close()

    def _asking_one(self, config: ServiceConfig) -> Ask:
        path_of = path_template(_path(config.url))
        answer, exchange = _json_answer(config), _Exchange(self._session, config)

        async def ask(instance: Instance, keys: Sequence[Key], _: float) -> list[Reply]:
            path = path_of(keys[0])
            if path is None:
                return [_NO_PATH]
            body = await exchange("GET", instance, path, None, config.max_answer_bytes)
            return [body if isinstance(body, Reply) else answer.decode(body, self._clock())]

        return ask

    def _asking_batches(self, config: ServiceConfig) -> Ask:
        path = _path(config.url)
        answer, exchange = _json_answer(config), _Exchange(self._session, config)

        async def ask(instance: Instance, keys: Sequence[Key], _: float) -> list[Reply]:
            question = msgspec.json.encode({"contexts": keys})
            body = await exchange("POST", instance, path, question, config.max_batch_bytes)
            return (
                [body] * len(keys) if isinstance(body, Reply) else answer.decode_batch(body, len(keys), self._clock())
            )

        return ask


def _json_answer(config: ServiceConfig) -> JsonAnswer:
    return JsonAnswer(config.service.element.type, config.answer, config.max_answer_bytes)


class _Exchange:
    """Sends one service's requests to an instance and reads what comes back."""

    def __init__(self, session: aiohttp.ClientSession, config: ServiceConfig) -> None:
        parts = urlsplit(config.url)
        self._session, self._scheme = session, parts.scheme
        # An address from DNS is another name for the URL's host; other registries give hosts of their own.
        by_name = (config.discovery or "").startswith("dns:")
        self._headers = {"Host": parts.netloc.rpartition("@")[2]} if by_name else {}
        self._server_name = parts.hostname if by_name and parts.scheme == "https" else None

    async def __call__(
        self, method: str, instance: Instance, path: str, data: bytes | None, most: int
    ) -> bytes | Reply:
        """Give the body of a good answer, or the reply that says why there is none."""
        url = URL(f"{self._scheme}://{instance.address}{path}", encoded=True)
        headers = self._headers if data is None else {**self._headers, "Content-Type": "application/json"}
        # Large bodies go as files: aiohttp sends bytes in one piece, which would hold up the other services' answers.
        body_sent = io.BytesIO(data) if data is not None and len(data) > MEBIBYTE else data
        try:
            async with self._session.request(
                method, url, data=body_sent, headers=headers, allow_redirects=False, server_hostname=self._server_name
            ) as response:
                return await _body(response, most)
        except aiohttp.ClientResponseError:
            return Reply.failed(Status.INVALID, "the answer is not HTTP")
        except aiohttp.ClientPayloadError:
            return Reply.failed(Status.ERROR, "the connection was cut within the answer", Cause.CONNECTION)
        except (aiohttp.ClientError, OSError) as error:
            return _unreachable(error, instance)


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes | Reply:
    if response.status >= 300:
        await _read(response, _MOST_OF_AN_ERROR)
        hint = ": redirects are not followed" if response.status < 400 else ""
        ours = 400 <= response.status < 500 and response.status not in _NOT_OURS
        return Reply.failed(Status.ERROR, f"HTTP {response.status}{hint}", Cause.REQUEST if ours else Cause.SERVICE)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return Reply.failed(Status.INVALID, "the answer is compressed, which was not asked for")
    body = await _read(response, most)
    return body or Reply.failed(
        Status.INVALID, "the answer is empty" if body == b"" else f"the answer is larger than {most} bytes"
    )


def path_template(template: str) -> Callable[[Key], str | None]:
    """Build the function that puts a key's values, percent-encoded, into a path; None where they would change it.

    >>> path_template("/lists/{profile}?country={country}")({"profile": "a/b", "country": "U S"})
    '/lists/a%2Fb?country=U%20S'
    """
    parts = list(Formatter().parse(template))
    path_ends = template.find("?") if "?" in template else len(template)

    def path_of(key: Key) -> str | None:
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
        return text

    return path_of


def _path(url: str) -> str:
    """Give a URL's path and query."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


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


def _unreachable(error: Exception, instance: Instance) -> Reply:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return unreachable(instance, socket.gaierror())
    return unreachable(instance, error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = url.isascii() and bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.fragment
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in url) or "{" in f"{parts.scheme}{parts.netloc}":
        raise ConfigError.because(f"is '{url}', expected a URL", "write http://host:port/path")


def _check_template(url: str, key: list[str]) -> None:
    try:
        parsed = [
            (name, bool(spec or conversion)) for _, name, spec, conversion in Formatter().parse(url) if name is not None
        ]
    except ValueError as error:
        raise ConfigError.because(f"is '{url}': {error}", "write variables as {profile_id}") from error
    for name, formatted in parsed:
        if name not in key:
            raise ConfigError.unknown("variable of the key", name, key)
        if formatted:
            raise ConfigError.because(f"'{name}' has a format", f"write {{{name}}}")
    missing = sorted(set(key) - {name for name, _ in parsed})
    if missing:
        raise ConfigError.because(
            f"lacks '{missing[0]}', so answers cannot depend on it", f"add {{{missing[0]}}} or take it out of key"
        )


PROTOCOL = HttpProtocol

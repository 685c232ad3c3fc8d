"""HTTP and JSON: a GET for each context, or POSTs of many.

A batch is `POST {"contexts": [{"profile_id": 1}, …]}`, answered by `{"answers": [{"value": …} | {"error": "…"}, …]}`
in the order of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from string import Formatter
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from prana_proxy.clock import Clock
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.services import Ask, Key, Protocol
from prana_proxy.gateway.services.http.exchange import HttpConnections, HttpExchange
from prana_proxy.gateway.services.http.json_answers import JsonDecoder
from schemas.errors import ConfigError
from schemas.redaction import without_password
from schemas.services import Status

_NO_PATH = Reply.failed(Status.INVALID, "a key that is empty, '.' or '..' cannot stand in a URL's path", Cause.REQUEST)


class HttpProtocol(Protocol):
    """All HTTP services of a gateway, with one pool of connections; no cookies, no redirects."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._connections = HttpConnections()

    @staticmethod
    def check(config: ServiceConfig) -> None:
        """Reject an invalid URL, and one whose variables are not the key's."""
        _check_url(config.url)
        if not config.batched:
            _check_template(config.url, [variable.name for variable in config.service.key])
        elif "{" in config.url or "}" in config.url:
            raise ConfigError.because("has a {variable}, but a batch_url sends all of them in the body", "remove it")

    @staticmethod
    def own_instance(config: ServiceConfig) -> Instance:
        """Return the URL's host and port."""
        parts = urlsplit(config.url)
        return Instance(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))

    def asking(self, config: ServiceConfig) -> Ask:
        """Return the function that calls this service."""
        path, decoder, exchange = _path(config.url), _decoder(config), self._exchange(config)
        path_of = path_template(path)

        async def ask(
            instance: Instance, keys: Sequence[Key], _: float, /, *, new_connection: bool = False
        ) -> list[Reply]:
            new_connection |= not config.resend
            if config.batched:
                request = msgspec.json.encode({"contexts": keys})
                body = await exchange("POST", instance, path, request, config.max_batch_bytes, new_connection)
                if isinstance(body, Reply):
                    return [body] * len(keys)
                return decoder.decode_batch(body, len(keys), self._clock())
            own_path = path_of(keys[0])
            if own_path is None:
                return [_NO_PATH]
            body = await exchange("GET", instance, own_path, None, config.max_answer_bytes, new_connection)
            return [body if isinstance(body, Reply) else decoder.decode(body, self._clock())]

        return ask

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def _exchange(self, config: ServiceConfig) -> HttpExchange:
        parts = urlsplit(config.url)
        # An address from DNS is another name for the URL's host; other registries list hosts of their own.
        if (config.discovery or "").startswith("dns:"):
            server_name = parts.hostname if parts.scheme == "https" else None
            return HttpExchange(self._connections, parts.scheme, parts.netloc.rpartition("@")[2], server_name)
        return HttpExchange(self._connections, parts.scheme)


def _decoder(config: ServiceConfig) -> JsonDecoder:
    return JsonDecoder(config.answer_type, config.answer, config.max_answer_bytes, config.error)


def path_template(template: str) -> Callable[[Key], str | None]:
    """Build the function that puts a key's values, percent-encoded, into a path; it returns None for '.' and the like.

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
    """Return a URL's path and query."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = url.isascii() and bool(parts.hostname) and (parts.port is None or parts.port > 0) and not parts.fragment
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in url) or "{" in f"{parts.scheme}{parts.netloc}":
        raise ConfigError.because(f"is '{without_password(url)}', expected a URL", "write http://host:port/path")


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
            f"lacks '{missing[0]}', so answers cannot depend on it", f"add {{{missing[0]}}} or remove it from key"
        )


PROTOCOL = HttpProtocol

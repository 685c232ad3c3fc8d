"""Thrift: any method of a service, described by its own interface file.

`thrift://host:port/Service/method`, with `idl` the file that declares them; `thrifts` for TLS, with the certificates
that the system trusts. The binary protocol, framed; unframed with `?transport=buffered`. The default port is 9090.
`value_readers.py` documents which Thrift types fit which Arrow type, `arguments.py` how a key becomes arguments, and
`reply_decoder.py` what an exception counts as.

`url`: the method's arguments are the key's variables, by name. `answer` leads to the value through the structs of its
result.

`batch_url`: the method has one argument, a list: of a single variable's values, or of structs whose fields are the
key's variables. It returns
- `list<T>`: one answer for each context, in their order; or `map<K, T>`: answers by the key's single variable,
- T being the value, or, where `answer` is given, a struct in which it leads to the value.

`error_fields.py` documents where an answer may have an error instead of a value, or beside it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from prana_proxy.clock import Clock
from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.services import Ask, Key, Protocol, kept_connection_closed, unreachable
from prana_proxy.gateway.services.thrift.arguments import arguments_of
from prana_proxy.gateway.services.thrift.binary_protocol import UnfitError
from prana_proxy.gateway.services.thrift.connections import ConnectionCutError, ConnectionPool, Endpoint
from prana_proxy.gateway.services.thrift.idl import IdlMethod, method_of
from prana_proxy.gateway.services.thrift.reply_decoder import ReplyDecoder
from schemas.errors import ConfigError
from schemas.redaction import without_password
from schemas.services import Status

_PORT = 9090
_TRANSPORTS = ("framed", "buffered")


class ThriftProtocol(Protocol):
    """All Thrift services of a gateway."""

    has_idl: ClassVar[bool] = True

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._connections = ConnectionPool()

    @staticmethod
    def check(config: ServiceConfig) -> None:
        """Reject an invalid URL, an unknown method, and one whose arguments or result do not fit the service."""
        method = _method(config)
        arguments_of(method, config)
        ReplyDecoder(method, config)

    @staticmethod
    def own_instance(config: ServiceConfig) -> Instance:
        """Return the URL's host and port."""
        parts = urlsplit(config.url)
        return Instance(parts.hostname or "", parts.port or _PORT)

    def asking(self, config: ServiceConfig) -> Ask:
        """Return the function that calls this service."""
        method = _method(config)
        write, answers = arguments_of(method, config), ReplyDecoder(method, config)
        call = _ThriftCall(self._connections, self._endpoint_of(config), method.name, config)

        async def ask(
            instance: Instance, keys: Sequence[Key], _: float, /, *, new_connection: bool = False
        ) -> Sequence[Reply]:
            message = await call(instance, write(keys), new_connection or not config.resend)
            if isinstance(message, Reply):
                return [message] * len(keys)
            if config.batched:
                return answers.decode_batch(message, keys, self._clock())
            return [answers.decode(message, self._clock())]

        return ask

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    def _endpoint_of(self, config: ServiceConfig) -> Callable[[Instance], Endpoint]:
        parts, framed = urlsplit(config.url), _framed(config.url)
        if parts.scheme != "thrifts":
            return lambda instance: Endpoint(instance, framed)
        # An address from DNS is another name for the URL's host; other registries list hosts of their own.
        name = parts.hostname if (config.discovery or "").startswith("dns:") else None
        return lambda instance: Endpoint(instance, framed, self._tls, name)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()


class _ThriftCall:
    """Sends one service's calls to an instance and returns the answers."""

    def __init__(
        self,
        connections: ConnectionPool,
        endpoint_of: Callable[[Instance], Endpoint],
        method: str,
        config: ServiceConfig,
    ) -> None:
        self._connections, self._endpoint_of, self._method = connections, endpoint_of, method
        self._most = config.max_batch_bytes if config.batched else config.max_answer_bytes

    async def __call__(self, instance: Instance, arguments: bytes, new_connection: bool) -> bytes | Reply:
        """Return the message that answers, or the reply for a failure."""
        endpoint = self._endpoint_of(instance)
        try:
            connection = await self._connections.take(endpoint, new_connection)
        except OSError as error:
            return unreachable(instance, error)
        answered, kept = False, connection.used
        try:
            message = await connection.call(self._method, arguments, self._most)
            answered = True
        except ConnectionCutError as cut:
            if kept and not cut.begun:
                self._connections.keep_alive.was_closed(endpoint)
                return kept_connection_closed(instance)
            return _CUT if cut.begun else unreachable(instance)
        except UnfitError as error:
            return Reply.failed(Status.INVALID, str(error))
        finally:
            if answered:
                self._connections.release(endpoint, connection, kept, not new_connection)
            else:  # the answer may still arrive
                connection.close()
        return message


_CUT = Reply.failed(Status.ERROR, "the connection was cut within the answer", Cause.CONNECTION)


def _method(config: ServiceConfig) -> IdlMethod:
    assert config.idl is not None  # checked when the configuration is read
    try:
        parts = urlsplit(config.url)
        _, service, method = parts.path.split("/")
        good = bool(parts.hostname and service and method) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good or not config.url.isascii() or any(letter.isspace() for letter in config.url):
        raise ConfigError.because(
            f"is '{without_password(config.url)}', expected a service's method",
            "write thrift://host:port/Service/method",
        )
    _framed(config.url)
    return method_of(config.idl, service, method)


def _framed(url: str) -> bool:
    settings = parse_qs(urlsplit(url).query, keep_blank_values=True)
    for name in settings:
        if name != "transport":
            raise ConfigError.unknown("setting of a Thrift service", name, ["transport"])
    (transport,) = settings.get("transport", ["framed"])[-1:]
    if transport not in _TRANSPORTS:
        raise ConfigError.unknown("transport of a Thrift service", transport, _TRANSPORTS)
    return transport == "framed"


PROTOCOL = ThriftProtocol

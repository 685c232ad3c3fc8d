"""Balances calls over several proxies: in turn, avoiding those that fail or request a pause."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TException
from thrift.transport.TTransport import TTransportException

from prana_proxy.client.connection import ProxyConnection, client_context
from prana_proxy.config.credentials import ProxyCredentials
from schemas.errors import ProxyUnavailableError
from schemas.generated.ttypes import Overloaded

_T = TypeVar("_T")
_LONGEST_REST_SECONDS = 30.0
_FAILURES = (TTransportException, TProtocolException, OSError, EOFError)


class ProxyBalancer:
    """All proxies of a client, with one connection to each, opened when needed.

    addresses: host and port of each; access: credentials for all of them
    now: the system's monotonic clock
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], access: ProxyCredentials, now: Callable[[], float] = time.monotonic
    ) -> None:
        context = client_context(access)
        self._proxies = [_ProxyEndpoint(address, context, access.token) for address in addresses]
        self._turn = random.randrange(len(self._proxies))  # noqa: S311  # spreads clients over proxies, no secret
        self._current = self._proxies[self._turn]
        self._now = now

    @property
    def name(self) -> str:
        """The proxy that was called last."""
        return self._current.name

    @property
    def pause_seconds(self) -> float:
        """How long all proxies that do not fail request a pause."""
        until = [proxy.free_at for proxy in self._proxies if not proxy.failures]
        return max(0.0, min(until, default=0.0) - self._now())

    def pause(self, seconds: float) -> None:
        """Avoid the proxy that was called last for a while, as it requested."""
        self._current.free_at = self._now() + seconds

    def call(self, call: Callable[[Any], _T], deadline: float) -> _T:
        """Make a call to one proxy; when it cannot be reached, hangs up or is full, to the next.

        A fetch only reads, so repeating it is safe. Raises ProxyUnavailableError when none can be reached, and
        Overloaded when those that can are full.
        """
        failures: dict[str, Exception] = {}
        full: list[Overloaded] = []
        for proxy in self._in_turn():
            if full and proxy.failures:
                break  # waiting for one that answers is better
            self._current = proxy
            try:
                result = proxy.call(call, deadline)
            except Overloaded as error:
                proxy.answered(free_at=self._now() + error.retry_after_ms / 1000)
                full.append(error)
            except _FAILURES as error:
                proxy.failed(self._now())
                failures[proxy.name] = error
                if self._now() >= deadline:
                    break
            else:
                proxy.answered(self._now())
                return result
        if full:
            raise min(full, key=lambda error: int(error.retry_after_ms))
        raise _unavailable(failures)

    def close(self) -> None:
        """Close all connections."""
        for proxy in self._proxies:
            proxy.close()

    def _in_turn(self) -> Iterator[_ProxyEndpoint]:
        """Return those that are free, in turn, and then the others, by when they will be."""
        self._turn = (self._turn + 1) % len(self._proxies)
        turn = self._proxies[self._turn :] + self._proxies[: self._turn]
        now = self._now()
        return iter(sorted(turn, key=lambda proxy: max(now, proxy.free_at)))


class _ProxyEndpoint:
    """One proxy. failures: in a row; free_at: until when it is avoided if others are free."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None, token: str | None) -> None:
        self._address, self._context, self._token = address, context, token
        self._connection: ProxyConnection | None = None
        self.failures, self.free_at = 0, 0.0

    @property
    def name(self) -> str:
        return f"proxy {self._address[0]}:{self._address[1]}"

    def call(self, call: Callable[[Any], _T], deadline: float) -> _T:
        """Make a call; a second time if the connection was an older one, since the proxy may have been restarted."""
        if self._connection is not None:
            try:
                return self._call(self._connection, call, deadline)
            except TimeoutError:
                raise
            except _FAILURES:
                pass
        self._connection = ProxyConnection(self._address, self._context, self._token, deadline)
        return self._call(self._connection, call, deadline)

    def answered(self, free_at: float) -> None:
        self.failures, self.free_at = 0, free_at

    def failed(self, now: float) -> None:
        self.free_at = now + min(2.0**self.failures, _LONGEST_REST_SECONDS)
        self.failures += 1

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _call(self, connection: ProxyConnection, call: Callable[[Any], _T], deadline: float) -> _T:
        try:
            return call(connection.until(deadline))
        except BaseException as error:  # an interrupt leaves half an answer behind too
            # The rest of an incomplete answer may arrive later, and would be taken for another call's.
            if not isinstance(error, TException) or isinstance(error, _FAILURES):
                self.close()
            if not connection.answered and isinstance(error, ConnectionError | TTransportException):
                problem = "it closed the connection at once; it may require TLS or a client certificate"
                raise ConnectionResetError(problem) from error
            raise


def _unavailable(failures: dict[str, Exception]) -> ProxyUnavailableError:
    reasons = "; ".join(f"{name}: {_reason(error)}" for name, error in failures.items())
    if failures and all(isinstance(error, ssl.SSLError) for error in failures.values()):
        hint = "check authority, certificate and key, in [proxy] of delorean.toml"
    else:
        hint = "start one with `delorean prana serve`, or name others"
    return ProxyUnavailableError.because(f"no proxy answers ({reasons})", hint)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or error.__class__.__name__
    return str(getattr(error, "message", None) or error or error.__class__.__name__)

"""The proxy's client: many contexts in, Arrow out, in pages that fit Thrift's frames."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar

import pyarrow as pa
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport, TTransportException

from prana_proxy.ipc import from_ipc, to_ipc
from prana_proxy.wire import LARGEST_FRAME, LARGEST_PAYLOAD, protocol_factory, service_from
from schemas.errors import ConfigError, DataKeyError, ProxyUnavailableError, ServiceError
from schemas.generated.Prana import Client
from schemas.generated.ttypes import BadRequest, FetchRequest, FetchResponse, Overloaded
from schemas.services import Service, Status
from schemas.tables import answers_schema, require_columns

_T = TypeVar("_T")
_FIRST_PAGE, _LARGEST_PAGE = 500, 5_000  # contexts
_PAGE_BYTES = LARGEST_FRAME // 4  # of answers aimed at: answers differ in size
_CONNECT_SECONDS = 3.0
_GRACE_SECONDS = 5.0  # that a proxy may take beyond the budget it was given
_LIST_SECONDS = 10.0
_MOST_BUDGET_MS = 2**31 - 1


class PranaClient:
    """Asks online services through proxies. Use one for each thread, as a context manager.

    It keeps one connection, to one of the proxies at a time, and moves on to the next when that one fails.

    addresses: "host:port" of each proxy
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses or isinstance(addresses, str):
            raise ConfigError.because("no proxy addresses", 'write ["host:port", …]')
        self._addresses = [_parse(address) for address in addresses]
        self._at = random.randrange(len(self._addresses))  # noqa: S311  # spreads clients over proxies, no secret
        self._socket: TSocket | None = None
        self._client: Client | None = None
        self._protocols = protocol_factory()

    def services(self) -> dict[str, Service]:
        """Give the services behind the proxy, by name. Raises ProxyUnavailableError."""
        deadline = time.monotonic() + _LIST_SECONDS
        infos = self._call(lambda client: client.services(), deadline)
        return {info.name: service_from(info) for info in infos}

    def fetch(self, service: Service, contexts: pa.Table | pa.RecordBatch, budget: timedelta) -> pa.RecordBatch:
        """Ask one service for the state of many contexts.

        contexts: a column for each variable of the service's key; more columns are ignored
        budget: time for all of it; contexts that have no answer by then have the status timeout, or rejected if the
            service was never asked for them

        Gives `schemas.tables.answers_schema(service)`, one row for each context, in their order. Raises DataKeyError
        for contexts that lack the key, ProxyUnavailableError when no proxy answers, and ServiceError when the proxy
        refuses the call.
        """
        require_columns(f"contexts for service '{service.name}'", contexts, service.key)
        asked = contexts.select([variable.name for variable in service.key])
        asked = asked.combine_chunks() if isinstance(asked, pa.Table) else asked
        deadline = time.monotonic() + budget.total_seconds()
        pages: list[pa.RecordBatch] = []
        done, page = 0, _FIRST_PAGE
        while done < asked.num_rows:
            answers, size = self._fetch_page(service, asked.slice(done, page), deadline)
            done += answers.num_rows
            pages.append(answers)
            page = max(1, min(_LARGEST_PAGE, _PAGE_BYTES * answers.num_rows // max(size, 1)))
        table = pa.Table.from_batches(pages, schema=answers_schema(service)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=answers_schema(service))

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._client = None

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _fetch_page(
        self, service: Service, page: pa.Table | pa.RecordBatch, deadline: float
    ) -> tuple[pa.RecordBatch, int]:
        """Give the answers for the first contexts of a page, as many as came, and their size in bytes."""
        request, rows = _request(page)
        while True:
            left_ms = min(int((deadline - time.monotonic()) * 1000), _MOST_BUDGET_MS)
            if left_ms <= 0:
                return _failed(service, rows, Status.REJECTED, "not asked: the budget was spent"), 0
            fetch = FetchRequest(service.name, request, left_ms)  # type: ignore[no-untyped-call]  # generated
            try:
                response = self._call(partial(_fetch, fetch), deadline)
                return _read_answers(service, response.answers, rows), len(response.answers)
            except BadRequest as error:
                raise ServiceError.because(f"{self._where()} refused the call: {error.message}") from error
            except Overloaded as error:
                wait = error.retry_after_ms / 1000
                if time.monotonic() + wait >= deadline:
                    return _failed(service, rows, Status.REJECTED, "the proxy had no room within the budget"), 0
                time.sleep(wait)
                self._move_on()

    def _call(self, call: Callable[[Any], _T], deadline: float) -> _T:
        """Call a proxy; when it cannot be reached or hangs up, the next one, and each of them once more.

        Once more, since a kept connection may be that of a proxy which has been restarted. A fetch only reads, so that
        asking again is safe.
        """
        failures: dict[str, str] = {}
        for _ in range(2 * len(self._addresses)):
            try:
                client = self._connected(deadline)
                return call(client)
            except TApplicationException as error:
                raise ServiceError.because(f"{self._where()} failed: {error.message}", "see its log") from error
            except (TTransportException, TProtocolException, OSError) as error:
                failures[self._where()] = _reason(error)
                self._move_on()
                if time.monotonic() >= deadline:
                    break
        told = "; ".join(f"{where}: {reason}" for where, reason in failures.items())
        raise ProxyUnavailableError.because(
            f"no proxy answers ({told})", "start one with `delorean prana serve`, or name others"
        )

    def _connected(self, deadline: float) -> Client:
        left = max(deadline - time.monotonic(), 0.0)
        if self._client is None or self._socket is None:
            connection = socket.create_connection(self._addresses[self._at], min(_CONNECT_SECONDS, left + 0.1))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = TSocket()
            self._socket.setHandle(connection)
            framed = TFramedTransport(self._socket, LARGEST_FRAME)
            self._client = Client(self._protocols.getProtocol(framed))  # type: ignore[no-untyped-call]  # generated
        self._socket.setTimeout((left + _GRACE_SECONDS) * 1000)
        return self._client

    def _move_on(self) -> None:
        self.close()
        self._at = (self._at + 1) % len(self._addresses)

    def _where(self) -> str:
        host, port = self._addresses[self._at]
        return f"proxy {host}:{port}"


def _fetch(request: FetchRequest, client: Client) -> FetchResponse:
    response: FetchResponse = client.fetch(request)  # type: ignore[no-untyped-call]  # generated
    return response


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError.because(f"proxy address '{address}' is no address", "write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _request(page: pa.Table | pa.RecordBatch) -> tuple[bytes, int]:
    """Give the first contexts of a page, as many as fit a frame, as IPC and their number."""
    rows = page.num_rows
    while True:
        part = page.slice(0, rows)
        batch = part.combine_chunks().to_batches()[0] if isinstance(part, pa.Table) else part
        data = to_ipc(batch)
        if len(data) <= LARGEST_PAYLOAD:
            return data, rows
        if rows == 1:
            raise DataKeyError.because(
                f"one context takes {len(data)} bytes, more than the {LARGEST_PAYLOAD} of a call"
            )
        rows //= 2


def _read_answers(service: Service, data: bytes, most: int) -> pa.RecordBatch:
    """Check what the proxy sent before anyone relies on it."""
    try:
        table = from_ipc(data)
    except (pa.ArrowException, OSError) as error:
        raise ServiceError.because(f"the proxy's answers for '{service.name}' are no Arrow IPC stream") from error
    if table.schema != answers_schema(service):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise ServiceError.because(
            f"the proxy's answers for '{service.name}' are <{found}>, expected a value of {service.element.type}",
            "let the proxy and its client read the same services.toml",
        )
    if not 0 < table.num_rows <= most:
        raise ServiceError.because(f"the proxy sent {table.num_rows} answers of '{service.name}' for {most} contexts")
    return table.combine_chunks().to_batches()[0]


def _failed(service: Service, rows: int, status: Status, reason: str) -> pa.RecordBatch:
    schema = answers_schema(service)
    columns = [[status.value] * rows, [None] * rows, [reason] * rows, [None] * rows]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or error.__class__.__name__
    inner = getattr(error, "inner", None)
    return str(inner or getattr(error, "message", None) or error.__class__.__name__)

"""The proxy's client: many contexts in, Arrow out, in pages that fit Thrift's frames."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from thrift.Thrift import TApplicationException

from prana_proxy.client.balancing import ProxyBalancer
from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.protocol.ipc import from_ipc, to_ipc
from prana_proxy.protocol.thrift_protocol import LARGEST_FRAME, LARGEST_PAYLOAD, service_from
from schemas.closeable import Closeable
from schemas.errors import ConfigError, DataKeyError, ServiceError
from schemas.generated.ttypes import BadRequest, Denied, FetchRequest, FetchResponse, Overloaded
from schemas.services import Service, Status
from schemas.tables import answers_schema, require_columns

_T = TypeVar("_T")
_FIRST_PAGE, _LARGEST_PAGE = 500, 5_000  # contexts
_PAGE_BYTES = LARGEST_FRAME // 4  # target size of a page's answers, whose sizes differ
_LIST_SECONDS = 10.0
_MOST_BUDGET_MS = 2**31 - 1
_MOST_JITTER = 0.5  # of a wait, so that clients rejected together do not return together


class PranaClient(Closeable):
    """Fetches from online services through proxies. Use one per thread, as a context manager.

    It calls the proxies in turn, page by page, avoids those that fail or are busy for a while, and slows down when all
    of them request it.

    addresses: "host:port" of each proxy
    access: certificates and a token for the proxies; None: they require none

    Raises ConfigError for an invalid address, and for certificates that cannot be read.
    """

    def __init__(self, addresses: Sequence[str], access: ProxyCredentials | None = None) -> None:
        if not addresses or isinstance(addresses, str):
            raise ConfigError.because("no proxy addresses", 'write ["host:port", …]')
        self._proxies = ProxyBalancer([_parse(address) for address in addresses], access or ProxyCredentials())

    def services(self) -> dict[str, Service]:
        """Return the proxies' services, by name. Raises ProxyUnavailableError, or ServiceError when denied."""
        infos = self._call(lambda client: client.services(), time.monotonic() + _LIST_SECONDS)
        return {info.name: service_from(info) for info in infos}

    def fetch(self, service: Service, contexts: pa.Table | pa.RecordBatch, budget: timedelta) -> pa.RecordBatch:
        """Fetch the state of many contexts from one service.

        contexts: a column for each variable of the service's key; more columns are ignored
        budget: time for all of it; contexts that have no answer by then have the status timeout, or rejected if the
            service never received a call for them

        Returns `schemas.tables.answers_schema(service)`, one row for each context, in their order. Raises DataKeyError
        for contexts that lack the key, ProxyUnavailableError when no proxy answers, and ServiceError when the proxy
        rejects the call.
        """
        require_columns(f"contexts for service '{service.name}'", contexts, service.key)
        keys = contexts.select([variable.name for variable in service.key])
        keys = keys.combine_chunks() if isinstance(keys, pa.Table) else keys
        deadline = time.monotonic() + budget.total_seconds()
        pages: list[pa.RecordBatch] = []
        done, page = 0, _FIRST_PAGE
        while done < keys.num_rows:
            answers, size = self._fetch_page(service, keys.slice(done, page), deadline)
            done += answers.num_rows
            pages.append(answers)
            page = max(1, min(_LARGEST_PAGE, _PAGE_BYTES * answers.num_rows // max(size, 1)))
        table = pa.Table.from_batches(pages, schema=answers_schema(service)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=answers_schema(service))

    def close(self) -> None:
        """Close the connections."""
        self._proxies.close()

    def _fetch_page(
        self, service: Service, page: pa.Table | pa.RecordBatch, deadline: float
    ) -> tuple[pa.RecordBatch, int]:
        """Return the answers for the first contexts of a page, as many as fit a response, and their size in bytes."""
        request, rows = _request(page)
        while True:
            self._pause(deadline)
            left_ms = min(int((deadline - time.monotonic()) * 1000), _MOST_BUDGET_MS)
            if left_ms <= 0:
                return _failed(service, rows, Status.REJECTED, "not sent: the budget was spent"), 0
            fetch = FetchRequest(service.name, request, left_ms)  # type: ignore[no-untyped-call]  # generated
            try:
                response = self._call(partial(_fetch, fetch), deadline)
            except Overloaded as error:
                wait = error.retry_after_ms / 1000 * random.uniform(1.0, 1.0 + _MOST_JITTER)  # noqa: S311  # no secret
                if time.monotonic() + wait >= deadline:
                    return _failed(service, rows, Status.REJECTED, "the proxy was overloaded for the whole budget"), 0
                time.sleep(wait)
                continue
            self._proxies.pause((response.pause_ms or 0) / 1000)
            return _read_answers(service, response.answers, rows), len(response.answers)

    def _pause(self, deadline: float) -> None:
        """Pause as the proxies request, but never longer than half of the remaining time."""
        if (wait := self._proxies.pause_seconds) > 0:
            time.sleep(max(0.0, min(wait, (deadline - time.monotonic()) / 2)))

    def _call(self, call: Callable[[Any], _T], deadline: float) -> _T:
        try:
            return self._proxies.call(call, deadline)
        except BadRequest as error:
            raise ServiceError.because(f"{self._proxies.name} rejected the call: {error.message}") from error
        except Denied as error:
            problem = f"{self._proxies.name} requires a valid token: {error.message}"
            raise ServiceError.because(
                problem, "in delorean.toml, set [proxy] token_file to a file that contains one"
            ) from error
        except TApplicationException as error:
            raise ServiceError.because(f"{self._proxies.name} failed: {error.message}", "see its log") from error


def _fetch(request: FetchRequest, client: Any) -> FetchResponse:
    response: FetchResponse = client.fetch(request)
    return response


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        user, at, rest = address.rpartition("@")  # it may begin with a password
        shown = f"…@{rest}" if at else user or rest
        raise ConfigError.because(f"proxy address '{shown}' is not host:port", "write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _request(page: pa.Table | pa.RecordBatch) -> tuple[bytes, int]:
    """Return the first contexts of a page, as many as fit a frame, as IPC, and their number."""
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
    """Read a proxy's answers and check their schema and number."""
    try:
        table = from_ipc(data)
    except (pa.ArrowException, OSError) as error:
        raise ServiceError.because(f"the proxy's answers for '{service.name}' are not an Arrow IPC stream") from error
    if table.schema != answers_schema(service):
        columns = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise ServiceError.because(
            f"the proxy's answers for '{service.name}' are <{columns}>, expected a value of {service.element.type}",
            "use the same services.toml for the proxy and its client",
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

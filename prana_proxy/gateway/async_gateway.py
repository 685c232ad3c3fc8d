"""The gateway on an event loop: requests many contexts' state from online services and answers in Arrow.

The Thrift server and the blocking `Gateway` of serving are thin shells over it, so both turn a service's answer into
Arrow by the same code.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import pyarrow as pa

from prana_proxy.clock import open_clock
from prana_proxy.events import Event
from prana_proxy.gateway.answers import Answers, Cause, Reply
from prana_proxy.gateway.batching import Caller
from prana_proxy.gateway.config import GatewayConfig, ServiceConfig
from prana_proxy.gateway.services import Protocol, protocol_of
from prana_proxy.gateway.shared_counters import MOST_SERVICES, ProcessField, SharedCounters
from prana_proxy.gateway.tasks import TaskSet
from prana_proxy.gateway.upstream import Upstream
from schemas.errors import ConfigError, ServiceError
from schemas.services import Service, Status
from schemas.tables import require_columns

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_ROOM_SECONDS = 5.0  # for the calls of removed services to end, when a new service needs their slot
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ServiceRequest:
    """The contexts of one service's request: distinct keys, which of them have no null, and each row's key."""

    upstream: Upstream
    keys: Sequence[tuple[Any, ...]]
    complete: Sequence[int]
    rows: Sequence[int]

    @classmethod
    def of(cls, upstream: Upstream, contexts: pa.Table | pa.RecordBatch) -> ServiceRequest:
        """Read the service's key from contexts. Raises DataKeyError for contexts that lack it."""
        service = upstream.config.service
        require_columns(f"contexts for service '{service.name}'", contexts, service.key)
        rows = list(zip(*(contexts.column(variable.name).to_pylist() for variable in service.key), strict=True))
        numbers: dict[tuple[Any, ...], int] = {}
        row_keys = [numbers.setdefault(row, len(numbers)) for row in rows]
        keys = list(numbers)
        return cls(upstream, keys, [i for i, key in enumerate(keys) if None not in key], row_keys)


Requests = Mapping[str, ServiceRequest]
"""The requests to several services, by service name."""


class AsyncGateway:
    """Asks online services. Belongs to one event loop, on which it keeps one pool of connections.

    Example: `gateway = await AsyncGateway.open(config)`; close it when it is no longer needed.
    """

    def __init__(self, clock: str | None, counters: SharedCounters | None) -> None:
        self._clock = open_clock(clock)
        self._config = GatewayConfig(())
        self._owns_counters = counters is None
        self.counters = SharedCounters() if counters is None else counters
        self._changing = asyncio.Lock()
        self._tasks = TaskSet()
        self._protocols: dict[type[Protocol], Protocol] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._uses = Counter[str]()  # of each service's page, by what asks it and by what ends its calls

    @classmethod
    async def open(cls, config: GatewayConfig, counters: SharedCounters | None = None) -> Self:
        """Open a gateway to the services of a configuration.

        counters: of the services, shared with other processes so that limits hold over all of them; None: its own

        Raises ConfigError when the clock cannot be read.
        """
        gateway = cls(config.clock, counters)
        try:
            await gateway.reconfigure(config)
        except BaseException:  # also cancellation: nothing stays open
            await gateway.close()
            raise
        return gateway

    @property
    def services(self) -> dict[str, Service]:
        """The services behind this gateway, by name."""
        return {config.service.name: config.service for config in self._config.services}

    def call_size(self, service: str) -> int:
        """Return how many contexts one call of a service asks for. Raises ServiceError for an unknown service."""
        return self._find(service).config.call_size

    def prepare(self, contexts: Mapping[str, pa.Table | pa.RecordBatch]) -> Requests:
        """Read each service's keys from its contexts; safe in any thread, where large tables block nobody.

        Raises ServiceError for an unknown service and DataKeyError for contexts that lack its key.
        """
        return {name: ServiceRequest.of(self._find(name), table) for name, table in contexts.items()}

    async def ask(self, requests: Requests, budget_seconds: float) -> dict[str, Answers]:
        """Ask several services at the same time: service's name → answers. Cancelling this cancels the requests."""
        deadline = asyncio.get_running_loop().time() + budget_seconds
        asking = [_ask(request, deadline) for request in requests.values()]
        return dict(zip(requests, await _together(asking), strict=True))

    async def reconfigure(self, config: GatewayConfig) -> None:
        """Ask by another configuration from now on; calls under way end by the old one.

        Counters of a service's limits and breaker stay. The clock stays too.
        """
        if len(config.services) > MOST_SERVICES:
            raise ConfigError.because(f"more than {MOST_SERVICES} services", "divide them over several proxies")
        async with self._changing:
            before, after = self._upstreams, dict[str, Upstream]()
            try:
                for service in config.services:
                    name = service.service.name
                    upstream = before.get(name)
                    unchanged = upstream is not None and upstream.config == service
                    after[name] = (
                        upstream if upstream is not None and unchanged else await self._open(service, upstream)
                    )
                await _together([upstream.open() for upstream in after.values()])
            except BaseException:  # also when cancelled: upstreams opened so far must be closed
                self._retire(after, before)
                raise
            for upstream in after.values():
                upstream.connect(after)
            self._upstreams, self._config = after, config
            self._retire(before, after)

    async def close(self) -> None:
        """Cancel calls in flight and close connections."""
        await self._tasks.cancel()
        for upstream in self._upstreams.values():
            await upstream.close()
        for protocol in self._protocols.values():
            await protocol.close()
        if self._owns_counters:
            self.counters.close()

    def _find(self, service: str) -> Upstream:
        upstreams = self._upstreams
        if service not in upstreams:
            raise ServiceError.unknown("service", service, upstreams)
        return upstreams[service]

    async def _open(self, config: ServiceConfig, before: Upstream | None) -> Upstream:
        """Open a service; where all slots are taken, wait a moment for services whose last calls are ending."""
        name, loop = config.service.name, asyncio.get_running_loop()
        until = loop.time() + _ROOM_SECONDS
        while not self.counters.has_room(name) and loop.time() < until:
            await asyncio.sleep(_POLL_SECONDS)
        page = self.counters.page(name)
        upstream = Upstream(config, self._protocol(config.url), page, before, self._tasks)
        self._uses[name] += 1
        return upstream

    def _retire(self, old: Mapping[str, Upstream], new: Mapping[str, Upstream]) -> None:
        """Let those services that others have replaced, or that were removed, end their calls and close."""
        for name, upstream in old.items():
            if new.get(name) is not upstream:
                self._tasks.start(self._end(name, upstream, new.get(name))).add_done_callback(_log_failure)

    async def _end(self, name: str, upstream: Upstream, new: Upstream | None) -> None:
        try:
            await upstream.close_when_idle(new)
        finally:
            self._uses[name] -= 1
        while not self._uses[name] and self.counters.page(name).own[ProcessField.IN_FLIGHT]:
            await asyncio.sleep(_POLL_SECONDS)  # calls that have outlived their callers
        if not self._uses[name]:
            self.counters.release(name)

    def _protocol(self, url: str) -> Protocol:
        kind = protocol_of(url)
        if kind not in self._protocols:
            self._protocols[kind] = kind(self._clock)
        return self._protocols[kind]


async def _ask(request: ServiceRequest, deadline: float) -> Answers:
    config = request.upstream.config
    answers = Answers(config.service, len(request.keys), config.answer_type)
    _answer_null_keys(request, answers)
    caller = Caller(answers, request.complete, [request.keys[i] for i in request.complete])
    await request.upstream.ask(caller, answers, deadline)
    return answers


def _answer_null_keys(request: ServiceRequest, answers: Answers) -> None:
    """A null identifies no context, so it is never sent."""
    for i in set(range(len(request.keys))).difference(request.complete):
        name = request.upstream.config.service.key[request.keys[i].index(None)].name
        answers.add([i], [Reply.failed(Status.INVALID, f"not sent: the context's '{name}' is null", Cause.REQUEST)])


def _log_failure(closing: asyncio.Task[Any]) -> None:
    if not closing.cancelled() and (error := closing.exception()) is not None:
        _log.error(Event("closing_failed", {}), exc_info=error)


async def _together(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Wait for all; when one fails, so does this, and the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

"""The gateway: asks online services for the state of many contexts at once and answers in Arrow.

The Thrift server is a thin shell over it and serving calls it in process, so both turn a service's answer into Arrow
by the same code.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import pyarrow as pa
import uvloop

from prana_proxy.clock import open_clock
from prana_proxy.events import Event
from prana_proxy.gateway.answers import Answers, Cause, Reply
from prana_proxy.gateway.asked_service import AskedService
from prana_proxy.gateway.calls import Caller
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.ledger import MOST_SERVICES, Ledger, Own
from prana_proxy.gateway.services import Protocol, ServiceConfig, protocol_of
from schemas.errors import ConfigError, ServiceError
from schemas.services import Service, Status
from schemas.tables import require_columns

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_ROOM_SECONDS = 5.0  # for the calls of services that are gone to end, when a new service needs their room
_LOOK_SECONDS = 0.05


class Fetch:
    """Answers that are on their way. The work ends with `cancel`, if nobody else waits for it."""

    def __init__(self, questions: Mapping[str, _Questions], answers: Future[dict[str, Answers]]) -> None:
        self._questions, self._answers = questions, answers

    def result(self) -> dict[str, pa.RecordBatch]:
        """Wait for all answers: service's name → one row for each context, in their order."""
        try:
            answers = self._answers.result()
        except CancelledError as error:
            raise ServiceError.because("the call was given up: its gateway was closed while it was asking") from error
        finally:
            self.cancel()  # whoever waits may have been interrupted
        return {name: answers[name].batch(questions.rows) for name, questions in self._questions.items()}

    def cancel(self) -> None:
        """Give up: `result` raises ServiceError then."""
        self._answers.cancel()


class Gateway:
    """Asks online services. Use it as a context manager; it may be shared between threads.

    All services are asked on one event loop in a thread of the gateway's own, with one pool of connections.

    ledger: the services' numbers, shared with other processes so that limits hold over all of them; None: its own

    Raises ConfigError when the clock cannot be read.

    Example: `with Gateway(config) as gateway: answers = gateway.fetch("my_list", contexts, timedelta(seconds=2))`
    """

    def __init__(self, config: GatewayConfig, ledger: Ledger | None = None) -> None:
        self._clock = open_clock(config.clock)
        self._config = GatewayConfig(())
        self._owns_ledger = ledger is None
        self.ledger = Ledger() if ledger is None else ledger
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        self._protocols: dict[type[Protocol], Protocol] = {}
        self._asked: dict[str, AskedService] = {}
        self._uses = Counter[str]()  # of each service's page, by what asks it and by what ends its calls
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="prana-gateway", daemon=True)
        self._thread.start()
        try:
            self._run(self._use(config))
        except BaseException:  # whatever it is, the thread must not stay behind
            self.close()
            raise

    @property
    def services(self) -> dict[str, Service]:
        """The services behind this gateway, by name."""
        return {config.service.name: config.service for config in self._config.services}

    def call_size(self, service: str) -> int:
        """Say how many contexts one call of a service asks for. Raises ServiceError for an unknown service."""
        return self._find(service).config.call_size

    def start(self, contexts: Mapping[str, pa.Table | pa.RecordBatch], budget: timedelta) -> Fetch:
        """Begin to ask services, each for its own contexts, as `fetch_all` does."""
        questions = {name: _Questions.of(self._find(name), table) for name, table in contexts.items()}
        return Fetch(questions, self._submit(self._ask_all(questions, budget.total_seconds())))

    def fetch(self, service: str, contexts: pa.Table | pa.RecordBatch, budget: timedelta) -> pa.RecordBatch:
        """Ask one service for the state of many contexts.

        contexts: a column for each variable of the service's key; more columns are ignored, equal keys asked once
        budget: time for the whole call; a context that has no answer by then has the status timeout, or rejected if
            the service was never asked for it

        Gives `schemas.tables.answers_schema(service)`, one row for each context, in their order. What fails for one
        context is that row's status. Raises ServiceError for an unknown service and DataKeyError for contexts that
        lack its key.
        """
        return self.fetch_all({service: contexts}, budget)[service]

    def fetch_all(
        self, contexts: Mapping[str, pa.Table | pa.RecordBatch], budget: timedelta
    ) -> dict[str, pa.RecordBatch]:
        """Ask several services at the same time, each for its own contexts: service's name → answers as by `fetch`."""
        return self.start(contexts, budget).result()

    def reconfigure(self, config: GatewayConfig) -> None:
        """Ask by another configuration from now on; calls under way end by the old one.

        What a service's limits and breaker remember stays. The clock stays too.
        """
        self._run(self._use(config))

    def close(self) -> None:
        """Give up on calls in flight, close connections, end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._owns_ledger:
            self.ledger.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _find(self, service: str) -> AskedService:
        asked = self._asked
        if service not in asked:
            raise ServiceError.unknown("service", service, asked)
        return asked[service]

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        if self._loop.is_closed():
            work.close()
            raise ServiceError.because("the gateway is closed", "open another Gateway")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = self._submit(work)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _use(self, config: GatewayConfig) -> None:
        """Open what is new in a configuration, then switch to it, then close what is old once it is idle."""
        if len(config.services) > MOST_SERVICES:
            raise ConfigError.because(f"more than {MOST_SERVICES} services", "divide them over several proxies")
        async with self._changing:
            before, after = self._asked, dict[str, AskedService]()
            try:
                for service in config.services:
                    name = service.service.name
                    asked = before.get(name)
                    unchanged = asked is not None and asked.config == service
                    after[name] = asked if asked is not None and unchanged else await self._open(service, asked)
                await _together([asked.open() for asked in after.values()])
            except BaseException:
                self._retire(after, before)
                raise
            for asked in after.values():
                asked.connect(after)
            self._asked, self._config = after, config
            self._retire(before, after)

    async def _open(self, config: ServiceConfig, before: AskedService | None) -> AskedService:
        """Open a service; where all room is taken, wait a moment for services whose last calls are ending."""
        name, until = config.service.name, self._loop.time() + _ROOM_SECONDS
        while not self.ledger.has_room(name) and self._loop.time() < until:
            await asyncio.sleep(_LOOK_SECONDS)
        asked = AskedService(config, self._protocol(config.url), self.ledger.page(name), before)
        self._uses[name] += 1
        return asked

    def _retire(self, old: Mapping[str, AskedService], new: Mapping[str, AskedService]) -> None:
        """Let those services that others have replaced, or that are gone, end their calls and close."""
        for name, asked in old.items():
            if new.get(name) is not asked:
                closing = asyncio.ensure_future(self._end(name, asked, new.get(name)))
                self._closing.add(closing)
                closing.add_done_callback(self._closed)

    async def _end(self, name: str, asked: AskedService, new: AskedService | None) -> None:
        try:
            await asked.close_when_idle(new)
        finally:
            self._uses[name] -= 1
        while not self._uses[name] and self.ledger.page(name).own[Own.IN_FLIGHT]:
            await asyncio.sleep(_LOOK_SECONDS)  # calls that have outlived their callers
        if not self._uses[name]:
            self.ledger.release(name)

    def _closed(self, closing: asyncio.Future[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            _log.error(Event("closing_failed", {}), exc_info=error)

    def _protocol(self, url: str) -> Protocol:
        kind = protocol_of(url)
        if kind not in self._protocols:
            self._protocols[kind] = kind(self._clock)
        return self._protocols[kind]

    async def _ask_all(self, questions: Mapping[str, _Questions], budget_seconds: float) -> dict[str, Answers]:
        deadline = self._loop.time() + budget_seconds
        asking = [_ask(question, deadline) for question in questions.values()]
        return dict(zip(questions, await _together(asking), strict=True))

    async def _close(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for asked in self._asked.values():
            await asked.close()
        for protocol in self._protocols.values():
            await protocol.close()


@dataclass(frozen=True)
class _Questions:
    """What one service is asked: its distinct keys, those of them that can be asked, and for each row its key."""

    asked: AskedService
    keys: Sequence[tuple[Any, ...]]
    askable: Sequence[int]
    rows: Sequence[int]

    @classmethod
    def of(cls, asked: AskedService, contexts: pa.Table | pa.RecordBatch) -> _Questions:
        service = asked.config.service
        require_columns(f"contexts for service '{service.name}'", contexts, service.key)
        rows = list(zip(*(contexts.column(variable.name).to_pylist() for variable in service.key), strict=True))
        numbers: dict[tuple[Any, ...], int] = {}
        row_keys = [numbers.setdefault(row, len(numbers)) for row in rows]
        keys = list(numbers)
        return cls(asked, keys, [i for i, key in enumerate(keys) if None not in key], row_keys)


async def _ask(questions: _Questions, deadline: float) -> Answers:
    answers = Answers(questions.asked.config.service, len(questions.keys))
    _answer_null_keys(questions, answers)
    caller = Caller(answers, questions.askable, [questions.keys[i] for i in questions.askable])
    await questions.asked.ask(caller, answers, deadline)
    return answers


def _answer_null_keys(questions: _Questions, answers: Answers) -> None:
    """A null names nobody, so it is never asked for."""
    for i in set(range(len(questions.keys))).difference(questions.askable):
        name = questions.asked.config.service.key[questions.keys[i].index(None)].name
        answers.add([i], [Reply.failed(Status.INVALID, f"not asked: the context's '{name}' is null", Cause.REQUEST)])


async def _together(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Wait for all; when one fails, so does this, and the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

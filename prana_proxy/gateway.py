"""The gateway: asks online services for the state of many contexts at once and answers in Arrow.

The Thrift server is a thin shell over it and serving calls it in process, so both turn a service's answer into Arrow
by the same code.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import pyarrow as pa

from prana_proxy.answers import Answers, Reply
from prana_proxy.clock import Clock, open_clock
from prana_proxy.config import GatewayConfig
from prana_proxy.policies import guarded
from prana_proxy.services import Ask, Protocol, ServiceConfig, open_protocol, protocol_of
from schemas.errors import ServiceError
from schemas.services import Service, Status
from schemas.tables import require_columns

_T = TypeVar("_T")


class Gateway:
    """Asks online services. Use it as a context manager; it may be shared between threads.

    All services are asked on one event loop in a thread of the gateway's own, with one pool of connections.

    Raises ConfigError when the clock cannot be read.

    Example: `with Gateway(config) as gateway: answers = gateway.fetch("my_list", contexts, timedelta(seconds=2))`
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._configs = {service.service.name: service for service in config.services}
        clock = open_clock(config.clock)
        self._protocols: dict[str, Protocol] = {}
        self._asks: dict[str, Ask] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="prana-gateway", daemon=True)
        self._thread.start()
        try:
            self._run(self._open(clock))
        except BaseException:  # whatever it is, the thread must not stay behind
            self.close()
            raise

    @property
    def services(self) -> dict[str, Service]:
        """The services behind this gateway, by name."""
        return {name: config.service for name, config in self._configs.items()}

    def fetch(self, service: str, contexts: pa.Table | pa.RecordBatch, budget: timedelta) -> pa.RecordBatch:
        """Ask one service for the state of many contexts.

        contexts: a column for each variable of the service's key; more columns are ignored, equal keys asked once
        budget: time for the whole call; a context that has no answer by then has the status timeout

        Gives `schemas.tables.answers_schema(service)`, one row for each context, in their order. What fails for one
        context is that row's status. Raises ServiceError for an unknown service and DataKeyError for contexts that
        lack its key.
        """
        return self.fetch_all({service: contexts}, budget)[service]

    def fetch_all(
        self, contexts: Mapping[str, pa.Table | pa.RecordBatch], budget: timedelta
    ) -> dict[str, pa.RecordBatch]:
        """Ask several services at the same time, each for its own contexts: service's name → answers as by `fetch`."""
        questions = {name: _Questions.of(self._config(name), table) for name, table in contexts.items()}
        answers = self._run(self._ask_all(questions, budget.total_seconds()))
        return {name: answers[name].batch(questions[name].rows) for name in questions}

    def close(self) -> None:
        """Give up on calls in flight, close connections, end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _config(self, service: str) -> ServiceConfig:
        if service not in self._configs:
            raise ServiceError.unknown("service", service, self._configs)
        return self._configs[service]

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run on the event loop's thread and wait, also for the end of work whose waiter is interrupted."""
        if self._loop.is_closed():
            work.close()
            raise ServiceError.because("the gateway is closed", "open another Gateway")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise ServiceError.because("the gateway was closed while it was asking") from error
        finally:
            future.cancel()

    async def _open(self, clock: Clock) -> None:
        for name, config in self._configs.items():
            protocol = protocol_of(config.url)
            if protocol not in self._protocols:
                self._protocols[protocol] = open_protocol(protocol, clock)
            self._asks[name] = guarded(config, self._protocols[protocol].asking(config))

    async def _ask_all(self, questions: Mapping[str, _Questions], budget_seconds: float) -> dict[str, Answers]:
        deadline = self._loop.time() + budget_seconds
        return dict(
            zip(
                questions,
                await _together([self._ask(question, deadline) for question in questions.values()]),
                strict=True,
            )
        )

    async def _ask(self, questions: _Questions, deadline: float) -> Answers:
        """Ask for every key, as many calls at a time as the service allows."""
        config = questions.config
        ask = self._asks[config.service.name]
        answers = Answers(config.service, len(questions.keys))
        _answer_null_keys(questions, answers)
        calls = iter(
            [questions.askable[at : at + config.call_size] for at in range(0, len(questions.askable), config.call_size)]
        )

        async def ask_on() -> None:
            for call in calls:  # one iterator for all: each takes the next call
                if self._loop.time() >= deadline:
                    late = Reply.failed(Status.TIMEOUT, "not asked: the caller's deadline had passed")
                    answers.add(call, [late] * len(call))
                else:
                    answers.add(call, await ask([questions.key(i) for i in call], deadline))

        await _together([ask_on() for _ in range(min(config.max_concurrent, len(questions.askable)))])
        return answers

    async def _close(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for protocol in self._protocols.values():
            await protocol.close()


@dataclass(frozen=True)
class _Questions:
    """What one service is asked: its distinct keys, those of them that can be asked, and for each row its key."""

    config: ServiceConfig
    names: tuple[str, ...]
    keys: Sequence[tuple[Any, ...]]
    askable: Sequence[int]
    rows: Sequence[int]

    @classmethod
    def of(cls, config: ServiceConfig, contexts: pa.Table | pa.RecordBatch) -> _Questions:
        require_columns(f"contexts for service '{config.service.name}'", contexts, config.service.key)
        names = tuple(variable.name for variable in config.service.key)
        rows = list(zip(*(contexts.column(name).to_pylist() for name in names), strict=True))
        numbers: dict[tuple[Any, ...], int] = {}
        row_keys = [numbers.setdefault(row, len(numbers)) for row in rows]
        keys = list(numbers)
        askable = [i for i, key in enumerate(keys) if None not in key]
        return cls(config, names, keys, askable, row_keys)

    def key(self, i: int) -> dict[str, Any]:
        return dict(zip(self.names, self.keys[i], strict=True))


def _answer_null_keys(questions: _Questions, answers: Answers) -> None:
    """A null names nobody, so it is never asked for."""
    for i in set(range(len(questions.keys))).difference(questions.askable):
        name = next(name for name, value in questions.key(i).items() if value is None)
        answers.add([i], [Reply.failed(Status.INVALID, f"not asked: the context's '{name}' is null")])


async def _together(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Wait for all; when one fails, so does this, and the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

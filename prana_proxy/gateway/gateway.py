"""The gateway for callers in threads: an `AsyncGateway` on an event loop of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from datetime import timedelta
from typing import Any, TypeVar

import pyarrow as pa

from prana_proxy.gateway.answers import Answers
from prana_proxy.gateway.async_gateway import AsyncGateway, Requests
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.shared_counters import SharedCounters
from prana_proxy.loop_thread import LoopThread, cancel_other_tasks
from schemas.closeable import Closeable
from schemas.errors import ServiceError
from schemas.services import Service

_T = TypeVar("_T")


class Fetch:
    """A fetch under way. `cancel` ends its calls, unless other callers wait for them too."""

    def __init__(self, requests: Requests, answers: Future[dict[str, Answers]]) -> None:
        self._requests, self._answers = requests, answers

    def result(self) -> dict[str, pa.RecordBatch]:
        """Wait for all answers: service's name → one row for each context, in their order."""
        try:
            answers = self._answers.result()
        except CancelledError as error:
            raise ServiceError.because("the fetch was cancelled: its gateway was closed meanwhile") from error
        finally:
            self.cancel()  # the waiting thread may have been interrupted
        return {name: answers[name].batch(request.rows) for name, request in self._requests.items()}

    def cancel(self) -> None:
        """Cancel it: `result` raises ServiceError then."""
        self._answers.cancel()


class Gateway(Closeable):
    """Asks online services. Use it as a context manager; it may be shared between threads.

    config: the services; counters: as for `AsyncGateway.open`

    Raises ConfigError when the clock cannot be read.

    Example: `with Gateway(config) as gateway: answers = gateway.fetch("my_list", contexts, timedelta(seconds=2))`
    """

    def __init__(self, config: GatewayConfig, counters: SharedCounters | None = None) -> None:
        self._thread = LoopThread("prana-gateway")
        try:
            self._gateway = self._thread.run(AsyncGateway.open(config, counters))
        except BaseException:  # also an interrupt: the thread must not stay behind
            self._thread.close()
            raise
        self.counters = self._gateway.counters

    @property
    def services(self) -> dict[str, Service]:
        """The services behind this gateway, by name."""
        return self._gateway.services

    def start(self, contexts: Mapping[str, pa.Table | pa.RecordBatch], budget: timedelta) -> Fetch:
        """Begin to ask services, each for its own contexts, as `fetch_all` does."""
        requests = self._gateway.prepare(contexts)
        return Fetch(requests, self._submit(self._gateway.ask(requests, budget.total_seconds())))

    def fetch(self, service: str, contexts: pa.Table | pa.RecordBatch, budget: timedelta) -> pa.RecordBatch:
        """Fetch the state of many contexts from one service.

        contexts: a column for each variable of the service's key; more columns are ignored, equal keys sent once
        budget: time for the whole fetch; a context that has no answer by then has the status timeout, or rejected if
            the service never received a call for it

        Returns `schemas.tables.answers_schema(service)`, one row for each context, in their order. A failure of one
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
        """Ask by another configuration from now on, as `AsyncGateway.reconfigure` does."""
        future = self._submit(self._gateway.reconfigure(config))
        try:
            future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel calls in flight, close connections, end the thread."""
        if self._thread.closed:
            return
        self._thread.run(cancel_other_tasks())  # callers first: each gets a ServiceError
        self._thread.run(self._gateway.close())
        self._thread.close()

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        if self._thread.closed:
            work.close()
            raise ServiceError.because("the gateway is closed", "open another Gateway")
        return self._thread.submit(work)

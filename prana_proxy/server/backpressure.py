"""Measures how services keep up: asks callers to slow down, and logs when a breaker opens or closes."""

from __future__ import annotations

import logging

from prana_proxy.events import log_event
from prana_proxy.gateway.async_gateway import AsyncGateway
from prana_proxy.gateway.breaker import STATES, BreakerState
from prana_proxy.gateway.shared_counters import ProcessField, ServiceField, ServicePage

_log = logging.getLogger(__name__)
_SHORT_SECONDS = 1.0  # a backlog of up to so long keeps a service busy, as it should be
_LONGEST_MS = 2_000
_NEWEST = 0.3  # weight of the last interval in the moving average


class Backpressure:
    """The services' backlogs, of all processes together, measured at intervals.

    logs_breakers: whether this process logs the breakers, which all processes share
    """

    def __init__(self, gateway: AsyncGateway, logs_breakers: bool) -> None:
        self._gateway, self._reports = gateway, logs_breakers
        self._calls: dict[str, float] = {}
        self._per_second: dict[str, float] = {}
        self._states: dict[str, BreakerState] = {}

    def measure(self, seconds: float) -> None:
        """Measure all services; seconds: since the last time."""
        for name in self._gateway.services:
            page = self._gateway.counters.used_page(name)
            if page is None:  # it is being replaced
                continue
            calls = page.total(ProcessField.CALLS)
            rate = (calls - self._calls.get(name, calls)) / seconds
            before = self._per_second.get(name, rate)
            self._per_second[name] = before + _NEWEST * (rate - before)
            self._calls[name] = calls
            if self._reports:
                self._log_breaker(name, page)

    def pause_ms(self, service: str) -> int:
        """Return how long callers of a service should pause before their next call."""
        per_second = self._per_second.get(service, 0.0)
        page = self._gateway.counters.used_page(service)
        if per_second <= 0.0 or page is None:
            return 0
        calls = page.total(ProcessField.QUEUED) / self._gateway.call_size(service)
        return min(max(0, round(1000 * (calls / per_second - _SHORT_SECONDS))), _LONGEST_MS)

    def _log_breaker(self, name: str, page: ServicePage) -> None:
        state = STATES[int(page.shared[ServiceField.BREAKER_STATE])]
        before = self._states.get(name, BreakerState.CLOSED)
        self._states[name] = state
        if state is not before and BreakerState.CLOSED in (state, before):
            level = logging.INFO if state is BreakerState.CLOSED else logging.WARNING
            log_event(_log, level, "breaker_closed" if state is BreakerState.CLOSED else "breaker_opened", service=name)

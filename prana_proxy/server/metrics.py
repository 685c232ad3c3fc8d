"""A proxy's numbers as Prometheus reads them: straight from what its processes share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from prana_proxy.gateway.breaker import State
from prana_proxy.gateway.ledger import LATENCIES, Ledger, Own, Page, Shared
from prana_proxy.server.board import Board, Told
from schemas.services import Status

_STATES = (State.CLOSED, State.OPEN, State.HALF_OPEN)


def prometheus_text(ledger: Ledger, board: Board, beside: tuple[int, int] = (0, 0)) -> bytes:
    """Write all numbers as they are now.

    beside: failures of background work, and how much of it fails now, in a process that has no part of the board
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(ledger, board, beside))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, ledger: Ledger, board: Board, beside: tuple[int, int]) -> None:
        self._ledger, self._board, self._beside = ledger, board, beside

    def collect(self) -> Iterator[Metric]:
        yield from _of_services(self._ledger.pages())
        yield from _of_proxy(self._board)
        yield from _of_background(self._board, *self._beside)


def _of_services(pages: dict[str, Page]) -> Iterator[Metric]:
    contexts = CounterMetricFamily(
        "prana_contexts", "Contexts asked for, by what became of them.", labels=["service", "status"]
    )
    calls = CounterMetricFamily("prana_calls", "Calls made to the service.", labels=["service"])
    retries = CounterMetricFamily(
        "prana_retries", "Calls made again, to another instance or over a new connection.", labels=["service"]
    )
    seconds = HistogramMetricFamily("prana_call_seconds", "How long calls took.", labels=["service"])
    breaker = GaugeMetricFamily("prana_breaker_state", "1 for the state of the breaker.", labels=["service", "state"])
    late = CounterMetricFamily("prana_calls_late", "Calls without an outcome by the deadline.", labels=["service"])
    cut = CounterMetricFamily("prana_calls_cut", "Late calls that were ended with their caller.", labels=["service"])
    in_flight = GaugeMetricFamily("prana_in_flight", "Calls that were sent and have not ended.", labels=["service"])
    abandoned = GaugeMetricFamily(
        "prana_in_flight_abandoned", "Calls in flight for which nobody waits any more.", labels=["service"]
    )
    waiting = GaugeMetricFamily(
        "prana_calls_waiting", "Calls that wait for a place or their turn of the rate.", labels=["service"]
    )
    queued = GaugeMetricFamily("prana_queued", "Contexts that wait to be asked for.", labels=["service"])
    for name, page in pages.items():
        for i, status in enumerate(Status):
            contexts.add_metric([name, status], page.total(Own.STATUS + i))
        calls.add_metric([name], page.total(Own.CALLS))
        retries.add_metric([name], page.total(Own.RETRIES))
        counts = accumulate(page.total(Own.LATENCY + i) for i in range(len(LATENCIES)))
        buckets = [(_end(end), count) for end, count in zip(LATENCIES, counts, strict=True)]
        seconds.add_metric([name], buckets, page.total(Own.SECONDS))
        for i, state in enumerate(_STATES):
            breaker.add_metric([name, state], float(page.shared[Shared.BREAKER_STATE] == i))
        late.add_metric([name], page.total(Own.LATE))
        cut.add_metric([name], page.total(Own.CUT))
        in_flight.add_metric([name], page.total(Own.OUT))
        abandoned.add_metric([name], page.total(Own.ABANDONED))
        waiting.add_metric([name], page.total(Own.WAITING))
        queued.add_metric([name], page.total(Own.QUEUED))
    yield from (contexts, calls, retries, seconds, breaker, late, cut, in_flight, abandoned, waiting, queued)


def _of_proxy(board: Board) -> Iterator[Metric]:
    for number, name, told in (
        (Told.READY, "prana_processes_ready", "Processes that accept connections."),
        (Told.CONNECTIONS, "prana_connections", "Open connections."),
        (Told.ANSWERING, "prana_server_calls_answering", "Callers' calls that are being answered."),
        (Told.WAITING, "prana_server_calls_waiting", "Callers' calls that wait in line."),
    ):
        yield GaugeMetricFamily(name, told, board.total(number))
    for number, name, told in (
        (Told.CALLS, "prana_server_calls", "Callers' calls that have come."),
        (Told.STARTS, "prana_process_starts", "Starts of processes."),
    ):
        yield CounterMetricFamily(name, told, board.total(number))
    refused = CounterMetricFamily("prana_server_refused", "What was refused, by reason.", labels=["reason"])
    for number in (Told.OVERLOADED, Told.MALFORMED, Told.DENIED, Told.TOO_MANY):
        refused.add_metric([number.name.lower()], board.total(number))
    yield refused
    config_ok = min(part[Told.CONFIG_OK] for part in board.parts)
    yield GaugeMetricFamily("prana_config_ok", "1 if what services.toml says is what is served by.", config_ok)
    changed = max(part[Told.CONFIG_CHANGED_AT] for part in board.parts)
    yield GaugeMetricFamily("prana_config_changed_timestamp_seconds", "When it changed last.", changed)
    build = GaugeMetricFamily("prana_build_info", "The version.", labels=["version"])
    build.add_metric([_version()], 1.0)
    yield build


def _of_background(board: Board, failures: int, failing: int) -> Iterator[Metric]:
    """Describe work such as following services.toml, of all processes together."""
    failures_seen = board.total(Told.BACKGROUND_FAILURES) + failures
    yield CounterMetricFamily("prana_background_failures", "Failures of background work.", failures_seen)
    failing_now = board.total(Told.BACKGROUND_FAILING) + failing
    yield GaugeMetricFamily("prana_background_failing", "Background work that fails now.", failing_now)


def _end(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else f"{seconds:g}"


def _version() -> str:
    try:
        return version("delorean-features")
    except PackageNotFoundError:  # run from a folder
        return "unknown"

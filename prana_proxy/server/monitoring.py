"""The proxy's HTTP port: health, readiness and metrics. It never shows a key, an answer or a secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from prana_proxy import supervised
from prana_proxy.gateway.breaker import STATES
from prana_proxy.gateway.shared_counters import LATENCIES, ProcessField, ServiceField, ServicePage, SharedCounters
from prana_proxy.server.proxy import address_of, listen
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from schemas.services import Status

_TEXT = "text/plain; version=0.0.4; charset=utf-8"  # as Prometheus requires


@asynccontextmanager
async def http_port(
    host: str, port: int, counters: SharedCounters, worker_status: WorkerStatus, *, supervises: bool = False
) -> AsyncIterator[str]:
    """Serve health, readiness and metrics; gives the address. Raises SetupError when the port is taken.

    supervises: whether this process has no part of `worker_status`, since it is none of those that serve
    """

    async def health(_: web.Request) -> web.Response:
        names = [f"failing: {name}\n" for name in supervised.failing()]
        elsewhere = round(worker_status.total(WorkerField.BACKGROUND_FAILING)) if supervises else 0
        names += [f"failing in the processes that serve: {elsewhere}, see their log\n"] if elsewhere else []
        return web.Response(text="".join(["alive\n", *names]))

    async def ready(_: web.Request) -> web.Response:
        is_ready = worker_status.total(WorkerField.READY) > 0
        return web.Response(text="ready\n" if is_ready else "not ready\n", status=200 if is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        supervisor = (supervised.failures(), len(supervised.failing())) if supervises else (0, 0)
        return web.Response(body=prometheus_text(counters, worker_status, supervisor), headers={"Content-Type": _TEXT})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    listener = listen(host, port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield address_of(listener, host)
    finally:
        await runner.cleanup()
        listener.close()


def prometheus_text(
    counters: SharedCounters, worker_status: WorkerStatus, supervisor: tuple[int, int] = (0, 0)
) -> bytes:
    """Return all metrics in Prometheus' text format.

    supervisor: failures of background work and pieces failing now, of a process not included in `worker_status`
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ProxyCollector(counters, worker_status, supervisor))
    return generate_latest(registry)


class _ProxyCollector(Collector):
    def __init__(self, counters: SharedCounters, worker_status: WorkerStatus, supervisor: tuple[int, int]) -> None:
        self._counters, self._worker_status, self._beside = counters, worker_status, supervisor

    def collect(self) -> Iterator[Metric]:
        yield from _of_services(self._counters.pages())
        yield from _of_proxy(self._worker_status)
        yield from _of_background(self._worker_status, *self._beside)


def _of_services(pages: dict[str, ServicePage]) -> Iterator[Metric]:
    contexts = CounterMetricFamily("prana_contexts", "Contexts requested, by status.", labels=["service", "status"])
    calls = CounterMetricFamily("prana_calls", "Calls sent to the service.", labels=["service"])
    retries = CounterMetricFamily(
        "prana_retries", "Calls sent again, to another instance or over a new connection.", labels=["service"]
    )
    seconds = HistogramMetricFamily("prana_call_seconds", "Duration of calls.", labels=["service"])
    breaker = GaugeMetricFamily("prana_breaker_state", "1 for the breaker's state.", labels=["service", "state"])
    late = CounterMetricFamily("prana_calls_late", "Calls without an outcome by the deadline.", labels=["service"])
    cut = CounterMetricFamily("prana_calls_cut", "Late calls that were cancelled at the deadline.", labels=["service"])
    in_flight = GaugeMetricFamily("prana_in_flight", "Calls that were sent and have not ended.", labels=["service"])
    abandoned = GaugeMetricFamily(
        "prana_in_flight_abandoned", "Calls in flight whose callers have stopped waiting.", labels=["service"]
    )
    waiting = GaugeMetricFamily(
        "prana_calls_waiting", "Calls that wait for max_concurrent or calls_per_second.", labels=["service"]
    )
    queued = GaugeMetricFamily("prana_queued", "Contexts that wait to become part of a call.", labels=["service"])
    for name, page in pages.items():
        for i, status in enumerate(Status):
            contexts.add_metric([name, status], page.total(ProcessField.STATUS + i))
        calls.add_metric([name], page.total(ProcessField.CALLS))
        retries.add_metric([name], page.total(ProcessField.RETRIES))
        counts = accumulate(page.total(ProcessField.LATENCY + i) for i in range(len(LATENCIES)))
        buckets = [(_end(end), count) for end, count in zip(LATENCIES, counts, strict=True)]
        seconds.add_metric([name], buckets, page.total(ProcessField.SECONDS))
        for i, state in enumerate(STATES):
            breaker.add_metric([name, state], float(page.shared[ServiceField.BREAKER_STATE] == i))
        late.add_metric([name], page.total(ProcessField.LATE))
        cut.add_metric([name], page.total(ProcessField.CUT))
        in_flight.add_metric([name], page.total(ProcessField.OUT))
        abandoned.add_metric([name], page.total(ProcessField.ABANDONED))
        waiting.add_metric([name], page.total(ProcessField.WAITING))
        queued.add_metric([name], page.total(ProcessField.QUEUED))
    yield from (contexts, calls, retries, seconds, breaker, late, cut, in_flight, abandoned, waiting, queued)


def _of_proxy(worker_status: WorkerStatus) -> Iterator[Metric]:
    for number, name, help_text in (
        (WorkerField.READY, "prana_processes_ready", "Processes that accept connections."),
        (WorkerField.CONNECTIONS, "prana_connections", "Open connections."),
        (WorkerField.ANSWERING, "prana_server_calls_answering", "Callers' calls that are being answered."),
        (WorkerField.WAITING, "prana_server_calls_waiting", "Callers' calls that wait in the queue."),
    ):
        yield GaugeMetricFamily(name, help_text, worker_status.total(number))
    for number, name, help_text in (
        (WorkerField.CALLS, "prana_server_calls", "Callers' calls received."),
        (WorkerField.STARTS, "prana_process_starts", "Starts of processes."),
    ):
        yield CounterMetricFamily(name, help_text, worker_status.total(number))
    refused = CounterMetricFamily("prana_server_refused", "Rejected calls and connections.", labels=["reason"])
    for number in (WorkerField.OVERLOADED, WorkerField.MALFORMED, WorkerField.DENIED, WorkerField.TOO_MANY):
        refused.add_metric([number.name.lower()], worker_status.total(number))
    yield refused
    config_ok = min(part[WorkerField.CONFIG_OK] for part in worker_status.processes)
    yield GaugeMetricFamily("prana_config_ok", "1 if the current services.toml is in effect.", config_ok)
    changed = max(part[WorkerField.CONFIG_CHANGED_AT] for part in worker_status.processes)
    yield GaugeMetricFamily("prana_config_changed_timestamp_seconds", "When it was applied.", changed)
    build = GaugeMetricFamily("prana_build_info", "The version.", labels=["version"])
    build.add_metric([_version()], 1.0)
    yield build


def _of_background(worker_status: WorkerStatus, failures: int, failing: int) -> Iterator[Metric]:
    """Count failures of work such as following services.toml, of all processes together."""
    failures_seen = worker_status.total(WorkerField.BACKGROUND_FAILURES) + failures
    yield CounterMetricFamily("prana_background_failures", "Failures of background work.", failures_seen)
    failing_now = worker_status.total(WorkerField.BACKGROUND_FAILING) + failing
    yield GaugeMetricFamily("prana_background_failing", "Pieces of background work that fail now.", failing_now)


def _end(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else f"{seconds:g}"


def _version() -> str:
    try:
        return version("delorean-features")
    except PackageNotFoundError:  # run from a folder
        return "unknown"

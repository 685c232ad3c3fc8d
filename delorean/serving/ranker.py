"""The live scorer: fetches from services, builds the data map, runs the model's encoders, scores and ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from delorean.exposures import ExposureLog
from delorean.packaging.package import ModelPackage
from delorean.serving.answer import Answer, Ranking
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.request import RankRequest, RequestReader
from delorean.serving.served_package import ServedPackage, check_services
from delorean.serving.served_tests import PackagedTest, ServedTests
from delorean.step_timer import StepTimer
from prana_proxy.clock import system_clock
from prana_proxy.gateway import Gateway
from schemas.errors import DataKeyError
from schemas.tables import TIME
from snapshotter.records import from_micros

DEFAULT_BUDGET = timedelta(milliseconds=500)
VersionsOf = Callable[[ModelPackage], GlobalVersions]


class Ranker:
    """Ranks candidates with a packaged model over live services, or with those of a test's cells.

    package: answers requests that are in no test
    versions: of the global elements that the packages read; a function where they differ by package
    clock: returns the time of a request that names none, microseconds since the epoch. A request may name a time only
        if this is a clock that can be set, as in a demo or a replay: services always answer with their current state
    budget: for all services together; elements of services that do not answer in time are absent
    tests: that decide which package answers
    log: gets every answered ranking, except for replays

    Raises ConfigError if the gateway lacks a service of a model, has it with another key, or with a type that cannot
    be read as the model's, and AbTestError for tests that cannot be served together or with other variables.
    """

    def __init__(
        self,
        package: ModelPackage,
        gateway: Gateway,
        versions: GlobalVersions | VersionsOf,
        clock: Callable[[], int],
        budget: timedelta = DEFAULT_BUDGET,
        *,
        tests: Sequence[PackagedTest] = (),
        log: ExposureLog | None = None,
    ) -> None:
        self.package, self.warm, self.budget, self.log = package, False, budget, log
        self._gateway, self._clock = gateway, clock
        self._reader = RequestReader(package.context, package.items, package.tasks)
        self._served: dict[str, ServedPackage] = {}

        def serve(each: ModelPackage) -> ServedPackage:
            if each.digest not in self._served:
                check_services(each, gateway.services)
                own = versions if isinstance(versions, GlobalVersions) else versions(each)
                self._served[each.digest] = ServedPackage(each, own)
            return self._served[each.digest]

        self._default = serve(package)
        self.tests = ServedTests(package, tests, serve)

    @property
    def packages(self) -> tuple[ModelPackage, ...]:
        """All packages that answer requests, the default one first."""
        return tuple(served.package for served in self._served.values())

    def warm_up(self) -> None:
        """Compile all encoders and verify them. Raises GoldenRowsError if the golden rows differ."""
        if not self.warm:
            for served in self._served.values():
                served.warm_up()
            self.warm = True

    def rank(self, body: bytes, timer: StepTimer | None = None, ends: float | None = None) -> dict[str, Any]:
        """Rank the candidates of a request.

        body: the request as JSON, see `RequestReader`
        timer: measures the steps
        ends: the `time.monotonic()` at which the budget of the services ends; None: the whole budget from now

        Raises DataKeyError for a request that does not fit the model's variables.
        """
        timer = timer or StepTimer()
        with timer.step("read"):
            request = self._read(body)
            moment = self._clock() if request.time is None else request.time
            when = from_micros(moment)
            cell = self.tests.cell_of(request.context, when, request.shape.lacking)
            packages = (self._default,) if cell is None else cell.packages
        contexts = request.context.append_column("time", pa.array([moment], pa.int64()).cast(TIME))
        with timer.step("fetch"):
            services = {service.name for served in packages for service in served.package.services}
            asked = {service.name: contexts for served in packages for service in served.services_of(request.task)}
            answers = self._gateway.fetch_all(asked, self._left(ends))
        with timer.step("versions"):
            replay = request.time is not None
            versions = {served: served.valid_versions(when, replay=replay) for served in packages}
        with timer.step("encode"):
            encoded = {served: served.encode(contexts, request.items, answers, own) for served, own in versions.items()}
        with timer.step("score"):
            rankings = {
                served: Ranking.of(served.package, request.task, versions[served], features, absent)
                for served, (features, absent) in encoded.items()
            }
        with timer.step("write"):
            made = tuple(rankings[served] for served in packages)
            answer = Answer(request, moment, cell, made, answers, frozenset(services - asked.keys()))
            if self.log is not None and request.time is None:
                self.log.append(answer.exposure())
            return answer.document(tested=bool(self.tests.packaged))

    @property
    def problem(self) -> str | None:
        """What is wrong with the versions that requests are answered from, for people; None if nothing is."""
        versions = {id(served.versions): served.versions for served in self._served.values()}
        problems = [each.problem for each in versions.values()]
        problems += [] if self.log is None else [self.log.problem]
        return "; ".join(problem for problem in problems if problem) or None

    def _read(self, body: bytes) -> RankRequest:
        request = self._reader.read(body)
        if request.time is not None:
            self._refuse_past_times()
        for table in (request.context, request.items):
            _refuse_far_times(table)
        return request

    def _left(self, ends: float | None) -> timedelta:
        if ends is None:
            return self.budget
        return timedelta(seconds=max(ends - time.monotonic(), 0))

    def _refuse_past_times(self) -> None:
        if self._clock is system_clock:
            raise DataKeyError.because(
                "the request names a time, but services answer with their current state: two times would be mixed",
                "leave time out; for a replay serve with a clock that can be set (`clock` in services.toml)",
            )


def _refuse_far_times(table: pa.Table) -> None:
    """Raise DataKeyError for a time that cannot be written into a response or sent to a service."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            try:
                column.to_pylist()
            except (OverflowError, ValueError) as error:
                raise DataKeyError.because(f"'{name}' is beyond the years 1 to 9999", "correct it") from error

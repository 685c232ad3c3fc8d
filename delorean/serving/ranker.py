"""The live scorer: fetches from services, builds the data map, runs the model's encoders, scores and ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.packaging.package import ModelPackage
from delorean.serving.assemble import assemble
from delorean.serving.global_versions import GlobalVersions, LoadedVersion
from delorean.serving.request import RankRequest, RequestReader
from delorean.step_timer import StepTimer
from encoders.data_map import ABSENT, DataMaps
from prana_proxy.clock import system_clock
from prana_proxy.gateway import Gateway
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError
from schemas.services import OnFallback, Service
from schemas.tables import TIME, python_rows
from snapshotter.records import from_micros

_REPLAY = "global elements are those of the requested time, services answered with their current state"
DEFAULT_BUDGET = timedelta(milliseconds=500)


class Ranker:
    """Ranks candidates with a packaged model over live services.

    versions: of the global elements that the model reads
    clock: returns the time of a request that names none, microseconds since the epoch. A request may name a time only
        if this is a clock that can be set, as in a demo or a replay: services always answer with their current state
    budget: for all services together; elements of services that do not answer in time are absent

    Raises ConfigError if the gateway lacks a service of the model, has it with another key, or with a type that cannot
    be read as the model's.
    """

    def __init__(
        self,
        package: ModelPackage,
        gateway: Gateway,
        versions: GlobalVersions,
        clock: Callable[[], int],
        budget: timedelta = DEFAULT_BUDGET,
    ) -> None:
        self.package, self.warm, self.budget = package, False, budget
        self._gateway, self._versions, self._clock = gateway, versions, clock
        self._reader = RequestReader(package.context, package.items)
        self._elements, self._globals = package.feature_model.elements, global_elements(package)
        self._without_fallback = {
            service.element.name for service in package.services if service.on_fallback is OnFallback.ABSENT
        }
        check_services(package, gateway.services)

    def warm_up(self) -> None:
        """Compile all encoders and verify them. Raises GoldenRowsError if the golden rows differ."""
        if not self.warm:
            self.package.bound.warm_up()
            self.package.check_golden_rows()
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
            request = self._reader.read(body)
            if request.time is not None:
                self._refuse_past_times()
            for table in (request.context, request.items):
                _refuse_far_times(table)
        moment = self._clock() if request.time is None else request.time
        when = from_micros(moment)
        contexts = request.context.append_column("time", pa.array([moment], pa.int64()).cast(TIME))
        with timer.step("fetch"):
            answers = self._gateway.fetch_all({s.name: contexts for s in self.package.services}, self._left(ends))
        with timer.step("versions"):
            versions = self._versions.newest(when) if request.time is None else self._versions.at(when)
        with timer.step("encode"):
            maps = self._data_maps(contexts, request.items, answers, versions)
            features = self.package.bound.encode(maps)
        with timer.step("score"):
            scores = self.package.score(features)
        with timer.step("write"):
            return {
                "time": when,
                **({} if request.time is None else {"replay": _REPLAY}),
                "ranked": _ranked(request, scores, features),
                "services": {name: _status(batch) for name, batch in answers.items()},
                "globals": {name: loaded and _version(loaded) for name, loaded in versions.items()},
                "missing": sorted(name for name, element in maps.elements.items() if element.rows[0] == ABSENT),
            }

    @property
    def problem(self) -> str | None:
        """What is wrong with the versions that requests are answered from, for people; None if nothing is."""
        return self._versions.problem

    def _data_maps(
        self,
        contexts: pa.Table,
        items: pa.Table,
        answers: Mapping[str, pa.RecordBatch],
        versions: Mapping[str, LoadedVersion | None],
    ) -> DataMaps:
        return assemble(
            contexts,
            items,
            np.array([0, len(items)]),
            {service.element.name: answers[service.name] for service in self.package.services},
            {name: self._values(name, loaded) for name, loaded in versions.items()},
            without_fallback=self._without_fallback,
            read_as=self._elements,
        )

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

    def _values(self, name: str, loaded: LoadedVersion | None) -> pa.Array:
        return loaded.values if loaded else pa.array([], pa.list_(self._globals[name].type))


def global_elements(package: ModelPackage) -> dict[str, DataKey]:
    """Return the global elements that a model reads, by name."""
    elements = package.feature_model.elements
    return {name: key for name, key in elements.items() if key.kind is Kind.GLOBAL_ELEMENT}


def check_services(package: ModelPackage, services: Mapping[str, Service]) -> None:
    """Raise ConfigError unless the services, by name, are those that a model was trained with.

    Their types may have changed where answers can be read as the model's type.
    """
    for trained in package.services:
        configured = services.get(trained.name)
        if configured is None:
            raise ConfigError.unknown("service in the gateway", trained.name, services)
        element = package.feature_model.elements[trained.element.name]
        declared = (configured.element.name, configured.key, configured.on_fallback)
        if declared != (element.name, trained.key, trained.on_fallback):
            raise ConfigError.because(
                f"service '{trained.name}' is configured as {configured.to_json()}, the model was trained with "
                f"{trained.to_json()}",
                "configure it as it was, or train again",
            )
        try:
            element.adapter(configured.element.type)
        except DataKeyError as error:
            raise ConfigError(f"service '{trained.name}' does not fit the model: {error}") from error
        for variable in trained.key:
            if variable not in package.context:
                raise ConfigError.because(
                    f"service '{trained.name}' needs {variable.name} ({variable.type}), which is not a variable of "
                    "the model's contexts",
                    "train with label data that contains it",
                )


def _refuse_far_times(table: pa.Table) -> None:
    """Raise DataKeyError for a time that cannot be written into a response or sent to a service."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            try:
                column.to_pylist()
            except (OverflowError, ValueError) as error:
                raise DataKeyError.because(f"'{name}' is beyond the years 1 to 9999", "correct it") from error


def _ranked(
    request: RankRequest, scores: NDArray[np.float32], features: Mapping[str, NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """Return the candidates with the best scores first; equal scores in the order of the request."""
    order = np.argsort(-scores, kind="stable")[: request.k]
    items = python_rows(request.items.take(order))
    ranked = [
        {"item": item, "position": int(row), "score": _number(scores[row])}
        for item, row in zip(items, order, strict=True)
    ]
    if request.explain:
        for entry, row in zip(ranked, order, strict=True):
            entry["features"] = {name: _shown(values[row]) for name, values in features.items()}
    return ranked


def _shown(value: np.float32 | NDArray[np.float32]) -> Any:
    """Convert a feature's value to JSON: a number, or the list of a vector's components."""
    return [_number(each) for each in value] if isinstance(value, np.ndarray) else _number(value)


def _number(value: np.float32) -> float | str | None:
    """Convert a float32 to JSON without loss: NaN becomes null and infinities become text, which JSON lacks."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _status(batch: pa.RecordBatch) -> dict[str, Any]:
    row: dict[str, Any] = batch.select(["status", "captured_at", "reason"]).to_pylist()[0]
    return row


def _version(loaded: LoadedVersion) -> dict[str, Any]:
    return {"version_id": loaded.version.version_id, "valid_from": loaded.version.valid_from}

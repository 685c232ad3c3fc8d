"""A package as the scorer uses it: with its versions of global elements, and checked against the gateway's services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.packaging.package import ModelPackage
from delorean.serving.assemble import assemble
from delorean.serving.global_versions import GlobalVersions, LoadedVersion
from encoders.data_map import ABSENT, Element
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError
from schemas.services import OnFallback, Service

Versions = Mapping[str, LoadedVersion | None]
Features = Mapping[str, NDArray[np.float32]]


class ServedPackage:
    """A package with its versions of global elements; several packages may share one `GlobalVersions`."""

    def __init__(self, package: ModelPackage, versions: GlobalVersions) -> None:
        self.package, self.versions = package, versions
        self._elements, self._globals = package.feature_model.elements, global_elements(package)
        self._services = _services_by_task(package)
        self._without_fallback = {
            service.element.name for service in package.services if service.on_fallback is OnFallback.ABSENT
        }

    def services_of(self, task: str | None) -> tuple[Service, ...]:
        """Return the services that a request is asked from: those that a feature of its task is computed from.

        task: None for a package without tasks
        """
        return self._services[task]

    def warm_up(self) -> None:
        """Compile all encoders and verify them. Raises GoldenRowsError if the golden rows differ."""
        self.package.bound.warm_up()
        self.package.check_golden_rows()

    def valid_versions(self, when: datetime, *, replay: bool) -> Versions:
        """Return the version of each global element that is valid now, or was at a replay's time."""
        return self.versions.at(when) if replay else self.versions.newest(when)

    def encode(
        self, contexts: pa.Table, items: pa.Table, answers: Mapping[str, pa.RecordBatch], versions: Versions
    ) -> tuple[Features, frozenset[str]]:
        """Compute the features of a context's items; also return the names of the elements that it lacked.

        answers: of the services that were asked; those that do not apply to the request's task were not
        """
        maps = assemble(
            contexts,
            items,
            np.array([0, len(items)]),
            {each.element.name: answers[each.name] for each in self.package.services if each.name in answers},
            {name: self._values(name, loaded) for name, loaded in versions.items()},
            without_fallback=self._without_fallback,
            read_as=self._elements,
        )
        absent = frozenset(name for name, element in maps.elements.items() if element.rows[0] == ABSENT)
        if len(maps.elements) < len(self._elements):
            others = {name: _absent(key) for name, key in self._elements.items() if name not in maps.elements}
            maps = replace(maps, elements={**maps.elements, **others})
        return self.package.bound.encode(maps), absent

    def _values(self, name: str, loaded: LoadedVersion | None) -> pa.Array:
        return loaded.values if loaded else pa.array([], pa.list_(self._globals[name].type))


def _services_by_task(package: ModelPackage) -> dict[str | None, tuple[Service, ...]]:
    if package.tasks is None:
        return {None: package.services}
    services: dict[str | None, tuple[Service, ...]] = {}
    for task in package.tasks.tasks:
        encoders = [each for each in package.feature_model.encoders if not {*each.features} <= {*task.without}]
        read = {key.name for encoder in encoders for key in encoder.data}
        services[task.name] = tuple(
            service
            for service in package.services
            if service.element.name in read and {key.name for key in service.key} <= {*task.context}
        )
    return services


def _absent(element: DataKey) -> Element:
    return Element(pa.array([], element.type), np.array([ABSENT]))


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

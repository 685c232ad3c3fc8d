"""Reads experiments from TOML and checks them in advance: each error names the file, the line and the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from delorean.ab_tests.files import is_ab_test, read_test
from delorean.experiment.checks import check_spec
from delorean.experiment.encoder_spec import EncoderSpec
from delorean.experiment.spec import ExperimentSpec
from delorean.experiment.task_spec import encoder_specs
from encoders import FeatureEncoder, FeatureModel
from encoders.declared_elements import declared_element
from prana_proxy.config.toml_file import TomlFile
from prana_proxy.config.toml_lines import TomlPath
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError
from snapshotter.index import SnapshotIndex
from snapshotter.selection.declarations import NamedSelection, load_selections


def load_experiment(path: str | Path, index: SnapshotIndex | None = None) -> ExperimentSpec:
    """Read an experiment's spec and check it.

    index: also check that it has captures of what the encoders read

    Raises ConfigError with the file, the line, the field and the nearest valid name.
    """
    file = TomlFile.read(path)
    spec = file.build(ExperimentSpec)
    spec = replace(spec, name=spec.name or Path(path).stem, folder=spec.folder or str(Path(path).resolve().parent))
    elements = _check_encoders(file, spec)
    check_spec(spec, file)
    _check_policies(file, spec, elements)
    if index is not None:
        _check_captured(file, spec, index)
    return spec


def contexts_to_select(path: str | Path) -> tuple[NamedSelection, ...]:
    """Read context selections: of an experiment's spec and its tasks, of an A/B test, or of `[experiments.<id>]`."""
    content = TomlFile.read(path).content
    if is_experiment(content):
        return load_experiment(path).selections
    if is_ab_test(content):
        return (read_test(path).selection,)
    return load_selections(path)


def is_experiment(content: Mapping[str, Any]) -> bool:
    """Whether the content of a TOML file is an experiment's spec."""
    return "labels" in content or "tasks" in content


def selects_contexts(content: Mapping[str, Any]) -> bool:
    """Whether the content of a TOML file selects contexts: for an experiment, its tasks, a test, or several of them."""
    tasks = content.get("tasks")
    of_tasks = tasks.values() if isinstance(tasks, Mapping) else ()
    if is_experiment(content):
        return "contexts" in content or any(isinstance(each, Mapping) and "contexts" in each for each in of_tasks)
    return "experiments" in content or (is_ab_test(content) and "contexts" in content)


def had_ended(path: str | Path, content: Mapping[str, Any], day: date) -> bool:
    """Whether a TOML file is an A/B test whose units could no longer enter when a day began, UTC."""
    end = read_test(path).end if is_ab_test(content) else None
    return end is not None and end <= datetime.combine(day, time(), UTC)


def _check_encoders(file: TomlFile, spec: ExperimentSpec) -> Mapping[str, DataKey]:
    """Import every encoder and return the elements that they read."""
    loaded = []
    for place, encoder in _placed_encoders(spec):
        with file.at(place):
            loaded.append(encoder.load())
            _check_declared(loaded[-1], file.path)
    with file.at("encoders"):
        if not loaded:
            raise ConfigError.because("no encoder, so no feature", 'write encoders = ["module:name"]')
        return FeatureModel(loaded).elements


def _placed_encoders(spec: ExperimentSpec) -> Iterator[tuple[TomlPath, EncoderSpec]]:
    """Yield each encoder's place in the file, of one that several tasks have its first, and the encoder."""
    places: list[TomlPath] = [("encoders", i) for i in range(len(spec.encoders))]
    own = {name: list(encoder_specs(task.encoders)) for name, task in spec.tasks.items()}
    for encoder, owners in spec.encoder_owners:
        if owners:
            places.append(("tasks", owners[0], "encoders", own[owners[0]].index(encoder)))
    yield from zip(places, spec.encoder_specs, strict=True)


def _check_declared(encoder: FeatureEncoder, spec: str | Path) -> None:
    """Raise ConfigError where the project's services declare an element with a type that the encoder cannot read."""
    for key in encoder.data:
        declared = declared_element(key.name, spec)
        if declared is not None and declared.kind is key.kind:
            try:
                key.adapter(declared.type)
            except DataKeyError as error:
                raise ConfigError(
                    f"encoder '{encoder.title}' does not fit the service that declares '{key.name}': {error}"
                ) from error


def _check_policies(file: TomlFile, spec: ExperimentSpec, elements: Mapping[str, DataKey]) -> None:
    for table, policies in (("as_of", spec.as_of), ("confidence", spec.confidence)):
        for name in policies:
            if name not in elements:
                raise file.error((table, name), ConfigError.unknown("element that encoders read", name, elements))
    for name, rule in spec.as_of.items():
        if rule.as_published and elements[name].kind is not Kind.GLOBAL_ELEMENT:
            raise file.error(("as_of", name), "as_published is for global elements", "remove it")
    for name in spec.confidence:
        if elements[name].kind is Kind.GLOBAL_ELEMENT:
            raise file.error(("confidence", name), "is a global element, whose versions are complete", "remove it")


def _check_captured(file: TomlFile, spec: ExperimentSpec, index: SnapshotIndex) -> None:
    services = {service.element.name for service in index.elements()}
    captured = {Kind.SERVICE_ELEMENT: services, Kind.GLOBAL_ELEMENT: set(index.global_elements())}
    for place, encoder in _placed_encoders(spec):
        for key in encoder.load().data:
            if key.name not in captured[key.kind]:
                what = "captured element" if key.kind is Kind.SERVICE_ELEMENT else "published global element"
                raise file.error(place, ConfigError.unknown(what, key.name, captured[key.kind]))

"""Reads experiments from TOML and checks them in advance: each error names the file, the line and the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from delorean.ab_tests.files import read_test
from delorean.experiment.checks import check_spec
from delorean.experiment.spec import ExperimentSpec
from encoders import FeatureEncoder, FeatureModel
from encoders.declared_elements import declared_element
from prana_proxy.config.toml_file import TomlFile
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
    """Read context selections: `[contexts]` of an experiment's spec or of an A/B test, or `[experiments.<id>]`."""
    content = TomlFile.read(path).content
    if "labels" in content:
        return (load_experiment(path).selection,)
    if "cells" in content:
        return (read_test(path).selection,)
    return load_selections(path)


def _check_encoders(file: TomlFile, spec: ExperimentSpec) -> Mapping[str, DataKey]:
    """Import every encoder and return the elements that they read."""
    loaded = []
    for i, encoder in enumerate(spec.encoder_specs):
        with file.at(("encoders", i)):
            loaded.append(encoder.load())
            _check_declared(loaded[-1], file.path)
    with file.at("encoders"):
        if not loaded:
            raise ConfigError.because("no encoder, so no feature", 'write encoders = ["module:name"]')
        return FeatureModel(loaded).elements


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
    for i, encoder in enumerate(spec.encoder_specs):
        for key in encoder.load().data:
            if key.name not in captured[key.kind]:
                what = "captured element" if key.kind is Kind.SERVICE_ELEMENT else "published global element"
                raise file.error(("encoders", i), ConfigError.unknown(what, key.name, captured[key.kind]))

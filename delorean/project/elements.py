"""The data elements of a project: declared in its services.toml, or captured and published in its index."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from delorean.project.config import Project
from encoders.declared_elements import ProjectElements
from prana_proxy.config.services_file import load_gateway_config
from schemas.data_keys import DataKey, by_name
from snapshotter.index import open_index
from snapshotter.records import END_OF_TIME


def elements_of(project: Project) -> ProjectElements:
    """Return where to read the elements of a project. Nothing is read or opened yet."""
    return ProjectElements(partial(_declared, Path(project.services)), partial(_captured, project.index))


def _declared(services: Path) -> Mapping[str, DataKey]:
    """Read the elements of services.toml; a project without one declares none. Raises ConfigError, DataKeyError."""
    if not services.is_file():
        return {}
    return by_name(each.service.element for each in load_gateway_config(services).services)


def _captured(index_uri: str) -> Mapping[str, DataKey]:
    """Return the elements that were captured, as their service last declared them, and those that were published."""
    with open_index(index_uri) as index:
        captured = {service.element.name: service.element for service in reversed(index.elements())}
        for name in index.global_elements():
            for version in index.global_versions(name, END_OF_TIME, 1, skip_unreadable=True):
                captured[name] = version.element
        return captured

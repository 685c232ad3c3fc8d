"""The files that a person writes: TOML, read into frozen dataclasses and nowhere else."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from schemas.errors import ConfigError, DeloreanError

PROJECT_FILE = "delorean.toml"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Project:
    """Where a project's things lie: `delorean.toml`.

    index, storage: URIs; a plain path is SQLite's or a folder, relative to the file
    proxies: "host:port" of Prana proxies that snapshots ask
    services: the file that tells proxies and the scorer about the online services, relative to this file
    encoders: modules, with those below them, that encoders of packages may be imported from
    spark: settings of the Spark session, by Spark's own names
    """

    index: str = "data/index.db"
    storage: str = "data"
    proxies: tuple[str, ...] = ("127.0.0.1:9090",)
    services: str = "services.toml"
    encoders: tuple[str, ...] = ("encoders.library",)
    spark: Mapping[str, str] = field(default_factory=dict)


def load_project(path: Path) -> Project:
    """Read a project file, making its paths absolute. Raises ConfigError with the file and the field."""
    if not path.is_file():
        raise ConfigError.because(
            f"there is no project file {path}", "write one, or name it with --config; see the README, `delorean.toml`"
        )
    project = read_toml(path, Project)
    root = path.resolve().parent
    return replace(
        project,
        index=_as_uri(project.index, "sqlite", root),
        storage=_as_uri(project.storage, "file", root),
        services=str(root / project.services),
    )


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Read a TOML file as a frozen dataclass. Raises ConfigError that names the file, the field and what it expects."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError.because(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError.because(f"{path}: is not TOML: {error}") from error
    _refuse_unknown(path, "", content, kind)
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise ConfigError.because(f"{path}: {place.strip('.`') or 'the file'}: {problem}") from error
    except DeloreanError as error:  # a dataclass's own check
        raise ConfigError.because(f"{path}: {error}") from error


def _refuse_unknown(path: Path, place: str, value: Any, annotation: Any) -> None:
    """Look for fields that nobody reads, wherever the annotation has a dataclass."""
    union = get_origin(annotation) in (Union, UnionType)
    for kind in get_args(annotation) if union else (annotation,):
        if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
            known = get_type_hints(kind)
            for name, inner in value.items():
                if name not in known:
                    raise ConfigError.unknown(f"field in {path}:", place + name, [place + other for other in known])
                _refuse_unknown(path, f"{place}{name}.", inner, known[name])
        elif isinstance(value, Mapping) and get_origin(kind) is Mapping:
            for name, inner in value.items():
                _refuse_unknown(path, f"{place}{name}.", inner, get_args(kind)[1])
        elif isinstance(value, list) and get_origin(kind) is tuple:
            for i, inner in enumerate(value):
                _refuse_unknown(path, f"{place.rstrip('.')}[{i}].", inner, get_args(kind)[0])


def _as_uri(given: str, scheme: str, root: Path) -> str:
    return given if urlsplit(given).scheme else (root / given).resolve().as_uri().replace("file", scheme, 1)

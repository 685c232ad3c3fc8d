"""The project file, `delorean.toml`: where a project's things lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import ConfigError
from schemas.toml_file import read_toml

PROJECT_FILE = "delorean.toml"


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
    """Read a project file, making its paths absolute. Raises ConfigError with the file, the line and the field."""
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


def _as_uri(given: str, scheme: str, root: Path) -> str:
    return given if urlsplit(given).scheme else (root / given).resolve().as_uri().replace("file", scheme, 1)

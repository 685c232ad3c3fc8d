"""Declares which contexts to select for each date, in Python or in TOML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prana_proxy.config.toml_file import TomlFile
from schemas.errors import ConfigError
from snapshotter.selection.quotas import named_strata, sample_problem, sample_size
from snapshotter.storage import require_plain_name
from snapshotter.storage.table_source import TableSource

SEPARATOR = "."  # between a name space and a name: folders, tags and Airflow's ids may contain it


def in_namespace(namespace: str, name: str) -> str:
    """Return the name of an experiment in a name space; one that is in it already, or empty, stays as it is.

    >>> in_namespace("alice", "homepage"), in_namespace("alice", "alice.homepage"), in_namespace("", "homepage")
    ('alice.homepage', 'alice.homepage', 'homepage')

    Raises ConfigError for a name space that is no plain name without dots, and for the name of another name space.
    """
    if not namespace:
        return name
    require_plain_name("name space", namespace)
    if SEPARATOR in namespace:
        raise ConfigError.because(f"name space '{namespace}' contains a dot", "name spaces have no others within them")
    if not name or name.startswith(f"{namespace}{SEPARATOR}"):
        return name
    if SEPARATOR in name:
        raise ConfigError.because(
            f"experiment '{name}' is in name space '{namespace}', but its name contains a dot", "rename it"
        )
    return f"{namespace}{SEPARATOR}{name}"


def namespace_of(name: str) -> str:
    """Return the name space of an experiment; "" if it has none.

    >>> namespace_of("alice.homepage"), namespace_of("homepage")
    ('alice', '')
    """
    return name.partition(SEPARATOR)[0] if SEPARATOR in name else ""


@dataclass(frozen=True)
class ContextSelection:
    """A stratified sample of the contexts that a query returns for a date.

    query: Spark SQL over any tables; `:date` is bound as a parameter of type DATE
    key: columns of the query's result that make the context's key
    strata: columns by which the sample is stratified; none: all contexts are one stratum
    quota: number of contexts per stratum: one number for all, or by the stratum's values, one level of nesting for each
        column of strata, where `default` stands for all values that are not named:
        `{"US": {"tv": 100, "default": 5}, "default": 50}`
    fraction: instead of a quota: the share of each stratum, in (0, 1]; counts are rounded up
    seed: another seed gives another sample
    services: those that its contexts are captured from; None: all that can be asked by the variables of its key

    >>> ContextSelection("SELECT profile_id FROM plays", key=("profile_id",), fraction=0.1).sample_size((), 25)
    3
    """

    query: str
    key: tuple[str, ...]
    strata: tuple[str, ...] = ()
    quota: int | Mapping[str, Any] | None = None  # a `Quota`; msgspec cannot convert to types that contain themselves
    fraction: float | None = None
    seed: int = 0
    services: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be selected."""
        if not self.query.strip():
            raise self._error("query is empty", 'write query = "SELECT …"')
        named = {"key": self.key, "strata": self.strata, "services": self.services or ()}
        for name, columns in named.items():
            if isinstance(columns, str) or len(set(columns)) != len(columns):
                kind = "names" if name == "services" else "columns"
                raise self._error(f"{name} is {columns!r}, expected a list of different {kind}")
        if self.services is not None and not self.services:
            raise self._error("services is empty", 'name some, such as services = ["history"], or leave it out: all')
        if not self.key:
            raise self._error("key is empty", 'write key = ["profile_id"]')
        problem, hint = sample_problem(self.quota, self.fraction, self.strata)
        if problem:
            raise self._error(problem, hint)

    def sample_size(self, stratum: tuple[str, ...], population: int) -> int:
        """Return how many contexts to select from a stratum.

        >>> quota = {"US": {"tv": 100, "default": 5}, "default": 50}
        >>> selection = ContextSelection("SELECT …", ("profile_id",), ("country", "device"), quota)
        >>> [selection.sample_size(stratum, 1000) for stratum in [("US", "tv"), ("US", "phone"), ("FR", "tv")]]
        [100, 5, 50]
        """
        return sample_size(self.quota, self.fraction, stratum, population)

    def named_strata(self) -> list[tuple[str, ...]]:
        """Return the strata that the quota names in full."""
        return named_strata(self.quota, len(self.strata)) if self.strata and self.quota is not None else []

    def _error(self, problem: str, hint: str | None = None) -> ConfigError:
        return ConfigError.because(problem, hint)


@dataclass(frozen=True, kw_only=True)
class NamedSelection(ContextSelection):
    """A context selection with the id that marks its contexts in the context set, and the tables of its query.

    id: the experiment's name
    tables: names for the query, besides those that Spark knows
    """

    id: str
    tables: Mapping[str, TableSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject what cannot be selected."""
        if not self.id:
            raise ConfigError.because("a context selection has no id", "name the experiment that it is for")
        super().__post_init__()

    def to_json(self) -> dict[str, Any]:
        """Return the selection as plain fields."""
        tables = {
            name: {field: value for field, value in vars(source).items() if value is not None}
            for name, source in self.tables.items()
        }
        fields = {**vars(self), "tables": tables}
        if self.services is None:  # ids of context sets depend on the fields of earlier releases
            del fields["services"]
        return fields

    @property
    def digest(self) -> str:
        """A hash of the selection's content."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def _error(self, problem: str, hint: str | None = None) -> ConfigError:
        return ConfigError.because(f"experiment '{self.id}': {problem}", hint)


@dataclass(frozen=True)
class _FileSelection(ContextSelection):
    """A selection in a file. Here `fraction = 1` stays an integer, because the ids of context sets depend on it."""

    fraction: int | float | None = None


@dataclass(frozen=True)
class _SelectionsFile:
    namespace: str = ""
    experiments: Mapping[str, _FileSelection] = field(default_factory=dict)
    tables: Mapping[str, TableSource] = field(default_factory=dict)


def load_selections(path: str | Path) -> tuple[NamedSelection, ...]:
    """Read context selections from TOML: the tables `[experiments.<id>]`, which share `[tables]` and `namespace`.

    Relative paths of tables start at the file's folder. Raises ConfigError with the file, the line and the field.
    """
    file = TomlFile.read(path)
    content = file.build(_SelectionsFile)
    if not content.experiments:
        raise file.error((), "no experiment", "write a table [experiments.my_experiment]")
    tables = {name: source.beside(path) for name, source in content.tables.items()}
    with file.at("namespace"):
        ids = {name: in_namespace(content.namespace, name) for name in content.experiments}
    return tuple(
        NamedSelection(**vars(selection), id=ids[name], tables=tables)
        for name, selection in content.experiments.items()
    )

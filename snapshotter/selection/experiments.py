"""Declares which contexts an experiment wants: in Python, or in TOML that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from prana_proxy.config.toml_file import TomlFile
from schemas.errors import ConfigError
from snapshotter.storage.table_source import TableSource

DEFAULT = "default"
Quota: TypeAlias = "int | Mapping[str, Quota]"


@dataclass(frozen=True)
class Experiment:
    """The contexts that one experiment wants of each date.

    id: its name
    query: Spark SQL over any tables; `:date` is bound as a parameter of type DATE
    key: columns of the query's result that make the context's key
    strata: columns by which the sample is stratified; none: all contexts are one stratum
    quota: contexts wanted of each stratum: one number for all, or by the stratum's values, one level of nesting for
        each column of strata, `default` standing for all values not named:
        `{"US": {"tv": 100, "default": 5}, "default": 50}`
    fraction: instead of a quota: the share wanted of each stratum, in (0, 1]; counts are rounded up
    seed: another one gives another sample
    tables: names for the query besides those that Spark knows
    """

    id: str
    query: str
    key: tuple[str, ...]
    strata: tuple[str, ...] = ()
    quota: Quota | None = None
    fraction: float | None = None
    seed: int = 0
    tables: Mapping[str, TableSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be selected."""
        if not self.id or not self.query.strip():
            raise self._wrong("an experiment needs an id and a query")
        for name, columns in (("key", self.key), ("strata", self.strata)):
            if isinstance(columns, str) or len(set(columns)) != len(columns):
                raise self._wrong(f"{name} is {columns!r}, expected a list of different columns")
        if not self.key:
            raise self._wrong("key is empty", 'write key = ["profile_id"]')
        if (self.quota is None) == (self.fraction is None):
            raise self._wrong("needs either a quota or a fraction", "write quota = 100 or fraction = 0.1")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise self._wrong(f"fraction is {self.fraction}, expected one in (0, 1]")
        if self.quota is not None:
            self._check_quota(self.quota, len(self.strata))

    def asked(self, stratum: tuple[str, ...], population: int) -> int:
        """How many contexts are wanted of a stratum.

        >>> wanted = {"US": {"tv": 100, "default": 5}, "default": 50}
        >>> experiment = Experiment("e", "SELECT …", ("profile_id",), ("country", "device"), wanted)
        >>> [experiment.asked(stratum, 1000) for stratum in [("US", "tv"), ("US", "phone"), ("FR", "tv")]]
        [100, 5, 50]
        """
        if self.fraction is not None:
            return -(-population * Fraction(repr(self.fraction)) // 1)  # exact: 0.1 of 30 is 3, not 4
        quota: Quota | None = self.quota
        for value in stratum:
            if isinstance(quota, Mapping):
                quota = quota.get(value, quota.get(DEFAULT))
        return quota if isinstance(quota, int) else 0

    def named_strata(self) -> list[tuple[str, ...]]:
        """Give the strata that the quota names in full."""
        return _named(self.quota, len(self.strata)) if self.strata and self.quota is not None else []

    def to_json(self) -> dict[str, Any]:
        """Write the experiment as plain fields."""
        tables = {
            name: {field: value for field, value in vars(source).items() if value is not None}
            for name, source in self.tables.items()
        }
        return {**vars(self), "tables": tables}

    def _check_quota(self, quota: Quota, levels: int) -> None:
        if isinstance(quota, Mapping):
            if levels == 0:
                raise self._wrong(f"quota nests deeper than its strata {list(self.strata)}: {dict(quota)}")
            for name, inner in quota.items():
                if not isinstance(name, str):
                    raise self._wrong(f"quota names {name!r}, expected the stratum's value as text")
                self._check_quota(inner, levels - 1)
        elif not isinstance(quota, int) or isinstance(quota, bool) or quota < 0:
            raise self._wrong(f"quota is {quota!r}, expected a count of contexts >= 0")

    def _wrong(self, problem: str, hint: str | None = None) -> ConfigError:
        return ConfigError.because(f"experiment '{self.id}': {problem}", hint)


@dataclass(frozen=True)
class _Wanted:
    """What a file says of one experiment: all but its name, and the tables that it shares with the others.

    quota: checked by `Experiment`, since types that contain themselves cannot be converted to
    """

    query: str
    key: tuple[str, ...]
    strata: tuple[str, ...] = ()
    quota: Any = None
    fraction: int | float | None = None
    seed: int = 0


@dataclass(frozen=True)
class _ExperimentsFile:
    experiments: Mapping[str, _Wanted] = field(default_factory=dict)
    tables: Mapping[str, TableSource] = field(default_factory=dict)


def load_experiments(path: str | Path) -> tuple[Experiment, ...]:
    """Read experiments from TOML, as `Experiment` has them, in `[experiments.<id>]`; `[tables]` is shared by all.

    Relative paths of tables start at the file's folder. Raises ConfigError with the file, the line and the field.
    """
    file = TomlFile.read(path)
    content = file.build(_ExperimentsFile)
    if not content.experiments:
        raise file.error((), "no experiment", "write a table [experiments.my_experiment]")
    tables = {name: source.beside(path) for name, source in content.tables.items()}
    experiments = []
    for name, wanted in content.experiments.items():
        with file.at(("experiments", name)):
            experiments.append(Experiment(id=name, **vars(wanted), tables=tables))
    return tuple(experiments)


def _named(quota: Quota, levels: int) -> list[tuple[str, ...]]:
    if levels == 0:
        return [()]
    if not isinstance(quota, Mapping):
        return []
    return [(value, *rest) for value, inner in quota.items() if value != DEFAULT for rest in _named(inner, levels - 1)]

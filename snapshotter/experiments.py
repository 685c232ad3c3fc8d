"""Declares which contexts an experiment wants: in Python, or in TOML that says the same."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from schemas.errors import ConfigError

DEFAULT = "default"
Quota: TypeAlias = "int | Mapping[str, Quota]"


@dataclass(frozen=True)
class TableSource:
    """Where a table that a query names lies.

    format: any that Spark can load, such as parquet or delta
    """

    path: str
    format: str = "parquet"


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
        return {**vars(self), "tables": {name: vars(source) for name, source in self.tables.items()}}

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


def load_experiments(path: str | Path) -> tuple[Experiment, ...]:
    """Read experiments from TOML, as `Experiment` has them, in `[experiments.<id>]`; `[tables]` is shared by all.

    Relative paths of tables start at the file's folder. Raises ConfigError with the file and the field.
    """
    where = Path(path)
    try:
        content = tomllib.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError.because(f"{where}: {error}") from error
    _refuse_unknown(where, "", content, ["experiments", "tables"])
    tables = {
        name: _table(where, name, given) for name, given in _section(where, "tables", content.get("tables", {})).items()
    }
    experiments = _section(where, "experiments", content.get("experiments", {}))
    if not experiments:
        raise ConfigError.because(f"{where}: no experiment", "write a table [experiments.my_experiment]")
    return tuple(_experiment(where, name, given, tables) for name, given in experiments.items())


def _experiment(where: Path, name: str, given: Any, tables: Mapping[str, TableSource]) -> Experiment:
    place = f"experiments.{name}"
    given = _section(where, place, given)
    known = [known.name for known in fields(Experiment) if known.name not in ("id", "tables")]
    _refuse_unknown(where, f"{place}.", given, known)
    expected: dict[str, type | tuple[type, ...]] = {
        "query": str,
        "key": list,
        "strata": list,
        "seed": int,
        "fraction": (int, float),
        "quota": (int, dict),
    }
    for field_name, value in given.items():
        _expect(where, f"{place}.{field_name}", value, expected[field_name])
    for field_name in ("query", "key"):
        if field_name not in given:
            raise ConfigError.because(f"{where}: {place}.{field_name} is missing")
    columns = {name: tuple(given[name]) for name in ("key", "strata") if name in given}
    for field_name, names in columns.items():
        for column in names:
            _expect(where, f"{place}.{field_name}", column, str)
    try:
        return Experiment(id=name, **{**given, **columns}, tables=tables)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _table(where: Path, name: str, given: Any) -> TableSource:
    place = f"tables.{name}"
    given = _section(where, place, given)
    _refuse_unknown(where, f"{place}.", given, ["path", "format"])
    for field_name, value in given.items():
        _expect(where, f"{place}.{field_name}", value, str)
    if "path" not in given:
        raise ConfigError.because(f"{where}: {place}.path is missing", "a table that Spark knows needs no entry")
    path = given["path"]
    if not urlsplit(path).scheme:
        path = str(where.resolve().parent / path)
    return TableSource(path, given.get("format", "parquet"))


def _section(where: Path, place: str, given: Any) -> dict[str, Any]:
    _expect(where, place, given, dict)
    section: dict[str, Any] = given
    return section


def _expect(where: Path, place: str, given: Any, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(given, kinds) or isinstance(given, bool):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise ConfigError.because(f"{where}: {place} is {given!r}, expected {names}")


def _refuse_unknown(where: Path, place: str, given: Mapping[str, Any], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError.unknown(f"field in {where}:", f"{place}{name}", [f"{place}{field}" for field in known])


def _named(quota: Quota, levels: int) -> list[tuple[str, ...]]:
    if levels == 0:
        return [()]
    if not isinstance(quota, Mapping):
        return []
    return [(value, *rest) for value, inner in quota.items() if value != DEFAULT for rest in _named(inner, levels - 1)]

"""Generations that have an id: run again after whatever happened, one gives what it would have given, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from delorean.feature_sets.table import FOLDER, FeatureSet, made_by
from delorean.state.sources import Pinned
from schemas.errors import ConfigError, CorruptFileError, MissingFileError
from snapshotter.storage import Storage, require_plain_name

PLANS = f"{FOLDER}/_plans"  # no feature set's name starts with _
_log = logging.getLogger(__name__)


class _Begun(msgspec.Struct, frozen=True):
    """What lies in the storage of a run that has begun: what was wanted, and what it reads."""

    wanted: Mapping[str, Any]
    pinned: Pinned


@dataclass(frozen=True)
class NamedRun:
    """A generation with an id.

    name: of the feature set
    wanted: label data, encoders, rules and thresholds for leaks, as plain fields: another run of the id must want
        the same
    """

    storage: Storage
    name: str
    run_id: str
    wanted: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse an id that cannot name a file."""
        require_plain_name("run id", self.run_id)

    def check(self) -> None:
        """Raise CorruptFileError if the run has begun and its plan cannot be read."""
        self._begun()

    def committed(self) -> FeatureSet | None:
        """Give what a run of this id has made already, if one has ended. Raises ConfigError if it wanted otherwise."""
        found = made_by(self.storage, self.name, self.run_id)
        if found is None:
            return None
        self._refuse_another(found.wanted)
        version = found.feature_set.version
        _log.warning(
            "run '%s' has made version %d of '%s' already: nothing is generated", self.run_id, version, self.name
        )
        return found.feature_set

    def pinned(self, resolve: Callable[[], Pinned]) -> Pinned:
        """Give what the run reads: as it was resolved when it began, whoever began it.

        Raises ConfigError if it began with other things wanted, CorruptFileError if nobody can tell.
        """
        begun = self._begun()
        if begun is None:
            begun = _Begun(self.wanted, resolve())
            if not self.storage.create(self._path, msgspec.json.encode(begun)):
                begun = self._begun() or begun  # another was faster
        else:
            _log.warning("run '%s' began before, and reads what it did then", self.run_id)
        self._refuse_another(begun.wanted)
        return begun.pinned

    @property
    def _path(self) -> str:
        return f"{PLANS}/{self.name}/{self.run_id}.json"

    def _begun(self) -> _Begun | None:
        try:
            with self.storage.open_input(self._path) as file:
                return msgspec.json.decode(file.read(), type=_Begun)
        except MissingFileError:
            return None
        except msgspec.DecodeError as error:
            raise CorruptFileError.because(
                f"'{self._path}' is no plan of a generation: {error}", "delete it, or take another run id"
            ) from error

    def _refuse_another(self, wanted: Mapping[str, Any]) -> None:
        # An earlier release recorded less: what it did not record cannot be compared.
        differing = sorted(name for name in self.wanted if wanted.get(name, self.wanted[name]) != self.wanted[name])
        if differing:
            raise ConfigError.because(
                f"run '{self.run_id}' of feature set '{self.name}' began with other {' and '.join(differing)}",
                "give this one another run id",
            )

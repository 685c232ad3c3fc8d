"""Generations with an id: run again after any failure, such a generation has the same result, committed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from delorean.feature_sets.table import FOLDER, FeatureSet, find_committed
from delorean.state.sources import PinnedSources
from schemas.errors import ConfigError, CorruptFileError, MissingFileError
from snapshotter.storage import Storage, require_plain_name

PLANS = f"{FOLDER}/_plans"  # no feature set's name starts with _
_log = logging.getLogger(__name__)


class _Plan(msgspec.Struct, frozen=True):
    """A run's plan in the storage, created when it first began. The names at rest are those of earlier releases."""

    request: Mapping[str, Any] = msgspec.field(name="wanted")
    sources: PinnedSources = msgspec.field(name="pinned")


@dataclass(frozen=True)
class NamedRun:
    """A generation with an id.

    name: of the feature set
    request: label data, encoders, rules and thresholds for leaks, as plain fields: every run of the id must have equal
        ones
    """

    storage: Storage
    name: str
    run_id: str
    request: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Reject an id that cannot name a file."""
        require_plain_name("run id", self.run_id)

    def check(self) -> None:
        """Raise CorruptFileError if the run has begun and its plan cannot be read."""
        self._plan()

    def committed(self) -> FeatureSet | None:
        """Return the feature set that this run committed, if it has. Raises ConfigError if its request differed."""
        record = find_committed(self.storage, self.name, self.run_id)
        if record is None:
            return None
        self._check_request(record.request)
        version = record.feature_set.version
        _log.warning(
            "run '%s' already committed version %d of '%s': nothing is generated", self.run_id, version, self.name
        )
        return record.feature_set

    def sources(self, resolve: Callable[[], PinnedSources]) -> PinnedSources:
        """Return the sources that were resolved when the run first began, in this or another process.

        Raises ConfigError if its request differed, CorruptFileError if the plan cannot be read.
        """
        plan = self._plan()
        if plan is None:
            plan = _Plan(self.request, resolve())
            if not self.storage.create(self._path, msgspec.json.encode(plan)):
                plan = self._plan() or plan  # another process was faster
        else:
            _log.warning("run '%s' began before, and reads the same sources again", self.run_id)
        self._check_request(plan.request)
        return plan.sources

    @property
    def _path(self) -> str:
        return f"{PLANS}/{self.name}/{self.run_id}.json"

    def _plan(self) -> _Plan | None:
        try:
            with self.storage.open_input(self._path) as file:
                return msgspec.json.decode(file.read(), type=_Plan)
        except MissingFileError:
            return None
        except msgspec.DecodeError as error:
            raise CorruptFileError.because(
                f"'{self._path}' is not a plan of a generation: {error}", "delete it, or use another run id"
            ) from error

    def _check_request(self, earlier: Mapping[str, Any]) -> None:
        # Earlier releases recorded fewer fields; the others cannot be compared.
        differing = sorted(name for name in self.request if earlier.get(name, self.request[name]) != self.request[name])
        if differing:
            raise ConfigError.because(
                f"run '{self.run_id}' of feature set '{self.name}' began with other {' and '.join(differing)}",
                "use another run id for this one",
            )

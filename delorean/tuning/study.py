"""Opens a study: creates it, or goes on with one of the same data, space and metric."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

from schemas.errors import ConfigError, CorruptFileError, DeloreanError

IDENTITY: Final = "identity"  # a study's attribute: what must not change
WORKER: Final = "worker"  # a trial's: who fits it
ERROR: Final = "error"  # a trial's: why it failed
_DEAD: Final = "dead"  # a study's: numbers of trials whose workers died; other trials have their parameters
_NAME: Final = "study"


class Study:
    """A study in a journal, as one process uses it. A worker is alive as long as it holds the lock of its file.

    path: of the journal
    identity: what the study depends on; an existing study must have the same, as far as it is given
    direction: "maximize" or "minimize"

    Raises ConfigError for a study with another identity, naming what differs; CorruptFileError.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], direction: str) -> None:
        optuna = imported_optuna()
        from delorean.tuning.journal import JournalFile

        self.path, self._optuna = path, optuna
        self.worker = uuid.uuid4().hex
        with _translated(path):
            storage = optuna.storages.JournalStorage(JournalFile(path))
        with _translated(path), self.alone():
            self.study = optuna.create_study(
                storage=storage, study_name=_NAME, direction=direction, load_if_exists=True
            )
            recorded = self.study.user_attrs.get(IDENTITY)
            current = json.loads(json.dumps(identity))
            if recorded is None:
                self.study.set_user_attr(IDENTITY, current)
        if recorded is not None:
            _require_same(path, {name: recorded.get(name) for name in current}, current)
        self._alive = self._hold()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the study's lock, so that no other process begins a trial meanwhile."""
        with self.path.with_suffix(".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def trials(self, *states: str) -> list[Any]:
        """Return the trials in some states, such as "COMPLETE"; without any: all of them."""
        chosen = tuple(self._optuna.trial.TrialState[state] for state in states) or None
        trials: list[Any] = self.study.get_trials(deepcopy=False, states=chosen)
        return trials

    def finished(self) -> int:
        """Return the number of trials that have an outcome."""
        return len(self.trials("COMPLETE", "PRUNED", "FAIL")) - len(self.dead)

    def begun(self) -> int:
        """Return the number of trials that are finished or under way: of one moment, since others finish meanwhile."""
        started = [trial for trial in self.trials() if trial.state.name != "WAITING"]
        return len(started) - len(self.dead)

    @property
    def dead(self) -> list[int]:
        """The numbers of the trials whose workers died; other trials have their parameters."""
        return list(self.study.user_attrs.get(_DEAD, []))

    def release_dead(self) -> None:
        """End the trials whose workers have died, and queue their parameters again. To be called alone."""
        for trial in self.trials("RUNNING"):
            worker = trial.user_attrs.get(WORKER)
            if worker is None or not self._is_alive(str(worker)):
                self.study.set_user_attr(_DEAD, [*self.dead, trial.number])
                self.study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
                self.study.enqueue_trial(trial.params)

    def close(self) -> None:
        """Release the worker's lock."""
        self._alive.close()
        self._file_of(self.worker).unlink(missing_ok=True)

    def _hold(self) -> IO[bytes]:
        file = self._file_of(self.worker).open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _file_of(self, worker: str) -> Path:
        return self.path.with_suffix(f".{worker}.worker")

    def _is_alive(self, worker: str) -> bool:
        file = self._file_of(worker) if worker.isalnum() else self.path.with_suffix(".none")
        try:
            descriptor = os.open(file, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        file.unlink(missing_ok=True)
        return False


def imported_optuna() -> Any:
    """Import Optuna, which logs warnings only. Raises ConfigError where it is not installed."""
    try:
        optuna = import_module("optuna")
    except ImportError as error:
        raise ConfigError.because(
            f"optuna is not installed: {error}", "pip install 'delorean-features[tuning]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translate what Optuna raises for operations that do not fit together."""
    try:
        yield
    except DeloreanError:
        raise
    except OSError as error:
        raise ConfigError.because(f"the study's journal {path} cannot be used: {error.strerror}") from error
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError.because(
            f"the study's journal {path} cannot be read: {error!r}", "restore it from a copy, or begin another study"
        ) from error


def _require_same(path: Path, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    before, now = _flat(recorded), _flat(current)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        shown = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed)
        raise ConfigError.because(
            f"study {path} is of another search: {shown}",
            "undo the change, or begin another study: --study NAME",
        )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Return each plain value by its full name."""
    if isinstance(value, Mapping) and value:
        parts = [_flat(inner, f"{place}.{name}" if place else str(name)) for name, inner in value.items()]
        return {name: inner for part in parts for name, inner in part.items()}
    return {place: value}

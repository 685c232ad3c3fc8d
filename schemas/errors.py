"""The tree of all errors that this project raises on purpose.

```
DeloreanError
├── SetupError                 the machine lacks Java, Python, a free port or disk space
├── ConfigError                a configuration file or an argument is wrong
├── DataKeyError               an unknown data key, or data that does not fit its key's type
│   └── NaiveTimeError         a time without a time zone
├── SelectionError             contexts that cannot be selected
├── ServiceError               an online service, or the proxy in front of it, failed
│   └── ProxyUnavailableError  no proxy answers at the address
├── StorageError               object storage refused or failed
│   ├── CorruptFileError       a file differs from what was published
│   └── MissingFileError       a published file is missing
├── SnapshotIndexError         the index of snapshots refused or failed
│   ├── NotInIndexError        the index has no such name, or nothing as of that time
│   ├── UnreadableRecordError  a published record that cannot be read
│   └── WithdrawnError         the id was withdrawn
├── QualityError               snapshots below the quality that an experiment requires
├── ReplayError                a run of an experiment that does not exist or cannot be repeated
├── LabelError                 label data that cannot be used
│   ├── EmptyLabelsError       label data without rows, which may still arrive
│   └── ParadoxError           a feature that would know its label's future
├── JobError                   a Spark job that died
├── EncoderError               a feature encoder that is wrong or failed
│   ├── UndeclaredKeyError     it reads a data key that it did not declare
│   ├── EncoderOutputError     it writes or returns something that it must not
│   └── FingerprintError       it is not the encoder that the model was trained with
├── TrainingError              features from which no model can be trained
├── ComparisonError            models that cannot be compared on this data
├── AbTestError                an A/B test that cannot be planned, started or analysed
├── RegistryError              a version or a pointer of the registry that cannot be used
│   └── PointerMovedError      the pointer is not where it was expected
├── PackageError               a model package that cannot be trusted
│   └── GoldenRowsError        a package that does not reproduce its golden rows
└── TrackingError              a tracking server that does not record a package
```

Errors of drivers (Thrift, Cassandra, S3, Spark) are translated into these where they enter our code. A message names
the thing, says what was expected and, after an arrow, what to do. Schedulers should not retry errors that are `final`,
because the same call fails again. The others may disappear with time: when a service, a network or a disk recovers,
another job finishes, or somebody restores a file.
"""

from __future__ import annotations

import difflib
import linecache
import traceback
from collections.abc import Iterable
from typing import ClassVar, Self

from schemas.cells import cell_name


class DeloreanError(Exception):
    """Root of the tree: catches every error that this project raises on purpose."""

    final: ClassVar[bool] = False

    @classmethod
    def because(cls, problem: str, hint: str | None = None) -> Self:
        """Build an error from the problem and a hint what to do.

        >>> print(ConfigError.because("services.toml: timeout is -1, expected seconds > 0", "write timeout = 1.0"))
        services.toml: timeout is -1, expected seconds > 0 → write timeout = 1.0
        """
        return cls(problem if hint is None else f"{problem} → {hint}")

    @classmethod
    def unknown(cls, what: str, name: str, existing: Iterable[str]) -> Self:
        """Build an error for a name that does not exist, with the most similar existing one.

        >>> print(DataKeyError.unknown("data key", "viewing_histroy", ["viewing_history", "my_list"]))
        unknown data key 'viewing_histroy' → did you mean 'viewing_history'? known: my_list, viewing_history
        """
        names = sorted(set(existing))
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean '{near[0]}'? " if near else ""
        return cls(f"unknown {what} '{name}' → {guess}known: {', '.join(names) or 'none'}")

    @classmethod
    def mistaken(cls, what: str, value: object, expected: str, hint: str | None = None) -> Self:
        """Build an error for an argument of the wrong type.

        >>> print(ConfigError.mistaken("index", "data/index.db", "an open index", "open_index(…)"))
        index is 'data/index.db', expected an open index → open_index(…)
        """
        plain = isinstance(value, str | int | float | None) and "@" not in str(value)  # a URI may hold a password
        return cls.because(
            f"{what} is {repr(value) if plain else f'a {type(value).__name__}'}, expected {expected}", hint
        )

    def _render_traceback_(self) -> list[str]:
        """Tell IPython what to show in a notebook: what is wrong and in which line of a cell.

        `traceback.print_last()` shows all.
        """
        shown = [f"{type(self).__name__}: {self}"]
        for frame, line in traceback.walk_tb(self.__traceback__):
            cell = cell_name(frame.f_code.co_filename)
            if cell is not None:
                shown.append(f"  {cell}, line {line}: {linecache.getline(frame.f_code.co_filename, line).strip()}")
        return shown


class SetupError(DeloreanError):
    """The machine lacks Java, Python, a free port or disk space."""


class ConfigError(DeloreanError):
    """A configuration file or an argument is wrong."""

    final = True


class DataKeyError(DeloreanError):
    """A data key is unknown, or data does not fit its key's type."""

    final = True


class NaiveTimeError(DataKeyError):
    """A time has no time zone, so it does not identify an instant."""


class SelectionError(DeloreanError):
    """Contexts cannot be selected as requested."""


class ServiceError(DeloreanError):
    """An online service, or the proxy in front of it, failed."""


class ProxyUnavailableError(ServiceError):
    """No proxy answers at the address."""


class StorageError(DeloreanError):
    """Object storage refused or failed."""


class CorruptFileError(StorageError):
    """A file differs from what was published."""


class MissingFileError(StorageError):
    """A published file is missing."""


class SnapshotIndexError(DeloreanError):
    """The index of snapshots refused or failed."""


class NotInIndexError(SnapshotIndexError):
    """The index has no such name, or nothing as of that time."""


class UnreadableRecordError(SnapshotIndexError):
    """A published record that the result depends on cannot be read."""


class WithdrawnError(SnapshotIndexError):
    """The id was withdrawn and cannot be used again."""

    final = True


class QualityError(DeloreanError):
    """Snapshots are less complete, or less simultaneous, than an experiment requires."""


class ReplayError(DeloreanError):
    """A run of an experiment does not exist, or cannot be repeated exactly."""

    final = True


class LabelError(DeloreanError):
    """Label data cannot be used."""

    final = True


class EmptyLabelsError(LabelError):
    """Label data has no rows; those of a recent day may still arrive."""

    final = False


class ParadoxError(LabelError):
    """A feature would know its label's future."""


class JobError(DeloreanError):
    """A Spark job died of a lost executor, memory, a disk or a network, not of its input."""


class EncoderError(DeloreanError):
    """A feature encoder is wrong, or failed on its data."""

    final = True


class UndeclaredKeyError(EncoderError):
    """An encoder reads a data key that it did not declare."""


class EncoderOutputError(EncoderError):
    """An encoder writes or returns something that it must not."""


class FingerprintError(EncoderError):
    """An encoder is not the one that the model was trained with."""


class TrainingError(DeloreanError):
    """No model can be trained from these features."""

    final = True


class ComparisonError(DeloreanError):
    """Models cannot be compared on this data."""

    final = True


class AbTestError(DeloreanError):
    """An A/B test cannot be planned, started or analysed as it is declared, or not yet."""

    final = True


class RegistryError(DeloreanError):
    """A version or a pointer of the registry does not exist, is taken, or was removed."""

    final = True


class PointerMovedError(RegistryError):
    """A pointer is not where it was expected: it was moved meanwhile."""


class PackageError(DeloreanError):
    """A model package cannot be trusted."""

    final = True


class GoldenRowsError(PackageError):
    """A model package does not reproduce its golden rows."""


class TrackingError(DeloreanError):
    """A tracking server did not record a package."""

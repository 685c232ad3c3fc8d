"""Every error this project raises on purpose, in one tree.

```
DeloreanError
├── SetupError                 the machine: Java, Python, a port, disk
├── ConfigError                a file or an argument that a person wrote
├── DataKeyError               an unknown data key, or data that does not fit its key's type
│   └── NaiveTimeError         a time without a zone
├── SelectionError             a context selection that cannot be done
├── ServiceError               an online service or the proxy before it
│   └── ProxyUnavailableError  no proxy answers
├── StorageError               object storage
│   ├── CorruptFileError       a file whose content is not what was published
│   └── MissingFileError       a published file that is gone
├── SnapshotIndexError         the index of snapshots
│   ├── NotInIndexError        nothing of that name, or nothing as of that time
│   ├── UnreadableRecordError  a published record that cannot be read
│   └── WithdrawnError         what was published under that id was withdrawn
├── QualityError               snapshots that are not as good as an experiment demands
├── ReplayError                an experiment's run that cannot be found, or not be repeated
├── LabelError                 label data that cannot be used
│   └── ParadoxError           a feature would know its label's future
├── EncoderError               a feature encoder that is wrong, or failed
│   ├── UndeclaredKeyError     it reads what it did not declare
│   ├── EncoderOutputError     it wrote or returned what it must not
│   └── FingerprintError       it is not the encoder that the model was trained with
├── TrainingError              features from which no model can be trained
└── PackageError               a model package that cannot be trusted
    └── GoldenRowsError        it does not reproduce its golden rows
```

Drivers' errors are translated into these where they cross into our code. A message names the thing, says what was
expected and, after an arrow, what to do next. Kinds that are `final` would be raised again by whoever tries the same
again: who runs jobs need not.
"""

from __future__ import annotations

import difflib
import linecache
import traceback
from collections.abc import Iterable
from typing import ClassVar, Self

from schemas.cells import cell_name


class DeloreanError(Exception):
    """Root of the tree: catch this to catch all that this project raises on purpose."""

    final: ClassVar[bool] = False

    @classmethod
    def because(cls, problem: str, hint: str | None = None) -> Self:
        """Build an error from what is wrong and what to do about it.

        >>> print(ConfigError.because("services.toml: timeout is -1, expected seconds > 0", "write timeout = 1.0"))
        services.toml: timeout is -1, expected seconds > 0 → write timeout = 1.0
        """
        return cls(problem if hint is None else f"{problem} → {hint}")

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str]) -> Self:
        """Build an error for a name that does not exist, with the nearest that does.

        >>> print(DataKeyError.unknown("data key", "viewing_histroy", ["viewing_history", "my_list"]))
        unknown data key 'viewing_histroy' → did you mean 'viewing_history'? known: my_list, viewing_history
        """
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean '{near[0]}'? " if near else ""
        return cls(f"unknown {what} '{name}' → {guess}known: {', '.join(names) or 'none'}")

    @classmethod
    def mistaken(cls, what: str, given: object, expected: str, hint: str | None = None) -> Self:
        """Build an error for an argument of another type than what is expected.

        >>> print(ConfigError.mistaken("index", "data/index.db", "an open index", "open_index(…)"))
        index is 'data/index.db', expected an open index → open_index(…)
        """
        plain = isinstance(given, str | int | float | None) and "@" not in str(given)  # a URI may hold a password
        return cls.because(
            f"{what} is {repr(given) if plain else f'a {type(given).__name__}'}, expected {expected}", hint
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
    """The machine lacks something: Java, a free port, disk."""


class ConfigError(DeloreanError):
    """A file or an argument that a person wrote is wrong."""

    final = True


class DataKeyError(DeloreanError):
    """A data key is unknown, or data does not fit its key's type."""

    final = True


class NaiveTimeError(DataKeyError):
    """A time has no zone, so it names no instant."""


class SelectionError(DeloreanError):
    """A context selection cannot be done."""


class ServiceError(DeloreanError):
    """An online service, or the proxy before it, did not do its part."""


class ProxyUnavailableError(ServiceError):
    """No proxy answers at the address given."""


class StorageError(DeloreanError):
    """Object storage refused or failed."""


class CorruptFileError(StorageError):
    """A file's content is not what was published."""


class MissingFileError(StorageError):
    """A published file is gone."""


class SnapshotIndexError(DeloreanError):
    """The index of snapshots refused or failed."""


class NotInIndexError(SnapshotIndexError):
    """The index holds nothing of that name, or nothing as of that time."""


class UnreadableRecordError(SnapshotIndexError):
    """A published record that the answer depends on cannot be read."""


class WithdrawnError(SnapshotIndexError):
    """What was published under an id was withdrawn, and the id is not free again."""

    final = True


class QualityError(DeloreanError):
    """Snapshots are not as complete, or not as simultaneous, as an experiment demands."""


class ReplayError(DeloreanError):
    """An experiment's run cannot be found, or not be repeated as it was."""

    final = True


class LabelError(DeloreanError):
    """Label data cannot be used as it is."""


class ParadoxError(LabelError):
    """A feature would know its label's future."""

    final = True


class EncoderError(DeloreanError):
    """A feature encoder is wrong, or failed on its data."""


class UndeclaredKeyError(EncoderError):
    """An encoder reads a data key that it did not declare."""

    final = True


class EncoderOutputError(EncoderError):
    """An encoder wrote or returned what it must not."""

    final = True


class FingerprintError(EncoderError):
    """An encoder is not the one that the model was trained with."""

    final = True


class TrainingError(DeloreanError):
    """No model can be trained from these features."""


class PackageError(DeloreanError):
    """A model package cannot be trusted."""

    final = True


class GoldenRowsError(PackageError):
    """A model package does not reproduce its golden rows."""

"""One encoder bound to its columns: its batch module, its arguments, and the errors it raises."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.columns import Columns
from encoders.compilation.batch_module import GENERATED
from encoders.compilation.compile import compile_batch, compile_errors, explain_compile_error
from encoders.compilation.interpret import plain_batch, plain_file
from encoders.compilation.rewriting import NotMachineCodeError
from encoders.data_map import DataMaps
from encoders.layout import INTEGER, TEXT, Column
from encoders.vocabulary import Vocabulary
from schemas.errors import EncoderError, EncoderOutputError, UndeclaredKeyError
from schemas.hashing import text_code
from schemas.tables import python_rows

BatchFunction = Callable[..., Any]
Features = dict[str, NDArray[np.float32]]
ComputeInPython = Callable[[int], Features]  # position of a context → its features
_log = logging.getLogger("delorean.encoders")


@dataclass(frozen=True)
class BoundEncoder:
    """An encoder as text, with the columns that its loop receives.

    text: the batch module; places: its lines → the places in the encoder's and its helpers' sources
    parameters: their values; compiled code receives texts as codes, and vocabularies as those of their texts
    declared: the data elements that it can read
    widths: of the features that are vectors
    """

    name: str
    text: str = field(repr=False)
    columns: tuple[Column, ...] = field(repr=False)
    features: tuple[str, ...]
    parameters: tuple[int | float | bool | str | Vocabulary, ...]
    compiled: bool
    declared: tuple[str, ...]
    places: Mapping[int, str] = field(repr=False)
    widths: Mapping[str, int] = field(default_factory=dict)

    def load(self, folder: Path | None) -> BatchFunction:
        """Give the loop, compiled unless declared otherwise. Raises EncoderError if Numba cannot compile it."""
        if not self.compiled:
            return self.interpreted()
        self._machine_parameters()  # a vocabulary's codes are hashed now, not by the first request
        try:
            return compile_batch(self.text, self._signature(), "_batch", folder, GENERATED)
        except NotMachineCodeError as error:
            raise self._not_compiled(error.line, error.problem, error.hint) from error
        except compile_errors() as error:
            reason, line = explain_compile_error(error, self.text, self.places)
            hint = "write it in plain loops over numbers, or declare compiled=False"
            raise self._not_compiled(line, reason, hint) from error

    def _not_compiled(self, line: int | None, reason: str, hint: str) -> EncoderError:
        return EncoderError.because(f"encoder '{self.name}' cannot be compiled{self._place(line)}: {reason}", hint)

    def interpreted(self) -> BatchFunction:
        """Give the same loop in plain Python."""
        return plain_batch(self.text, self.name)

    def run(
        self,
        batch: BatchFunction,
        maps: DataMaps,
        offsets: NDArray[np.int64],
        columns: Columns,
        in_python: ComputeInPython | None = None,
    ) -> Features:
        """Run over all contexts. Raises EncoderError naming the context for which the encoder fails.

        in_python: computes one context in plain Python, for contexts in which compiled code gives up

        Returns feature → (items,) float32, or (items, width) where it is a vector.
        """
        items, widths = int(offsets[-1]), self.widths
        shapes = [(items, widths[name]) if name in widths else items for name in self.features]
        outputs = [np.full(shape, np.nan, dtype=np.float32) for shape in shapes]
        progress = np.zeros(1, dtype=np.int64)
        parameters = self._machine_parameters() if in_python else self._python_parameters()
        first = 0
        while True:
            try:
                batch(progress, offsets[first:], *self._from(first, columns), *outputs, *parameters)
                break
            except Exception as error:  # encoders are users' code and may raise anything
                at = first + int(progress[0])
                if in_python is None:
                    raise self._failure(error, maps, at) from error
                for output, values in zip(outputs, in_python(at).values(), strict=True):
                    output[offsets[at] : offsets[at + 1]] = values
                _warn_slow_contexts(self.name)
                first, progress[0] = at + 1, 0
        return dict(zip(self.features, outputs, strict=True))

    def _machine_parameters(self) -> list[Any]:
        """Give the parameters' arguments in compiled code: a vocabulary has two."""
        arguments: list[Any] = []
        for value in self.parameters:
            if isinstance(value, Vocabulary):
                arguments += value.machine_form
            else:
                arguments.append(text_code(value) if isinstance(value, str) else value)
        return arguments

    def _python_parameters(self) -> list[Any]:
        """Give the parameters' arguments in plain Python: a vocabulary has two there, too."""
        return [
            part for value in self.parameters for part in ([value, None] if isinstance(value, Vocabulary) else [value])
        ]

    def _from(self, first: int, columns: Columns) -> list[NDArray[Any]]:
        """Give the columns from a context on."""
        paths = [column.path for column in self.columns]
        per_context = [path[0] == "context" or path[-1] == ":rows" for path in paths]
        return [columns[p][first:] if sliced else columns[p] for p, sliced in zip(paths, per_context, strict=True)]

    def _failure(self, error: Exception, maps: DataMaps, at: int) -> EncoderError:
        context = python_rows(maps.contexts.slice(at, 1))[0]
        where = ", ".join(f"{name}={value!s}" for name, value in context.items())
        line = self._line_of(error)
        start = f"encoder '{self.name}' failed{self._place(line)} for the context {where}: "
        if isinstance(error, EncoderError):
            return type(error)(start + str(error))
        if isinstance(error, AttributeError) and type(error.obj).__name__ == "data":
            return UndeclaredKeyError(
                start + str(UndeclaredKeyError.unknown("data element", str(error.name), self.declared))
            )
        if isinstance(error, IndexError):
            return EncoderError.because(f"{start}it reads or writes out of bounds: {error}")
        if isinstance(error, ValueError) and ("broadcast" in str(error) or "cannot assign slice" in str(error)):
            return EncoderOutputError.because(
                f"{start}it writes another number of values than there are items, or than a vector has: {error}",
                "write one for each item, and all components of a vector",
            )
        return EncoderError.because(f"{start}{type(error).__name__}: {error}")

    def _line_of(self, error: Exception) -> int | None:
        """Give the line of the text at which an error was raised, in the encoder or a helper."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == plain_file(self.name)]
        own = [line for line in lines if line in self.places]
        return own[-1] if own else None

    def _place(self, line: int | None) -> str:
        return f" at {self.places[line]}" if line is not None and line in self.places else ""

    def _signature(self) -> list[str]:
        parameters = {int: ["int64"], float: ["float64"], bool: ["bool"], str: ["int64"]}
        parameters[Vocabulary] = ["int64[r]", "int64[r]"]
        return [
            "int64[w]",
            "int64[r]",
            *(f"{INTEGER if column.dtype == TEXT else column.dtype}[r]" for column in self.columns),
            *("float32[:,w]" if feature in self.widths else "float32[w]" for feature in self.features),
            *(part for value in self.parameters for part in parameters[type(value)]),
        ]


@functools.cache
def _warn_slow_contexts(name: str) -> None:
    """Log once per encoder that plain Python computes some contexts: the results are right, but slow."""
    _log.warning(
        "encoder '%s': some contexts are computed by plain Python, because machine numbers cannot hold their values, "
        "which is slow; write 2.0 ** x for powers with negative exponents, and floats for numbers beyond 64 bits",
        name,
    )

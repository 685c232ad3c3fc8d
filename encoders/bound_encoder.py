"""One encoder bound to its columns: the generated text, what it receives, and how its failures are told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.columns import Columns
from encoders.compile import compile_batch, compile_errors, explain
from encoders.data_map import DataMaps
from encoders.interpret import plain_batch, plain_file
from encoders.layout import Column
from schemas.errors import EncoderError, EncoderOutputError, UndeclaredKeyError
from schemas.tables import python_rows

Batch = Callable[..., Any]


@dataclass(frozen=True)
class BoundEncoder:
    """An encoder as text, with the columns that its loop receives.

    text: the generated module; places: its lines → where the encoder, or a helper of it, was written
    parameters: as the loop receives them; text is a code already if the encoder is compiled
    declared: the data elements that it may read
    """

    name: str
    text: str
    columns: tuple[Column, ...]
    features: tuple[str, ...]
    parameters: tuple[int | float | bool | str, ...]
    compiled: bool
    declared: tuple[str, ...]
    places: Mapping[int, str]

    def load(self, folder: Path) -> Batch:
        """Give the loop, compiled unless the encoder is not to be. Raises EncoderError where Numba cannot."""
        if not self.compiled:
            return self.interpreted()
        try:
            return compile_batch(self.text, self._signature(), "_batch", folder)
        except compile_errors() as error:
            reason, line = explain(error, self.text, self.places)
            raise EncoderError.because(
                f"encoder '{self.name}' cannot be compiled{self._place(line)}: {reason}",
                "write it in plain loops over numbers, or declare compiled=False",
            ) from error

    def interpreted(self) -> Batch:
        """Give the same loop in plain Python."""
        return plain_batch(self.text, self.name)

    def run(
        self, batch: Batch, maps: DataMaps, offsets: NDArray[np.int64], columns: Columns
    ) -> dict[str, NDArray[np.float32]]:
        """Run over every context. Raises EncoderError naming the context at which the encoder fails."""
        outputs = [np.full(int(offsets[-1]), np.nan, dtype=np.float32) for _ in self.features]
        progress = np.zeros(1, dtype=np.int64)
        try:
            batch(progress, offsets, *[columns[column.path] for column in self.columns], *outputs, *self.parameters)
        except Exception as error:  # an encoder is anyone's code and may raise anything
            at = int(progress[0])
            told = self._told_by_python(error, at, offsets, columns) if self.compiled else error
            raise self._failure(told, maps, at) from error
        return dict(zip(self.features, outputs, strict=True))

    def _told_by_python(self, error: Exception, at: int, offsets: NDArray[np.int64], columns: Columns) -> Exception:
        """Give an error of machine code as plain Python raises it for the same context: it knows its line."""
        own = slice(at, at + 1)
        given = [
            columns[path][own] if path[0] == "context" or path[-1] == ":rows" else columns[path]
            for path in (column.path for column in self.columns)
        ]
        outputs = [np.full(int(offsets[-1]), np.nan, dtype=np.float32) for _ in self.features]
        try:
            self.interpreted()(np.zeros(1, np.int64), offsets[at : at + 2], *given, *outputs, *self.parameters)
        except Exception as told:  # noqa: BLE001  # as above
            return told if type(told) is type(error) else error
        return error

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
                f"{start}it writes another number of values than there are items: {error}", "write one for each item"
            )
        return EncoderError.because(f"{start}{type(error).__name__}: {error}")

    def _line_of(self, error: Exception) -> int | None:
        """Find the line of the text, the encoder's own or a helper's, at which an error was raised."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == plain_file(self.name)]
        own = [line for line in lines if line in self.places]
        return own[-1] if own else None

    def _place(self, line: int | None) -> str:
        return f" at {self.places[line]}" if line is not None and line in self.places else ""

    def _signature(self) -> list[str]:
        parameters = {int: "int64", float: "float64", bool: "bool"}
        return [
            "int64[w]",
            "int64[r]",
            *(f"{column.dtype}[r]" for column in self.columns),
            *("float32[w]" for _ in self.features),
            *(parameters[type(value)] for value in self.parameters if not isinstance(value, str)),
        ]

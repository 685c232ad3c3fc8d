"""Runs a generated module in plain Python: what uncompiled encoders do, and the oracle for compiled ones."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable
from typing import Any, Self

import numpy as np


class PlainArray(np.ndarray[Any, Any]):
    """An array whose elements come out as plain Python numbers, so that arithmetic is Python's own.

    NumPy's scalars would divide by zero without an error and keep single precision; machine code does neither.
    """

    def __getitem__(self, key: Any) -> Any:
        """Give a Python value for one position, an array for a slice or mask."""
        found = super().__getitem__(key)
        return found.item() if isinstance(found, np.generic) else found

    def __iter__(self) -> Any:
        """Go through Python values."""
        return iter(self.tolist())

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Let what NumPy reduces to a scalar be a Python value too."""
        if return_scalar:
            return array[()].item() if isinstance(array, np.ndarray) else array
        return np.asarray(array).view(type(self))

    @classmethod
    def of(cls, array: Any) -> Self:
        """View an array; other values stay what they are."""
        view: Self = array.view(cls)
        return view


def plain_file(title: str) -> str:
    """Name the file that tracebacks give for what `plain_batch` runs."""
    return f"<encoder {title}>"


@functools.lru_cache(maxsize=256)
def plain_batch(text: str, title: str) -> Callable[..., None]:
    """Run the module's text as it is and give its `_batch`."""
    file = plain_file(title)
    linecache.cache[file] = (
        len(text),
        None,
        text.splitlines(keepends=True),
        file,
    )  # so that tracebacks show the source
    namespace: dict[str, Any] = {"__name__": f"interpreted_{title}"}
    exec(compile(text, file, "exec"), namespace)  # noqa: S102  # our text, made of the caller's own function
    batch = namespace["_batch"]

    def run(*arguments: Any) -> None:
        plain = [PlainArray.of(a) if isinstance(a, np.ndarray) else a for a in arguments]
        with np.errstate(over="ignore", invalid="ignore"):  # as machine code: infinity and NaN, no warnings
            batch(*plain)

    return run

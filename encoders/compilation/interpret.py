"""Runs a batch module in plain Python: for encoders that are not compiled, and as the reference for compiled ones."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable
from typing import Any, Self

import numpy as np


class PlainArray(np.ndarray[Any, Any]):
    """An array whose elements are plain Python numbers, so that arithmetic is Python's own.

    NumPy's scalars divide by zero without an error and keep single precision; compiled code does neither.
    """

    def __getitem__(self, key: Any) -> Any:
        """Give a Python value for one position, an array for a slice or mask."""
        value = super().__getitem__(key)
        return value.item() if isinstance(value, np.generic) else value

    def __iter__(self) -> Any:
        """Iterate over Python values; over the rows of a matrix."""
        return iter(self.tolist()) if self.ndim == 1 else super().__iter__()

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Convert scalars that NumPy's reductions return to Python values as well."""
        if return_scalar:
            return array[()].item() if isinstance(array, np.ndarray) else array
        return np.asarray(array).view(type(self))

    @classmethod
    def of(cls, array: Any) -> Self:
        """View an array as one of plain Python numbers."""
        view: Self = array.view(cls)
        return view


def plain_file(title: str) -> str:
    """The file name of `plain_batch` in tracebacks."""
    return f"<encoder {title}>"


@functools.lru_cache(maxsize=256)
def plain_batch(text: str, title: str) -> Callable[..., None]:
    """Execute a batch module in plain Python and give its `_batch`."""
    file = plain_file(title)
    linecache.cache[file] = (
        len(text),
        None,
        text.splitlines(keepends=True),
        file,
    )  # so that tracebacks show the source
    namespace: dict[str, Any] = {"__name__": f"interpreted_{title}"}
    exec(compile(text, file, "exec"), namespace)  # noqa: S102  # generated from the caller's own function
    batch = namespace["_batch"]

    def run(*arguments: Any) -> None:
        plain = [PlainArray.of(a) if isinstance(a, np.ndarray) else a for a in arguments]
        with np.errstate(over="ignore", invalid="ignore"):  # as compiled code: infinity and NaN without warnings
            batch(*plain)

    return run

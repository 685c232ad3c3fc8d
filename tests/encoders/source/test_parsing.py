"""Encoders are parsed by several threads at once, as in a server or where generations run side by side."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from encoders.source.parsing import compile_tree, parse

LINES = (f"    if x > {n} and (x + {n}) * 2 < [x, {{'a': (x, {n})}}][0]:\n        x += 1\n" for n in range(40))
TEXT = "def f(x):\n" + "".join(LINES)


class Cycle:
    """Garbage whose collection runs Python code, and so lets another thread run in the middle of a parse."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


@pytest.fixture
def hasty() -> Iterator[None]:
    """Garbage is collected, and threads take turns, as often as can be."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("hasty")
def test_threads_may_parse_and_compile_at_once() -> None:
    def work(_: int) -> int:
        _cycles = [Cycle() for _ in range(20)]
        return len(compile_tree(parse(TEXT), "file").co_consts)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(work, range(400)))) == 1

"""Marks the tests that start a program, directly or by a fixture or helper: `make check` leaves them out.

Read from the code of tests rather than declared by hand, so that no new test is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

# Whoever uses one of these starts a process: of the standard library, of a library, and of this project.
_STARTERS = {"subprocess", "multiprocessing", "NotebookClient", "spark_session", "run_demo", "environment_archive"}
_REQUESTED_BY_NAME = {"cassandra", "s3", "spark"}  # parameters of tests that request a fixture which starts one
_TESTS = str(Path(__file__).resolve().parents[1])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test that starts a program, where a run chooses by marks."""
    if not config.option.markexpr:
        return  # reading the code of all tests takes a second
    for item in items:
        if isinstance(item, pytest.Function) and (_needs_server(item) or any(map(starts, _functions_of(item)))):
            item.add_marker("program")


def _needs_server(item: pytest.Function) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    requested = any(isinstance(value, str) and value in _REQUESTED_BY_NAME for value in parameters)
    return requested or item.path.parent.name == "integration"


def _functions_of(item: pytest.Function) -> Iterator[Any]:
    """Give the test's function and those of all fixtures that it needs."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield definitions[-1].func


@cache
def starts(thing: Any) -> bool:
    """Say whether a function or class of the tests, or one that it names, starts a program."""
    return _search(thing, set())


def _search(thing: Any, seen: set[int]) -> bool:
    if id(thing) in seen:
        return False
    seen.add(id(thing))
    if isinstance(thing, type):
        return any(_search(getattr(each, "__func__", each), seen) for each in vars(thing).values())
    function = getattr(getattr(thing, "hypothesis", None), "inner_test", thing)
    function = getattr(function, "__wrapped__", function)  # of another decorator
    if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(_TESTS):
        return False
    names = set(_names(function.__code__))
    named = [function.__globals__.get(name) for name in names]
    named += [vars(module).get(name) for module in named if isinstance(module, ModuleType) for name in names]
    named += [each for table in named if isinstance(table, dict) for each in table.values()]
    return bool(names & _STARTERS) or any(_search(each, seen) for each in named if callable(each))


def _names(code: CodeType) -> Iterator[str]:
    """Give the names that a piece of code uses, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)

"""Reads tests from TOML: each error names the file, the line and the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from delorean.ab_tests.declaration import AbTest
from prana_proxy.config.toml_file import TomlFile, toml_files_in
from schemas.errors import ConfigError


def read_test(path: str | Path) -> AbTest:
    """Read an A/B test.

    Its parts of a layer are compared with those of the other tests in its folder. Raises ConfigError with the file, the
    line, the field and the nearest valid name.
    """
    file = TomlFile.read(path)
    test = _test_of(file, Path(path))
    for other_path in toml_files_in(Path(path).resolve().parent):
        if other_path != Path(path).resolve() and (other := _other_test(other_path)) is not None:
            _check_apart(file, test, other, other_path)
    return test


def is_ab_test(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a TOML file declares an A/B test."""
    return {"cells", "unit"} <= content.keys()


def _test_of(file: TomlFile, path: Path) -> AbTest:
    content = {"name": path.stem, **file.content}
    test = replace(file, content=content).build(AbTest)
    folder = str(path.resolve().parent)
    for name, metric in test.metrics.items():
        if metric.table is not None and metric.table not in test.tables:
            raise file.error(("metrics", name, "table"), ConfigError.unknown("table", metric.table, test.tables))
    return replace(test, folder=test.folder or folder)


def _other_test(path: Path) -> AbTest | None:
    """Read a file beside a test; None where it is no test, or one that its own reader will reject."""
    try:
        file = TomlFile.read(path)
        return _test_of(file, path) if is_ab_test(file.content) else None
    except ConfigError:
        return None


def _check_apart(file: TomlFile, test: AbTest, other: AbTest, path: Path) -> None:
    if test.name == other.name:
        raise file.error("name", f"'{test.name}' is the name of {path.name}, too", "rename one of them")
    if test.part.name != other.part.name:
        return
    shares = [None if each.holdout is None else each.holdout.share for each in (test, other)]
    if shares[0] != shares[1]:
        raise file.error(
            "holdout",
            f"the hold-out of layer '{test.part.name}' is {shares[0] or 0:g}, but {shares[1] or 0:g} in {path.name}",
            "write the same share in all tests of a layer",
        )
    if test.part.overlaps(other.part) and _at_one_time(test, other):
        raise file.error(
            "layer",
            f"part {list(test.part.part)} of '{test.part.name}' overlaps {list(other.part.part)} of {path.name}, "
            "which runs at the same time",
            "give them different parts, times or layers",
        )


def _at_one_time(test: AbTest, other: AbTest) -> bool:
    """Whether two tests may run at one time. A test without a start or an end may run at any time before or after."""
    first_ends = test.end is not None and other.start is not None and test.end <= other.start
    second_ends = other.end is not None and test.start is not None and other.end <= test.start
    return not (first_ends or second_ends)

"""Packages of tasks that were forged or damaged: one error that names the file, and nothing wrong is served."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delorean.packaging.calibration_file import CALIBRATION, read_calibrations, write_calibrations
from delorean.packaging.files import MANIFEST, write_json
from delorean.packaging.golden_rows import read_arrow, write_arrow
from delorean.packaging.package import ModelPackage, load_package
from delorean.packaging.tree_file import TREES, read_task_trees, write_trees
from delorean.packaging.untrusted import read_tasks
from delorean.scoring.calibration import IsotonicCalibration, SigmoidCalibration
from delorean.scoring.task_trees import TaskTrees
from delorean.training.consolidation.settings import Consolidation
from delorean.training.fitting import train
from delorean.training.learners.lightgbm import LightGBM
from schemas.errors import PackageError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above
from task_company import NAMES, TASKS, ranking_data, write_tasks

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    learner = LightGBM("lambdarank", {"num_leaves": 7}, rounds=9, stop_after=0, threads=1)
    settings = Consolidation(calibration="isotonic", compare=())
    trained = train(ranking_data(), model=learner, tasks=TASKS, consolidation=settings)
    return write_tasks(tmp_path_factory.mktemp("packages") / "tasks", trained)


def resealed(package: ModelPackage, folder: Path, changed: Mapping[str, bytes | None]) -> Path:
    """Copy a package with other files, whose checksums are right; None: without the file."""
    copy = Path(shutil.copytree(package.path, folder))
    manifest = json.loads((copy / MANIFEST).read_text())
    for name, data in changed.items():
        if data is None:
            (copy / name).unlink()
            del manifest["files"][name]
        else:
            (copy / name).write_bytes(data)
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (copy / MANIFEST).write_bytes(write_json(manifest))
    return copy


def changed_tasks(package: ModelPackage, change: Change) -> bytes:
    tasks = json.loads((package.path / "tasks.json").read_text())
    change(tasks)
    return json.dumps(tasks).encode()


TASK_CASES: dict[str, tuple[Change, str]] = {
    "an unknown variable": (lambda t: t["tasks"][0]["context"].append("planet"), "unknown variable or feature of task"),
    "an unknown feature": (lambda t: t["tasks"][1]["without"].append("x"), "unknown variable or feature of task"),
    "an unknown default": (lambda t: t["defaults"].update(x=1.0), "unknown feature with a default 'x'"),
    "two of one name": (lambda t: t["tasks"][0].update(name="SEARCH"), "two of one name"),
    "a path as a name": (lambda t: t["tasks"][0].update(name="../x"), "cannot name a folder"),
    "none": (lambda t: t["tasks"].clear(), "has no tasks"),
    "another field": (lambda t: t.update(more=1), "is malformed"),
    "a default that is a text": (lambda t: t["defaults"].update(listed="0"), "is malformed"),
    "no list": (lambda t: t.update(tasks=3), "is malformed"),
}


@pytest.mark.parametrize("case", sorted(TASK_CASES))
def test_malformed_tasks_are_named(package: ModelPackage, tmp_path: Path, case: str) -> None:
    change, message = TASK_CASES[case]
    path = resealed(package, tmp_path / "forged", {"tasks.json": changed_tasks(package, change)})
    with pytest.raises(PackageError, match=message):
        load_package(path, modules=company.MODULES)


def test_tasks_and_models_must_fit_each_other(package: ModelPackage, tmp_path: Path) -> None:
    onnx = (package.path / "onnx" / "home.onnx").read_bytes()
    fewer = changed_tasks(package, lambda tasks: tasks["tasks"].pop())
    renamed = changed_tasks(package, lambda tasks: tasks["tasks"][2].update(name="other"))
    cases: list[tuple[dict[str, bytes | None], str]] = [
        ({"tasks.json": fewer}, "lists the models"),
        ({"tasks.json": renamed}, "lists the models"),
        ({"tasks.json": None}, "lists the models"),
        ({"onnx/similar.onnx": None}, "lists the models"),
        ({"model.onnx": onnx}, "lists the models"),
        ({TREES: None}, "are of different models"),
        ({CALIBRATION: None}, "probability is nan"),
    ]
    for number, (changed, message) in enumerate(cases):
        path = resealed(package, tmp_path / str(number), changed)
        with pytest.raises(PackageError, match=message):
            load_package(path, modules=company.MODULES).check_golden_rows()
    extra = Path(shutil.copytree(package.path, tmp_path / "extra"))
    (extra / "onnx" / "more.txt").write_text("x")
    with pytest.raises(PackageError, match=r"'onnx/more.txt' .* is not a file of a model package"):
        load_package(extra, modules=company.MODULES)


def owners(package: ModelPackage) -> tuple[TaskTrees, pa.Table]:
    content = (package.path / TREES).read_bytes()
    trees = read_task_trees(TREES, content, 4, 3)
    assert isinstance(trees, TaskTrees)
    assert write_trees(trees) == content
    return trees, read_arrow(TREES, content)


@pytest.mark.parametrize("wrong", [[-2], [3], [-1, 1, 0], [2, -1], "short", "null", "int64"])
def test_malformed_owners_are_rejected(package: ModelPackage, wrong: Any) -> None:
    trees, table = owners(package)
    values = trees.owners.copy()
    kind: pa.DataType = pa.int32()
    if wrong == "short":
        array = pa.array(values[:-1], kind)
    elif wrong == "null":
        array = pa.array([None, *values[1:].tolist()], kind)
    elif wrong == "int64":
        array = pa.array(values, pa.int64())
    else:
        values[-len(wrong) :] = wrong
        array = pa.array(values, kind)
    column = pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array)
    forged = write_arrow(table.set_column(table.schema.get_field_index("owners"), "owners", column))
    with pytest.raises(PackageError, match="malformed|null|does not hold trees"):
        read_task_trees(TREES, forged, 4, 3)


def test_a_tree_of_another_task_changes_a_golden_row(package: ModelPackage, tmp_path: Path) -> None:
    trees, _ = owners(package)
    moved = trees.owners.copy()
    moved[np.argmax(moved == 1)] = 0
    path = resealed(package, tmp_path / "moved", {TREES: write_trees(replace(trees, owners=moved))})
    with pytest.raises(PackageError, match="golden row .* the score is"):
        load_package(path, modules=company.MODULES).check_golden_rows()


def calibrations(*rows: dict[str, Any]) -> bytes:
    table = read_arrow(CALIBRATION, write_calibrations({"home": SigmoidCalibration(1.0, 0.0)}))
    return write_arrow(pa.Table.from_pylist(list(rows), schema=table.schema))


CALIBRATION_CASES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an unknown task": ([{"task": "x", "slope": 1.0, "intercept": 0.0}], "unknown task of 'calibration.arrow'"),
    "a task twice": ([{"task": "home", "slope": 1.0, "intercept": 0.0}] * 2, "or one that it has twice 'home'"),
    "no task": ([{"slope": 1.0, "intercept": 0.0}], "unknown task"),
    "a negative slope": ([{"task": "home", "slope": -1.0, "intercept": 0.0}], "the slope 0 or more"),
    "a slope alone": ([{"task": "home", "slope": 1.0}], "expected a slope and an intercept, or knots"),
    "both": ([{"task": "home", "slope": 1.0, "intercept": 0.0, "scores": [0.0], "probabilities": [0.1]}], "expected a"),
    "nothing": ([{"task": "home"}], "it has nothing"),
    "NaN": ([{"task": "home", "scores": [0.0, float("nan")], "probabilities": [0.1, 0.2]}], "not finite"),
    "descending": ([{"task": "home", "scores": [0.0, 1.0], "probabilities": [0.3, 0.2]}], "do not ascend"),
    "a null": ([{"task": "home", "scores": [0.0, None], "probabilities": [0.1, 0.2]}], "a knot is null"),
    "no knots": ([{"task": "home", "scores": [], "probabilities": []}], "expected 1 to"),
    "more than tasks": ([{"task": "home", "slope": 1.0, "intercept": 0.0}] * 4, "does not hold calibrations"),
}


@pytest.mark.parametrize("case", sorted(CALIBRATION_CASES))
def test_malformed_calibrations_are_named(case: str) -> None:
    rows, message = CALIBRATION_CASES[case]
    with pytest.raises(PackageError, match=message) as caught:
        read_calibrations(CALIBRATION, calibrations(*rows), NAMES)
    assert CALIBRATION in str(caught.value)


def test_calibrations_are_read_as_they_were_written(package: ModelPackage) -> None:
    knots = IsotonicCalibration(np.array([-1.5, 0.1, 3e30]), np.array([0.0, 1 / 3, 1 / 3]))
    written = {"search": SigmoidCalibration(1 / 3, -0.0), "home": knots}
    assert read_calibrations(CALIBRATION, write_calibrations(written), NAMES) == written
    content = (package.path / CALIBRATION).read_bytes()
    assert read_calibrations(CALIBRATION, content, NAMES) == package.calibrations


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=4), st.sampled_from("tc"))
def test_damaged_files_are_a_package_error_or_the_same(changes: list[tuple[int, int]], which: str) -> None:
    written = (
        write_json({"tasks": [], "sentinels": {}})
        if which == "t"
        else calibrations({"task": "home", "scores": [0.0, 1.0], "probabilities": [0.1, 0.2]})
    )
    broken = bytearray(written)
    for place, bit in changes:
        broken[place % len(broken)] ^= 1 << bit
    try:
        if which == "t":
            read_tasks(bytes(broken), (), company.CONTEXT, company.ITEMS)
        else:
            found = read_calibrations(CALIBRATION, bytes(broken), NAMES)
            for each in found.values():
                assert (np.diff(each.probabilities(np.float32([-1, 0.5, 2]))) >= 0).all()
    except PackageError:
        return

"""The images hold exactly the packages of the lock that their programs import, each pin with its hashes."""

from __future__ import annotations

import configparser
import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stack_files import DOCKER, DOCKERFILE, ROOT

from snapshotter.spark.cluster import NEEDED

LOCK = (ROOT / "requirements.lock").read_text()

# Imports modules and all below them, where some packages are as if they had not been installed.
IMPORT = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        of_jobs = ("storage.delta", "storage.delta_history", "storage.delta_version")  # tables are for jobs
        if not found.name.endswith(("__main__", *of_jobs)):
            importlib.import_module(found.name)
"""
PROGRAMS = {
    "executors": (
        "delorean.as_of.join",
        "delorean.feature_sets.stored_rows",
        "delorean.generation.runners",
        "delorean.labels.grouping",
        "delorean.prediction.scored_file",
        "delorean.time_travel.bucket_view",
        "encoders",
        "snapshotter.capture.bucket_capture",
        "snapshotter.storage.iceberg",
    ),
    "executors-models": ("delorean.scoring.onnx_scorer", "delorean.training.shared_fit"),
    "proxy": ("prana_proxy", "delorean.cli.capture"),
    "serving": ("delorean.serving", "delorean.cli.model", "encoders", "snapshotter.index", "snapshotter.storage"),
}


def part(image: str) -> str:
    """What the build of an image installs."""
    command = [sys.executable, DOCKER / "locked.py", image]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def locked_by_name(image: str) -> list[str]:
    """The packages of an image that are named, without what comes with them."""
    return list(runpy.run_path(str(DOCKER / "locked.py"))["IMAGES"][image])


def names(locked: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", locked, flags=re.MULTILINE))


@pytest.mark.parametrize("image", ["build", "jobs", "proxy", "serving"])
def test_an_image_has_blocks_of_the_lock_unchanged(image: str):
    locked = part(image)
    assert f"python locked.py {image} " in DOCKERFILE
    for block in re.split(r"^(?=\w)", locked, flags=re.MULTILINE)[1:]:
        assert block in LOCK
        assert "--hash=sha256:" in block
    assert names(locked)
    if image != "build":
        assert f"\n| `{image}` | {len(names(locked))} | " in (DOCKER / "README.md").read_text()


def test_jobs_have_all_that_the_project_asks_for_every_learner_and_nothing_that_only_tests_need():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = [line for line in setup["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    there = names(part("jobs"))
    assert {canonicalize_name(Requirement(line).name) for line in declared} <= there
    assert {"lightgbm", "xgboost-cpu", "optuna", "mlflow-skinny"} <= there
    assert not there & {"pytest", "mypy", "ruff", "moto", "jupyterlab", "hypothesis", "uv"}


def test_a_package_comes_with_all_that_it_needs():
    assert names(part("proxy")) >= {"aiohttp", "yarl", "multidict", "httpx", "certifi", "ply"}
    assert not names(part("proxy")) & {"pyspark", "py4j", "numba", "pandas", "fastapi", "boto3"}
    assert not names(part("serving")) & {"pyspark", "py4j", "scikit-learn", "skl2onnx", "matplotlib"}


def test_what_an_archive_for_executors_is_checked_for_is_what_is_packed():
    assert {"delorean-features", *locked_by_name("executors")} == set(NEEDED)


@pytest.mark.parametrize("image", PROGRAMS)
def test_an_image_has_all_that_its_program_imports(image: str):
    there = (
        names(part(image)) | {"delorean-features"} | ({"pyspark", "py4j"} if image.startswith("executors") else set())
    )
    hidden = [
        module
        for module, distributions in packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & there
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, ",".join(hidden), *PROGRAMS[image]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

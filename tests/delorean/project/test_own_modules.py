"""A project's folder may hold files of any name: ours and Python's are imported, and its own under their names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = 'index = "index.db"\nstorage = "store"\n'


def run(folder: Path, *arguments: str, inside: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command of ours, standing in the project's folder or elsewhere."""
    given = arguments if inside else (*arguments, "--config", str(folder / "delorean.toml"))
    return subprocess.run(
        [sys.executable, "-m", "delorean", *given],
        capture_output=True,
        text=True,
        cwd=folder if inside else ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "delorean.toml").write_text(PROJECT)
    for name in ("encoders", "schemas", "snapshotter", "prana_proxy", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the project hides ours')\n")
    for name in ("random", "json", "typing", "click"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the project hides Python')\n")
    return tmp_path


@pytest.mark.parametrize("inside", [True, False])
def test_a_project_with_folders_and_files_of_known_names_works(project: Path, inside: bool) -> None:
    done = run(project, "experiment", "list", inside=inside)
    assert (done.returncode, "hides" in done.stdout + done.stderr) == (0, False), done.stderr


OWN = """
from encoders import feature_encoder
@feature_encoder(features=["f"])
def f(context, items, data, out):
    out.f[:] = 1.0
"""


@pytest.mark.parametrize(
    ("module", "whose"),
    [("random", "a module of Python's own"), ("encoders.mine", "a package of DeLorean's"), ("click", "an installed")],
)
def test_a_module_that_a_name_of_ours_or_pythons_hides_is_refused_by_name(
    project: Path, module: str, whose: str
) -> None:
    project.joinpath(*module.split(".")).with_suffix(".py").write_text(OWN)
    (project / "delorean.toml").write_text(PROJECT + f'encoders = ["{module}"]\n')
    done = run(project, "experiment", "list")
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert f"the module '{module}' of {project} cannot be imported" in text
    assert f"is already {whose}" in text
    assert f"rename {project}/{module.partition('.')[0]}" in text


def test_the_projects_own_modules_are_imported(project: Path) -> None:
    (project / "my_encoders.py").write_text(OWN)
    (project / "delorean.toml").write_text(PROJECT + 'encoders = ["encoders.library", "my_encoders"]\n')
    text = f"""
import sys
from delorean import open_project
project = open_project({str(project)!r})
import my_encoders, random, encoders
print(sys.path[-1] == {str(project)!r}, my_encoders.f.features, random.__file__ != {str(project / "random.py")!r})
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "True ('f',) True", done.stderr

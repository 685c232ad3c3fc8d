import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from snapshotter.spark import system_requirements


def java_that_says(folder, text, code=0):
    java = folder / "bin" / "java"
    java.parent.mkdir(exist_ok=True)
    java.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21-ea" 2023', 21),
        ("no such thing", None),
    ],
)
def test_javas_version_is_read_from_any_way_it_is_told(text, version):
    assert system_requirements.java_version(text) == version


@pytest.mark.parametrize("version", ["17.0.1", "21", "25.0.2"])
def test_java_17_and_newer_are_fine(tmp_path, version):
    java_that_says(tmp_path, f'openjdk version "{version}"')
    assert system_requirements.java_problem({"JAVA_HOME": str(tmp_path)}) is None
    assert system_requirements.java_problem({"PATH": f"{tmp_path}/bin"}) is None


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('version "11.0.2"', 0, "is Java 11"),
        ('version "1.8.0"', 0, "is Java 8"),
        ("?", 0, "of unknown"),
        ("x", 1, "run"),
    ],
)
def test_another_java_is_one_line_that_says_what_to_do(tmp_path, text, code, message):
    problem = system_requirements.java_problem({"JAVA_HOME": str(java_that_says(tmp_path, text, code))})
    assert message in problem
    assert "install Java 17" in problem
    assert "\n" not in problem


def test_no_java_at_all_says_so(tmp_path):
    assert system_requirements.java_problem({"PATH": str(tmp_path)}).startswith("Java is missing")
    assert "does not run" in system_requirements.java_problem({"JAVA_HOME": str(tmp_path)})


def test_a_full_disk_says_what_is_free_and_needed(tmp_path):
    assert system_requirements.disk_problem(tmp_path, 1) is None
    assert f"{2**60 / 2**30:.1f} GiB needed" in system_requirements.disk_problem(tmp_path, 2**60)


def test_it_runs_on_the_standard_library_alone(tmp_path):
    java_that_says(tmp_path, 'version "8"')
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").touch()  # so that the disk is not checked, which tests may have filled
    script = Path(system_requirements.__file__)
    found = subprocess.run(
        [sys.executable, "-I", "-S", str(script)],
        env={**os.environ, "JAVA_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert "Java 8" in found.stderr

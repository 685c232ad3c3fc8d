"""The repository's own promises: what is packaged, pinned, listed and linked."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OURS = ("delorean", "snapshotter", "prana_proxy", "encoders", "schemas")
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
LOCK = (ROOT / "requirements.lock").read_text()
DOCUMENTS = [
    ROOT / name
    for name in (
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
        *(
            "docs/AB_TESTS.md",
            "docs/AIRFLOW.md",
            "docs/ARCHITECTURE.md",
            "docs/CLUSTER.md",
            "docs/COMPARISON.md",
            "docs/EVALUATION.md",
        ),
        *("docs/LEARNING.md", "docs/PRANA.md", "docs/SCORING.md", "docs/TASKS.md", "docker/README.md"),
    )
]
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of the make that runs us
FOLDERS = {*OURS, "dags", "docker", "tests", "docs", "notebooks", "benchmarks", ".ci"}


def lines(section, option):
    return [line for line in SETUP[section][option].splitlines() if line and not line.startswith("#")]


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines()]


def requirements():
    found = lines("options", "install_requires")
    for extra in SETUP["options.extras_require"]:
        found += lines("options.extras_require", extra)
    return [Requirement(line) for line in found]


def test_the_folders_are_those_of_the_design():
    assert {path.parts[0] for path in tracked() if len(path.parts) > 1} <= FOLDERS


def test_every_package_is_listed():
    there = {".".join(path.parent.parts) for path in tracked() if path.name == "__init__.py"}
    assert set(lines("options", "packages")) == there
    assert {name.split(".")[0] for name in there} == set(OURS)


def test_modules_never_import_each_other_in_a_circle():
    imports = grimp.build_graph(*OURS)
    # The exception: an interface opens the implementation that a URI names, and implementations import their interface.
    for interface in ("snapshotter.index", "snapshotter.storage"):
        for implementation in imports.find_children(interface) & imports.find_modules_directly_imported_by(interface):
            imports.remove_import(importer=interface, imported=implementation)
    # Raises CycleError, which names the modules.
    TopologicalSorter({one: imports.find_modules_directly_imported_by(one) for one in imports.modules}).prepare()


def test_a_wheel_holds_every_file_of_the_packages(tmp_path):
    for path in tracked():
        if path.parts[0] in OURS or len(path.parts) == 1:
            (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / "tree" / path)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "./tree"]
    subprocess.run(command, cwd=tmp_path, check=True)
    [wheel] = (tmp_path / "out").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.as_posix() for path in tracked() if path.parts[0] in OURS}


def test_the_lock_holds_every_dependency_with_hashes():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, flags=re.MULTILINE))
    for requirement in requirements():
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    for block in re.split(r"^(?=[a-z])", LOCK, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_airflows_lock_holds_hashes_and_nothing_of_spark():
    text = (ROOT / "dags/requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE))
    [wanted] = [
        Requirement(line) for line in (ROOT / "dags/requirements.in").read_text().splitlines() if line[0] != "#"
    ]
    assert wanted.specifier.contains(pinned[wanted.name])
    assert not [name for name in pinned if "spark" in name]


# What is imported under another name, or run rather than imported.
IMPORTED_AS = {
    "cassandra-driver": "cassandra",
    "delta-spark": "delta",
    "dnspython": "dns",
    "mlflow-skinny": "mlflow",
    "pylignum": "lignum",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "xgboost-cpu": "xgboost",
}
RUN = {
    "flask",
    "flask-cors",
    "googleapis-common-protos",
    "grpcio",
    "grpcio-status",
    "import-linter",
    "ipykernel",
    "jupyterlab",
    "mypy",
    "pandas-stubs",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "setuptools",
    "sqlalchemy",
    "uv",
    "zstandard",
}


def test_every_dependency_is_used():
    text = "\n".join((ROOT / path).read_text() for path in tracked() if path.suffix in (".py", ".ipynb"))
    for requirement in requirements():
        if requirement.name in RUN:
            continue
        name = IMPORTED_AS.get(requirement.name, requirement.name.replace("-", "_"))
        assert re.search(rf"(import|from) {name}\b", text), f"{requirement.name} is imported nowhere"


def test_make_alone_lists_the_commands():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, env=OUTSIDE, capture_output=True, text=True, check=True).stdout
    commands = [line.split()[1] for line in listed.splitlines()]
    assert commands == [
        "help",
        *("demo", "airflow", "test", "check", "bench", "lint", "thrift", "package", "notebook", "lock", "clean"),
    ]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (["PYTHON=/nowhere/python3.8"], "Python 3.11 or 3.12 is missing: /nowhere/python3.8 is not there"),
        (["JAVA_HOME=/nowhere"], "/nowhere/bin/java does not run"),
    ],
)
def test_make_says_in_one_line_what_the_machine_lacks(variables, problem):
    done = subprocess.run(["make", "-s", "machine", *variables], cwd=ROOT, env=OUTSIDE, capture_output=True, text=True)
    message = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode != 0
    assert len(message) == 1
    assert message[0].startswith(problem)
    assert " → " in message[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_what_is_there(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_changelog_has_an_entry_for_the_version():
    from delorean import __version__

    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from delorean import ConfigError, OpenProject, open_project
from delorean.cli.commands import cli
from delorean.packaging.files import read_files
from delorean.project.vacuum import vacuum
from delorean.registry.records import VERSIONS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\nencoders = ["company_encoders"]\n')
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command in the project's folder and return its JSON, or with another exit code its error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(cli, ["registry", *arguments, "--json"])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


def test_the_whole_life_of_a_version_on_the_command_line(run: Any, packages: list[Path], folder: Path) -> None:
    added = run("add", str(packages[0]), "--note", "the first", "--by", "ann")
    assert (added["version"], added["by"], added["note"]) == ("homepage-1", "ann", "the first")
    assert run("add", str(packages[0]))["version"] == "homepage-1"
    run("add", str(packages[1]), "--name", "second")
    run("move", "production", "homepage-1", "--reason", "first")
    assert (
        run("move", "production", "second", "--expect", "homepage-1", "--reason", "better")["previous"] == "homepage-1"
    )
    error = run("move", "production", "homepage-1", "--expect", "homepage-1", "--reason", "x", code=2)
    assert "expected version 'homepage-1', but it points at 'second'" in error
    listed = run("list")
    assert [(row["version"], row["pointers"]) for row in listed["versions"]] == [
        ("second", ["production"]),
        ("homepage-1", []),
    ]
    assert run("show", "production")["lineage"]["spec_hash"] == "hash-1"
    assert run("rollback", "production", "--reason", "errors", "--by", "eve")["version"] == "homepage-1"
    assert run("history", "production")["moves"][0]["by"] == "eve"
    assert "points at it" in run("remove", "homepage-1", "--reason", "x", code=2)
    assert run("remove", "second", "--reason", "worse")["reason"] == "worse"
    fetched = run("fetch", "production", "--into", "here")
    assert fetched["version"] == "homepage-1"
    assert (folder / "here" / "MANIFEST.json").exists()
    assert run("fetch", "production")["package"].startswith(str(folder / ".cache"))


def test_commands_that_take_a_package_resolve_the_registrys_names(run: Any, packages: list[Path]) -> None:
    run("add", str(packages[0]))
    for command in (
        ["serve", "registry:prod"],
        ["predict", "homepage", "--package", "registry:prod"],
        ["track", "registry:prod", "--server", "http://127.0.0.1:1"],
        ["compare", "registry:homepage-1", "registry:prod"],
    ):
        result = CliRunner().invoke(cli, command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "unknown version or pointer of the registry 'prod' → known: homepage-1" in result.stderr


def test_text_shows_what_a_version_is(run: Any, packages: list[Path]) -> None:
    run("add", str(packages[0]))
    shown = CliRunner().invoke(cli, ["registry", "show", "homepage-1"]).output
    assert "registered version homepage-1: HistGradientBoostingClassifier, 4 features" in shown
    assert "golden/data_maps.arrow" in shown


def test_a_project_loads_packages_by_pointer(
    packages: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    with open_project(folder) as project:
        project.registry.add(packages[0])
        project.registry.move("production", "homepage-1", "first")
        assert project.load_package("registry:production").lineage["spec_hash"] == "hash-0"
        assert project.load_package(packages[1]).lineage["spec_hash"] == "hash-1"
        with pytest.raises(ConfigError, match="'../x' cannot name a folder"):
            project.load_package("registry:../x")


def test_a_vacuum_keeps_what_is_registered_and_deletes_what_died(packages: list[Path], folder: Path) -> None:
    with open_project(folder) as project:
        registry, storage = project.registry, project.storage
        added = [registry.add(package) for package in packages[:2]]
        dead = "registry/packages/died/model.onnx"
        storage.create(dead, b"half")
        assert vacuum(storage, project.index, timedelta(hours=2)).paths == [], "it may be under way"
        assert vacuum_tomorrow(project) == [dead]
        assert read_files(registry.fetch("homepage-1", folder / "fetched")) == read_files(packages[0])
        registry.remove("homepage-2", "worse")
        left = f"{added[1].folder}/model.onnx"
        storage.create(left, b"left by a remover that died")
        assert vacuum_tomorrow(project) == [left]
        storage.create(f"{VERSIONS}/strange.json", b"{")
        storage.create(dead, b"half")
        assert vacuum_tomorrow(project) == [], "a version that cannot be read may need anything"


def vacuum_tomorrow(project: OpenProject) -> list[str]:
    """Vacuum after making all files of the registry a day older."""
    yesterday = time.time() - 86_400
    for path in (project.folder / "store" / "registry").rglob("*"):
        os.utime(path, (yesterday, yesterday))
    return vacuum(project.storage, project.index, timedelta(hours=2)).paths

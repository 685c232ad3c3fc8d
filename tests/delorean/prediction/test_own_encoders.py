"""A package scores only features that its own encoders computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from declaring_project import ENCODERS, OLD, Folder, capture, shown

from delorean.cli.commands import cli
from schemas.errors import FingerprintError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path, f"scored_{tmp_path.name}")
    with made.open() as project:
        capture(project, OLD, [((p,), 0, [{"video_id": p % 3, "minutes": 1.0 + p}]) for p in range(12)], "run")
        shown(project)
    made.encoders(ENCODERS, "minutes")
    with made.open() as project:
        project.generate("spec")
        project.package("spec", "package")
    yield made
    made.forget()


def test_a_project_scores_its_feature_set_from_python_and_from_the_command_line(folder: Folder) -> None:
    with folder.open() as project:
        predictions = project.predict("spec", "package", keep=["label"])
        table = predictions.to_polars()
        package = project.load_package("package")
    assert not predictions.notes
    assert table["score"].explode().len() == table["label"].explode().len() == predictions.item_count > 0
    config = ["--config", str(folder.path / "delorean.toml"), "--json", "--cores", "0"]
    ran = CliRunner().invoke(cli, ["predict", "spec", "--package", str(folder.path / "package"), *config])
    assert ran.exit_code == 0, ran.output
    shown_fields = json.loads(ran.stdout)
    assert shown_fields["version"] == 1
    assert shown_fields["package"]["digest"] == package.digest
    assert (shown_fields["lowest"], shown_fields["highest"]) == (predictions.lowest, predictions.highest)


def test_features_of_another_version_of_an_encoder_are_rejected(folder: Folder) -> None:
    folder.encoders(ENCODERS.replace("+= data.history.minutes[j]", "+= 2 * data.history.minutes[j]"), "minutes")
    with folder.open() as project:
        generated = project.generate("spec")
        folder.encoders(ENCODERS, "minutes")
    with folder.open() as project:
        package = project.load_package("package")
        with pytest.raises(FingerprintError, match="'minutes' of version 1 of .* another version of the encoder"):
            project.predict(generated, package)
        assert project.predict("spec", package, version=0).rows > 0

"""`delorean label-quality`, for label data at rest, without Spark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from project_at_rest import long_labels

from delorean.cli.commands import cli
from delorean.experiment import load_experiment
from delorean.experiment.label_quality import require_label_quality
from delorean.labels import LabelColumns, load_labels
from delorean.labels.materialise import materialise_labels
from schemas.errors import QualityError
from snapshotter.storage import open_storage

SPEC = """
name = "home"
encoders = ["encoders.library.my_list:listed"]

[tables]
shown = { path = "shown.parquet" }

[labels]
id = "shown"
table = "shown"
items = ["video_id"]
context = ["profile_id"]
"""


def rows(contradictory: int = 0) -> pa.Table:
    """40 profiles, each shown 5 videos at minute 1; of some profiles the first again in the next minute, otherwise."""
    shown = [(profile, 1, video, float(video == profile % 5)) for profile in range(40) for video in range(5)]
    again = [(profile, 2, 0, 1.0 - float(profile % 5 == 0)) for profile in range(contradictory)]
    return long_labels([*shown, *again])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("delorean.toml").write_text('storage = "store"\n')
    Path("home.toml").write_text(SPEC)
    columns = LabelColumns(("video_id",), context=("profile_id",))
    storage = open_storage(f"file://{tmp_path}/store")
    materialise_labels(rows(contradictory=10), columns, storage, labels_id="shown")
    materialise_labels(rows(), columns, storage, labels_id="before")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["label-quality", "home.toml", *arguments])


def document(result: Result) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(result.stdout)
    return fields


def test_it_counts_and_passes_where_the_spec_has_no_limits(folder: Path) -> None:
    result = run("--json", "--against", "before")
    assert result.exit_code == 0, result.output
    fields = document(result)
    assert (fields["labels"], fields["items"], fields["contradictions"]) == ("shown", 210, {"label": 10})
    assert {change["what"] for change in fields["changes"]} >= {"items per context", "values of 'label'"}
    assert fields["violations"] == []


def test_a_broken_limit_exits_with_3_only_where_it_is_binding(folder: Path) -> None:
    for policy, code in (("warn", 0), ("fail", 3)):
        (folder / "home.toml").write_text(f'{SPEC}\n[label_quality]\nmax_contradictions = 0.01\npolicy = "{policy}"\n')
        result = run("--json")
        assert result.exit_code == code
        assert document(result)["violations"] == ["contradictions of 'label': 0.04762, at most 0.01 allowed"]


def test_the_text_says_what_the_json_says(folder: Path) -> None:
    result = run()
    assert result.exit_code == 0
    for text in ("quality of label data shown", "contradictions of 'label'", "10 (4.76%)", "by day"):
        assert text in result.stdout


def test_nothing_is_trained_on_label_data_that_breaks_a_binding_limit(folder: Path) -> None:
    storage = open_storage(f"file://{folder}/store")
    (folder / "home.toml").write_text(f'{SPEC}\n[label_quality]\nmax_contradictions = 0.01\npolicy = "fail"\n')
    experiment = load_experiment("home.toml")
    with pytest.raises(QualityError, match="contradictions of 'label': 0.04762, at most 0.01 allowed"):
        require_label_quality(experiment, load_labels("shown", storage), storage)
    require_label_quality(experiment, load_labels("before", storage), storage)


def test_earlier_label_data_that_does_not_exist_is_an_error(folder: Path) -> None:
    result = run("--against", "shwn")
    assert result.exit_code == 2
    assert "there is no label data 'shwn'" in result.stderr


def test_a_wrong_limit_names_the_file_and_the_line(folder: Path) -> None:
    (folder / "home.toml").write_text(f"{SPEC}\n[label_quality]\nmax_dupes = 0.01\n")
    result = run()
    assert result.exit_code == 2
    assert "home.toml" in result.stderr
    assert "did you mean" in result.stderr

"""What a spec alone shows to be wrong is refused before any work: nothing is read, no session is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from delorean.evaluation.settings import EvaluationSettings
from delorean.experiment import EncoderSpec, ExperimentSpec, LabelSpec, load_experiment
from delorean.experiment.label_data import labels_of
from delorean.experiment.run import run_experiment
from delorean.ranking_data.split import Split
from schemas.errors import CorruptFileError, DeloreanError, LabelError
from snapshotter.index import open_index
from snapshotter.storage import open_storage
from snapshotter.storage.table_source import TableSource

LISTED = "encoders.library.my_list:listed"
WRONG = {
    "a feature set's name": ({"name": "../f"}, {}, "feature set '../f' cannot name a folder"),
    "a name of spaces": ({"name": "my homepage"}, {}, "it contains ' '"),
    "the id of label data": ({}, {"id": "team/homepage"}, "label data 'team/homepage' cannot name a folder"),
    "a count of buckets": ({}, {"buckets": 3}, "bucket count is 3, expected a power of two"),
    "no items": ({}, {"items": ()}, "label data names no items"),
    "a label as an item": ({}, {"items": ("label",)}, "label column 'label' is also a context or item variable"),
    "a variable twice": ({}, {"context": ("profile_id", "video_id")}, "uses video_id in two roles"),
    "an unknown bucket variable": (
        {},
        {"context": ("profile_id",), "bucket_variable": "profile"},
        "unknown bucket variable among the context variables 'profile' → did you mean 'profile_id'",
    ),
    "a group that is no variable": (
        {"split": Split(by_time=False, group="profile")},
        {"context": ("profile_id",)},
        "unknown context variable to split by 'profile' → did you mean 'profile_id'",
    ),
    "a column to measure by that no feature set has": (
        {"evaluation": EvaluationSettings(by=("contry",))},
        {"context": ("profile_id", "country")},
        "unknown column to measure by 'contry' → did you mean 'country'",
    ),
    "a cluster that is no column": (
        {"evaluation": EvaluationSettings(cluster="profile")},
        {"context": ("profile_id",)},
        "unknown variable of clusters 'profile' → did you mean 'profile_id'",
    ),
    "names that differ by case": (
        {"encoders": (EncoderSpec(LISTED, rename={"in_my_list": "Video_ID"}),)},
        {},
        "several columns named video_id and Video_ID",
    ),
}


def spec_of(changes: dict[str, object], labels: dict[str, object]) -> ExperimentSpec:
    fields = {"items": ("video_id",), "table": "shown", **labels}
    given = {"name": "home", "encoders": (LISTED,), "tables": {"shown": TableSource("shown.parquet")}, **changes}
    return ExperimentSpec(LabelSpec(**fields), **given)  # type: ignore[arg-type]  # each case gives its own types


@pytest.mark.parametrize("case", WRONG)
def test_a_spec_that_is_wrong_by_itself_is_refused_before_any_work(tmp_path: Path, case: str) -> None:
    changes, labels, message = WRONG[case]
    storage = open_storage(f"file://{tmp_path}/store")
    with (
        open_index(f"sqlite://{tmp_path}/index.db") as index,
        pytest.raises(DeloreanError, match=message.replace("'", ".")) as raised,
    ):
        run_experiment(spec_of(changes, labels), index, storage)
    assert raised.value.final
    assert list(storage.list("")) == []


def test_a_run_id_is_checked_before_any_work(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/store")
    with (
        open_index(f"sqlite://{tmp_path}/index.db") as index,
        pytest.raises(DeloreanError, match="run id '-1' cannot name a folder"),
    ):
        run_experiment(spec_of({}, {}), index, storage, run_id="-1")


def test_a_file_is_told_the_line(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    text = f'encoders = ["{LISTED}"]\n[labels]\ntable = "shown"\nitems = ["video_id"]\nid = "a/b"\n'
    path.write_text(text)
    with pytest.raises(DeloreanError, match=r"home.toml, line 5: labels.id: label data 'a/b' cannot name a folder"):
        load_experiment(path)
    (tmp_path / "my home.toml").write_text(text.replace("a/b", "a"))
    with pytest.raises(DeloreanError, match=r"my home.toml, line 1: name: feature set 'my home' cannot name a folder"):
        load_experiment(tmp_path / "my home.toml")


def test_a_manifest_that_cannot_be_read_is_an_error_before_any_work(tmp_path: Path) -> None:
    storage, spec = open_storage(f"file://{tmp_path}/store"), spec_of({}, {"id": "may"})
    with pytest.raises(LabelError, match="its query needs Spark"):
        labels_of(spec, None, storage)
    storage.create("labels/may/manifest.json", b"{")
    with pytest.raises(LabelError, match="'labels/may/manifest.json' is not a manifest of label data") as raised:
        labels_of(spec, None, storage)
    assert raised.value.final


def test_a_plan_that_cannot_be_read_is_an_error_before_any_work(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}/store")
    storage.create("feature_sets/_plans/home/r1.json", b"{")
    with (
        open_index(f"sqlite://{tmp_path}/index.db") as index,
        pytest.raises(CorruptFileError, match="'feature_sets/_plans/home/r1.json' is not a plan of a generation"),
    ):
        run_experiment(spec_of({}, {}), index, storage, run_id="r1")

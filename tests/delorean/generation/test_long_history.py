"""A generation lists and reads the snapshots that its rows need, however many older ones there are."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from project_at_rest import HISTORY, MOOD, Project, long_labels, minutes

from delorean.audit.comparison import compare_encoders
from delorean.generation import generate
from delorean.generation.generation_plan import plan_generation
from delorean.generation.preview import preview_features
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from delorean.state.rules import AsOf, ConfidenceFloor
from delorean.state.sources import PinnedSources
from encoders import FeatureModel, feature_encoder
from schemas.errors import ReplayError
from snapshotter.records import ServiceSnapshot

RUNS = 40
LISTED = 4
PROFILES = range(8)


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any) -> None:
    """Minutes of all that was watched."""
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            out.minutes_watched[i] += data.history.minutes[j]


@feature_encoder(data=[HISTORY], features=["entries"])
def entries(context: Any, items: Any, data: Any, out: Any) -> None:
    """How much was watched."""
    for i in range(len(items.video_id)):
        out.entries[i] = len(data.history.video_id)


@feature_encoder(data=[MOOD], features=["mood_known"])
def mood_known(context: Any, items: Any, data: Any, out: Any) -> None:
    """Whether the mood is known."""
    for i in range(len(items.video_id)):
        out.mood_known[i] = 1.0 if data.mood.present else 0.0


@pytest.fixture
def project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Many runs, a minute after another; profile 7 is only in the first, and pages are short."""
    monkeypatch.setattr("delorean.state.snapshot_pages.FIRST_PAGE", LISTED)
    for run in range(RUNS):
        capture(project, run, PROFILES if run == 0 else PROFILES[:-1], f"run-{run:02d}")
    return project


def capture(project: Project, minute: int, profiles: Any, run_id: str, failed: int = 0) -> None:
    rows = [((p,), minute, [{"video_id": 1, "minutes": float(minute)}]) for p in profiles]
    project.history(rows, run_id, 4, failed)


def labels_of(project: Project, profiles: Any, times: Any = (RUNS,)) -> Labels:
    rows = long_labels([(p, minute, 1, 1) for p in profiles for minute in times])
    return materialise_labels(rows, LabelColumns(("video_id",)), project.storage, buckets=4)


def features(project: Project, labels: Labels, name: str = "f", more: Any = (), **options: Any) -> Any:
    model = FeatureModel([minutes_watched, *more])
    return generate(labels, model, project.index, project.storage, name, **options)


def runs_read(feature_set: Any) -> list[str]:
    return list(feature_set.lineage["snapshots"]["history"])


def test_rows_that_new_runs_serve_list_only_the_newest(project: Project) -> None:
    result = features(project, labels_of(project, PROFILES[:-1], times=(35, RUNS)))
    assert runs_read(result) == [f"run-{run:02d}" for run in range(35 - LISTED, RUNS)]
    assert result.absent == {"history": 0}


def test_a_row_that_only_an_old_run_serves_makes_the_list_longer(project: Project) -> None:
    result = features(project, labels_of(project, PROFILES))
    assert runs_read(result) == [f"run-{run:02d}" for run in range(RUNS)]
    rows = result.to_arrow().sort_by("profile_id")
    assert rows["history_run_id"].to_pylist() == ["run-39"] * 7 + ["run-00"]
    assert result.absent == {"history": 0}
    pinned = PinnedSources({"history": runs_read(result)}, {})
    assert features(project, labels_of(project, PROFILES), "g", pinned=pinned).digest == result.digest


def test_a_preview_and_a_comparison_of_encoders_list_old_runs_only_for_rows_that_need_them(project: Project) -> None:
    listed: list[int] = []
    for profiles in (PROFILES[:-1], PROFILES):
        rows = long_labels([(p, RUNS, 1, 1) for p in profiles])
        with count_records(listed):
            shown = preview_features(rows, minutes_watched, project.index, project.storage, LabelColumns(("video_id",)))
        assert shown.sort_by("profile_id")["history_run_id"].to_pylist() == ["run-39"] * 7 + ["run-00"] * (
            len(profiles) - 7
        )
        labels = labels_of(project, profiles)
        with count_records(listed):
            result = compare_encoders(minutes_watched, minutes_watched, labels, project.index, project.storage)
        assert result.equal
    few, compared_few, many, compared_many = listed
    assert few < RUNS / 2 < RUNS <= many
    assert compared_few < RUNS < compared_many


@contextmanager
def count_records(counts: list[int]) -> Iterator[None]:
    """Append the number of snapshots' records that were read."""
    read, from_json = [], ServiceSnapshot.from_json

    def counted(fields: Any) -> ServiceSnapshot:
        read.append(fields["run_id"])
        return from_json(fields)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ServiceSnapshot, "from_json", counted)
        yield
    counts.append(len(read))


def test_max_age_bounds_the_list(project: Project) -> None:
    result = features(
        project, labels_of(project, PROFILES), rules={"history": AsOf(max_age=timedelta(minutes=2 * LISTED))}
    )
    assert runs_read(result) == [f"run-{run:02d}" for run in range(RUNS - 2 * LISTED, RUNS)]
    assert result.absent == {"history": 1}


@pytest.mark.parametrize(("below", "served"), [("previous", ["run-39", "run-00"]), ("skip", [None, "run-00"])])
def test_a_floor_applies_to_every_page(project: Project, below: Any, served: list[str | None]) -> None:
    capture(project, RUNS, PROFILES[:-1], "poor", failed=100)
    floor = {"history": ConfidenceFloor(0.9, below)}
    result = features(project, labels_of(project, [0, 7]), confidence=floor)
    assert result.to_arrow().sort_by("profile_id")["history_run_id"].to_pylist() == served


def test_what_is_published_meanwhile_changes_nothing(project: Project) -> None:
    expected = features(project, labels_of(project, PROFILES))
    labels = labels_of(project, PROFILES)
    plan = plan_generation(labels, FeatureModel([minutes_watched]), project.index, project.storage.uri, paged=True)
    assert len(plan.services[0].ids) == LISTED
    capture(project, RUNS - 1, PROFILES, "newer")
    result = features(project, labels, "g", pinned=plan.pinned)
    assert result.digest == expected.digest
    assert "newer" not in runs_read(result)


def test_however_much_is_published_meanwhile_older_runs_are_reached(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delorean.state.snapshot_pages._GROWTH", 2)
    labels = labels_of(project, PROFILES)
    expected = features(project, labels)
    plan = plan_generation(labels, FeatureModel([minutes_watched]), project.index, project.storage.uri, paged=True)
    for run in range(3 * LISTED):
        capture(project, RUNS - 1, PROFILES[:1], f"newer-{run}")
    assert features(project, labels, "g", pinned=plan.pinned).digest == expected.digest


def test_a_run_that_is_withdrawn_before_its_rows_are_served_is_named(project: Project) -> None:
    labels = labels_of(project, PROFILES)
    plan = plan_generation(labels, FeatureModel([minutes_watched]), project.index, project.storage.uri, paged=True)
    project.index.withdraw_run("run-39", "wrong", "me")
    with pytest.raises(ReplayError, match="snapshot runs of 'history' are not in the index any more: run-39"):
        features(project, labels, pinned=plan.pinned)


def test_a_run_id_goes_on_with_its_first_list(project: Project) -> None:
    labels = labels_of(project, PROFILES)
    expected = features(project, labels, run_id="one")

    class KilledError(Exception): ...

    def killed(_: str, done: int, of: int) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        features(project, labels, "g", run_id="one", progress=killed)
    capture(project, RUNS - 1, PROFILES, "newer")
    assert features(project, labels, "g", run_id="one").digest == expected.digest


def test_a_version_that_needed_old_runs_is_copied_from_with_the_same_list(project: Project) -> None:
    labels = labels_of(project, PROFILES)
    first = features(project, labels)
    again = features(project, labels, more=[entries])
    assert again.copied == "1 of 2 features copied from version 0"
    assert runs_read(again) == runs_read(first)
    assert again.digest == features(project, labels, "g", more=[entries], recompute=True).digest
    assert again.digest.features["minutes_watched"] == first.digest.features["minutes_watched"]
    # As far back as that version, not further.
    recent = labels_of(project, PROFILES[:-1])
    features(project, recent)
    copied = features(project, recent, more=[entries])
    assert copied.copied == "1 of 2 features copied from version 2"
    assert len(runs_read(copied)) == LISTED


def test_an_old_run_that_was_published_since_is_never_hidden_by_a_copy(project: Project) -> None:
    labels = labels_of(project, PROFILES)
    features(project, labels)
    capture(project, 3, PROFILES, "late")
    again = features(project, labels, more=[entries])
    assert again.copied == ""
    assert again.to_arrow().sort_by("profile_id")["history_run_id"].to_pylist() == ["run-39"] * 7 + ["late"]


def test_elements_that_are_not_copied_may_need_old_runs(project: Project, spark: Any) -> None:
    labels = labels_of(project, PROFILES)
    first = features(project, labels)
    for run in range(RUNS):
        project.mood([((p,), run, "good") for p in (PROFILES if run == 0 else PROFILES[:-1])], f"mood-{run:02d}", 4)
    for where in (None, spark):
        again = features(project, labels, more=[mood_known], spark=where, run_id=None if where is None else "spark")
        assert again.lineage["copied"]["features"][0] == "minutes_watched"
        assert (len(again.lineage["snapshots"]["mood"]), runs_read(again)) == (RUNS, runs_read(first))
        assert again.absent == {"history": 0, "mood": 0}
        assert again.digest == features(project, labels, "g", more=[mood_known], recompute=True).digest


def test_many_runs_that_end_together_are_listed_together(project: Project) -> None:
    for run in range(3 * LISTED):
        capture(project, RUNS, [run % 7], f"together-{run}")
    result = features(project, labels_of(project, PROFILES[:-1], times=(RUNS + 5,)))
    assert len(runs_read(result)) == 3 * LISTED
    assert result.absent == {"history": 0}


def test_a_task_gets_only_its_own_bucket_of_the_plan(project: Project) -> None:
    labels = labels_of(project, PROFILES)
    plan = plan_generation(labels, FeatureModel([minutes_watched]), project.index, project.storage.uri)
    (source,) = plan.services
    for bucket in range(4):
        (part,) = plan.of_bucket(bucket).services
        assert list(part.files(bucket, 4, "profile_id")) == [
            (kept, file)
            for snapshot, file in source.files(bucket, 4, "profile_id")
            for kept in part.snapshots
            if kept.run_id == snapshot.run_id
        ]
        assert part.ids == source.ids
        assert len(pickle.dumps(part)) < 0.7 * len(pickle.dumps(source))
    assert minutes(0) == plan.services[0].snapshots[0].captured_from

"""A vacuum takes what nobody can miss and nothing else: what is kept can be read afterwards, all else is gone."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from delta_writer import FILES, ROWS, SCHEMA, files_of
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_at_rest import long_labels
from s3_server import S3Server

from delorean.cli.commands import cli
from delorean.experiment.record import (
    FeaturesRecord,
    LabelsRecord,
    RunRecord,
    find_run,
    forget_run,
    recorded_runs,
    save_run,
)
from delorean.feature_sets.digest import FeatureDigest
from delorean.feature_sets.versions import versions_of
from delorean.labels import LabelColumns, Labels, label_data_names, load_labels, save_labels
from delorean.labels.materialise import materialise_labels
from delorean.project.vacuum import VacuumReport, vacuum
from delorean.registry.records import RegisteredVersion
from delorean.registry.registry import Registry
from delorean.registry.versions import Versions
from schemas.data_keys import context_variable, global_element, service_element
from schemas.errors import ConfigError, LabelError, MissingFileError, ReplayError
from schemas.services import Service
from snapshotter.index import open_index
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, SnapshotRun
from snapshotter.storage import StoredFile
from snapshotter.storage.delta import USER_METADATA, commit_files, delta_table
from snapshotter.storage.delta_version import DeltaVersion
from snapshotter.storage.local import LocalStorage
from snapshotter.storage.s3 import S3Storage

WEEK = timedelta(days=7)


@dataclass
class Store:
    """A storage whose files get a chosen age, in days."""

    folder: Path
    made: int = 0

    def __post_init__(self) -> None:
        self.storage: Any = LocalStorage(f"file://{self.folder}/data")

    def labels(self, age: float, name: str | None = None) -> Labels:
        with self.aged(age):
            return materialise_labels(
                long_labels([(1, 1, 1, 1)]), LabelColumns(("video_id",)), self.storage, labels_id=name
            )

    def version(
        self, age: float, labels: Labels | None = None, table: str = "feature_sets/f", experiment: str = "e"
    ) -> int:
        self.made += 1
        lineage = {} if labels is None else {"delorean": json.dumps({"labels": labels.labels_id})}
        with self.aged(age):
            files = files_of(self.storage, table, 0, self.made)
            metadata = {**lineage, USER_METADATA: experiment}
            return commit_files(self.storage, table, SCHEMA, files, metadata)

    def run(self, version: int, labels: Labels, tables: dict[str, dict[str, object]] | None = None) -> str:
        """Record a run that made a version."""
        record = RunRecord(
            run_id="",
            experiment_id="e",
            name="f",
            started_at=datetime.now(UTC),
            spec={},
            seed=0,
            labels=LabelsRecord(labels.labels_id, 1, 1, labels.files, tables or {}),
            feature_model={"encoders": []},
            snapshots={},
            confidence={},
            globals={},
            features=FeaturesRecord("f", version, 1, 1, 0, {}, (), FeatureDigest.empty(())),
            versions={},
            seconds={},
        )
        return save_run(record, self.storage).run_id

    def write(self, path: str, age: float) -> str:
        with self.aged(age):
            self.storage.create(path, b"dead")
        return path

    def aged(self, days: float) -> Aged:
        return Aged(self.storage, days)

    def readable(self, version: int | None, table: str = "feature_sets/f") -> bool:
        uri = self.storage.uri_of(table)
        try:
            return DeltaVersion.of(delta_table(uri, version), uri).to_arrow().num_rows == ROWS * FILES
        except MissingFileError:
            return False

    def has_labels(self, labels: Labels) -> bool:
        try:
            found = load_labels(labels.labels_id, self.storage)
        except LabelError:
            return False
        for file in found.files:
            self.storage.open_input(file.path).close()
        return True

    def has(self, path: str) -> bool:
        return (self.storage.root / path).exists()

    def vacuum(self, older_than: timedelta = WEEK, *, dry_run: bool = False) -> VacuumReport:
        with open_index(f"sqlite://{self.folder}/index.db") as index:
            return vacuum(self.storage, index, older_than, dry_run=dry_run)


class OldS3(S3Storage):
    """A bucket's folder that reports files as old as a test chooses."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.times: dict[str, float] = {}

    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        for file in super().list(prefix, name_prefix):
            then = self.times.get(file.path)
            yield file if then is None else replace(file, modified_at=datetime.fromtimestamp(then, UTC))


class Aged:
    """Gives the files that are written in it an age."""

    def __init__(self, storage: LocalStorage | OldS3, days: float) -> None:
        self.storage, self.then = storage, time.time() - days * 86_400

    def __enter__(self) -> None:
        self.before = {file.path for file in self.storage.list("")}

    def __exit__(self, *_: object) -> None:
        for file in self.storage.list(""):
            if file.path not in self.before:
                self.make_old(file.path)

    def make_old(self, path: str) -> None:
        if isinstance(self.storage, OldS3):
            self.storage.times[path] = self.then
        else:
            os.utime(self.storage.root / path, (self.then, self.then))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_versions_that_nobody_refers_to_go_the_newest_and_those_of_runs_stay(store: Store) -> None:
    labels = [store.labels(age) for age in (40, 30, 20)]
    for age, each in zip((40, 30, 20), labels, strict=True):
        store.version(age, each)
    store.run(0, labels[0])
    found = store.vacuum()
    assert [removal.what for removal in found.removals] == [
        "feature_sets/f, version 1",
        f"labels/{labels[1].labels_id}",
    ]
    assert "superseded on " in found.removals[0].why
    assert found.removals[0].row()["files"] == FILES
    assert [store.readable(version) for version in (0, 1, 2)] == [True, False, True]
    assert [store.has_labels(each) for each in labels] == [True, False, True]
    assert store.vacuum().paths == []


def test_it_does_the_same_in_s3(store: Store, s3: S3Server) -> None:
    store.storage = OldS3(s3.new_uri())
    labels = store.labels(40)
    for age in (40, 30, 20):
        store.version(age, labels)
    store.run(1, labels)
    paths = ("feature_sets/f/dead/0.parquet", "labels/x/0.parquet", "snapshots/_plans/r.json")
    dead = [store.write(path, 9) for path in paths]
    young = store.write("labels/y/0.parquet", 1)
    removed = store.vacuum().paths
    assert set(dead) < set(removed)
    assert [store.readable(version) for version in (0, 1, 2)] == [False, True, True]
    assert store.has_labels(labels)
    listed = {file.path for file in store.storage.list("")}
    assert young in listed
    assert listed.isdisjoint(removed)
    assert store.vacuum().paths == []


def test_a_dry_run_tells_the_same_and_removes_nothing(store: Store) -> None:
    for age in (40, 30, 20):
        store.version(age)
    orphan = store.write("snapshots/history/r1/0.parquet", 30)
    before = [file.path for file in store.storage.list("")]
    dry = store.vacuum(dry_run=True)
    assert dry.dry_run
    assert [file.path for file in store.storage.list("")] == before
    wet = store.vacuum()
    assert (dry.paths, orphan in wet.paths) == (wet.paths, True)
    assert set(before) - {file.path for file in store.storage.list("")} == set(wet.paths)


def test_what_was_the_newest_version_until_lately_may_be_read_by_somebody_and_stays(store: Store) -> None:
    store.version(40)
    store.version(30)
    store.version(3)
    store.vacuum()
    assert [store.readable(version) for version in (0, 1, 2)] == [False, True, True]


def test_a_version_of_a_feature_set_that_labels_were_read_from_stays(store: Store) -> None:
    labels = store.labels(40)
    for age in (50, 40, 30, 20):
        store.version(age, table="feature_sets/stacked")
        store.version(age, labels)
    store.run(3, labels, {"base": {"path": "data/feature_sets/stacked", "format": "delta", "version": 1}})
    store.run(3, labels, {"base": {"path": "features.stacked", "format": "table", "version": 2}})
    store.run(3, labels, {"base": {"path": "features.of_others", "format": "table", "version": 77}})
    store.run(3, labels, {"base": {"path": "lake/stacked", "format": "iceberg", "version": 78}})
    store.vacuum()
    assert [store.readable(version, "feature_sets/stacked") for version in (0, 1, 2, 3)] == [False, True, True, True]


@pytest.mark.parametrize(
    "orphan",
    [
        "feature_sets/f/dead/00000-0.parquet",
        "feature_sets/never/dead/00000-0.parquet",
        "feature_sets/f/_delta_log/_commit_x.json.tmp",
        "feature_sets/f/.00000-0.parquet.x.tmp",
        "labels/never/dead/00000-0.parquet",
        "labels/given/dead/00000-0.parquet",
        "experiments/e/.e-1.json.x.tmp",
        "context_sets/2026-01-05/x/dead/00000-0.parquet",
        "snapshots/_plans/dead.json",
        "feature_sets/_plans/f/dead.json",
        "ab_tests/_queries/dead/0.arrow",
    ],
)
def test_what_died_goes_when_it_is_old_and_not_before(store: Store, orphan: str) -> None:
    labels = store.labels(40, "given")
    store.version(40, labels)
    store.write(orphan, 6)
    assert store.vacuum().paths == []
    os.utime(store.storage.root / orphan, (0, 0))
    assert store.vacuum().paths == [orphan]
    assert store.readable(0)
    assert store.has_labels(labels)


def test_files_of_others_and_of_the_tables_themselves_are_left_alone(store: Store) -> None:
    store.version(40)
    kept = [
        store.write(path, 100)
        for path in (
            "notes.txt",
            "features/x.parquet",
            "feature_sets/f/readme.md",
            "feature_sets/f/_change_data/0.parquet",
        )
    ]
    kept += [file.path for file in store.storage.list("feature_sets/f/_delta_log")]
    assert store.vacuum().paths == []
    assert all(store.has(path) for path in kept)


def test_of_predictions_the_newest_version_and_those_that_labels_were_read_from_stay(store: Store) -> None:
    labels = store.labels(40, "given")
    store.version(40, labels)
    for age in (40, 30, 20):
        store.version(age, table="predictions/f")
    store.run(0, labels, {"scores": {"path": "../predictions/f", "format": "delta", "version": 1}})
    orphan = store.write("predictions/f/0123/00001-0.parquet", 40)
    report = store.vacuum()
    assert {removal.what for removal in report.removals} == {"predictions/f, version 0", "predictions/f/0123"}
    assert not store.has(orphan)
    assert not report.notes
    assert [store.readable(version, table="predictions/f") for version in (0, 1, 2)] == [False, True, True]
    assert store.readable(0)


def test_a_forgotten_run_gives_up_what_only_it_refers_to_and_its_id_is_not_given_again(store: Store) -> None:
    labels = [store.labels(40), store.labels(30)]
    versions = [store.version(40, labels[0]), store.version(30, labels[1])]
    first, second = (store.run(version, each) for version, each in zip(versions, labels, strict=True))
    assert store.vacuum().paths == []
    with pytest.raises(ReplayError, match="unknown experiment run 'e' → .*known: e-1, e-2"):
        forget_run("e", store.storage)
    forget_run(first, store.storage)
    store.vacuum()
    assert (store.readable(0), store.has_labels(labels[0])) == (False, False)
    assert (store.readable(1), store.has_labels(labels[1])) == (True, True)
    with pytest.raises(ReplayError, match="unknown experiment run 'e-1'"):
        find_run(first, store.storage)
    forget_run(second, store.storage)
    assert store.run(1, labels[1]) == "e-3"
    assert [record.run_id for record in recorded_runs(store.storage)] == ["e-3"]


def test_what_nobody_can_tell_is_left_alone_and_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = store.labels(40)
    other = store.labels(40)
    for age in (40, 30, 20):
        store.version(age, labels)
        store.version(age, table="feature_sets/sound")
    (store.storage.root / "feature_sets/f/_delta_log/00000000000000000001.json").write_text("{")
    manifest = store.storage.root / f"labels/{other.labels_id}/manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    found = store.vacuum()
    assert [removal.what for removal in found.removals] == [
        f"feature_sets/sound, version {version}" for version in (0, 1)
    ]
    assert found.notes[0].startswith("feature_sets/f was left alone: commit 1 of the Delta table at ")
    assert found.notes[1].startswith(f"labels/{other.labels_id} was kept: ")
    monkeypatch.chdir(store.folder)
    Path("delorean.toml").write_text("")
    listed = json.loads(CliRunner().invoke(cli, ["index", "features", "--json"], catch_exceptions=False).stdout)
    assert {row["feature_set"] for row in listed["versions"]} == {"sound"}
    assert [row["path"] for row in listed["broken"]] == ["feature_sets/f"]
    assert CliRunner().invoke(cli, ["index", "features", "f"]).exit_code != 0
    assert store.has_labels(labels)  # nobody can tell whether it was made into the feature set


def test_a_name_of_twelve_digits_is_a_name(store: Store) -> None:
    labels = store.labels(40, "202601051200")
    assert store.vacuum().paths == []
    assert store.has_labels(labels)


def test_label_data_whose_id_has_a_slash_is_seen_as_what_it_is(store: Store) -> None:
    """Earlier versions accepted such ids."""
    nested, unused = store.labels(40), store.labels(40)
    with store.aged(40):
        for name, labels in (("team/homepage", nested), ("team/unused", unused)):
            save_labels(replace(labels, labels_id=name), store.storage)
            store.storage.delete([f"labels/{labels.labels_id}/manifest.json"])
    nested = load_labels("team/homepage", store.storage)
    store.run(store.version(30, nested), nested)
    dead = store.write("labels/team/dead/x/00000-0.parquet", 40)
    assert sorted(label_data_names(store.storage)) == ["team/homepage", "team/unused"]
    assert set(store.vacuum().paths) == {dead, "labels/team/unused/manifest.json", *_paths(unused)}
    assert store.has_labels(nested)


def _paths(labels: Labels) -> list[str]:
    return [file.path for file in labels.files]


def test_label_data_of_earlier_versions_counts_as_named(store: Store) -> None:
    labels = store.labels(40)
    path = store.storage.root / f"labels/{labels.labels_id}/manifest.json"
    fields = json.loads(path.read_text())
    assert fields.pop("named") is False
    path.chmod(0o644)
    path.write_text(json.dumps(fields))
    os.utime(path, (0, 0))
    assert store.vacuum().paths == []
    assert store.has_labels(labels)


def test_files_that_a_recorded_run_refers_to_stay_even_without_a_manifest(store: Store) -> None:
    labels = store.labels(40)
    store.run(store.version(40, labels), labels)
    store.storage.delete([f"labels/{labels.labels_id}/manifest.json"])
    assert store.vacuum().paths == []
    assert all(store.has(path) for path in _paths(labels))


def test_a_pinned_version_that_is_not_there_keeps_the_vacuum_away(store: Store) -> None:
    labels = store.labels(40)
    for age in (40, 30):
        store.version(age, labels)
    store.run(7, labels)
    found = store.vacuum()
    assert found.paths == []
    assert "feature_sets/f was left alone: there is no version 7" in found.notes[0]


def test_a_record_that_cannot_be_read_keeps_what_it_may_refer_to_and_nothing_else(store: Store) -> None:
    labels = [store.labels(40), store.labels(30)]
    versions = [store.version(40, labels[0]), store.version(30, labels[1])]
    for version, each in zip(versions, labels, strict=True):
        store.run(version, each)
    unreferred = store.labels(20)
    for record in ("e-1", "e-2"):
        path = store.storage.root / f"experiments/e/{record}.json"
        path.chmod(0o644)
        path.write_text('{"run_id": ')
    dead = [
        store.write("snapshots/history/r1/0.parquet", 30),
        store.write("feature_sets/f/dead.parquet", 30),
        store.write("experiments/e/.e-9.json.x.tmp", 30),
    ]
    found = store.vacuum()
    assert sorted(found.paths) == sorted(dead)
    assert [note for note in found.notes if "e-1.json cannot be read" in note]
    assert [note for note in found.notes if "e-2.json cannot be read" in note]
    assert store.readable(0)
    assert all(store.has_labels(each) for each in (*labels, unreferred))
    forget_run("e-1", store.storage)
    forget_run("e-2", store.storage)
    assert store.vacuum().notes == ()
    assert (store.readable(0), store.readable(1)) == (False, True)
    assert [store.has_labels(each) for each in (*labels, unreferred)] == [False, True, False]


def test_a_published_record_that_cannot_be_read_keeps_the_files_that_it_may_name(store: Store, tmp_path: Path) -> None:
    kept = [store.write(f"snapshots/{service}/r1/0.parquet", 30) for service in ("history", "mood")]
    kept += [store.write(path, 30) for path in ("globals/videos/v1/a.parquet", "context_sets/2026-01-05/c/0.parquet")]
    kept.append(store.write("snapshots/_plans/r1.json", 30))
    dead = [store.write("snapshots/history/r12/0.parquet", 30), store.write("globals/videos/v10/a.parquet", 30)]
    with open_index(f"sqlite://{tmp_path}/broken.db") as index:
        key = (context_variable("profile_id", "int64"),)
        taken = ServiceSnapshot(
            "r1", Service("history", service_element("history", "int64"), key), None, 1, {}, None, None, (), {}
        )
        index.publish_run(SnapshotRun("r1", "c", datetime.now(UTC), (taken,)))
        videos = global_element("videos", "struct<video_id: int64>")
        index.publish_global(GlobalVersion(videos, "v1", datetime.now(UTC), ()))
        index.publish_context_set(ContextSet.of_one_key("c", date(2026, 1, 5), (), key, (), ()))
        with closing(sqlite3.connect(tmp_path / "broken.db")) as connection:
            for table in ("runs", "global_versions", "context_sets"):
                connection.execute(f"UPDATE {table} SET record = '{{'")
            connection.commit()
        found = vacuum(store.storage, index, WEEK)
        assert sorted(found.paths) == sorted(dead)
        assert len(found.notes) == 3
        assert all("were kept" in note and "delorean index withdraw" in note for note in found.notes)
        index.withdraw_run("r1", "broken", "ann")
        index.withdraw_global("videos", "v1", "broken", "ann")
        index.withdraw_context_set(date(2026, 1, 5), "broken", "ann")
        assert sorted(vacuum(store.storage, index, WEEK).paths) == sorted(kept)


def test_a_table_that_others_write_to_keeps_what_its_newest_version_has(store: Store) -> None:
    import pyarrow as pa

    uri = store.storage.uri_of("feature_sets/theirs").removeprefix("file://")
    for number in range(3):
        with store.aged(40 - number):
            rows = pa.table({"country": ["a b", "ü"], "n": [number] * 2})
            write_deltalake(uri, rows, mode="append", partition_by=["country"])
    assert store.vacuum().paths == []
    with store.aged(20):
        write_deltalake(uri, rows, mode="overwrite", partition_by=["country"])
    assert len(store.vacuum().paths) == 6
    assert delta_table(uri).to_pyarrow_table().num_rows == 2


def test_an_age_at_which_jobs_still_run_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="older_than is 0:10:00, expected at least 1:00:00"):
        store.vacuum(timedelta(minutes=10))


def test_a_storage_without_anything_is_no_error(store: Store) -> None:
    assert store.vacuum() == VacuumReport((), (), dry_run=False)


step = st.fixed_dictionaries(
    {
        "days": st.integers(0, 9),  # since the step before
        "pinned": st.booleans(),
        "dead": st.booleans(),  # whether an attempt died on the way
        "labels": st.sampled_from(["own", "shared", "named"]),
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, min_size=1, max_size=6), since=st.integers(0, 9))
def test_whatever_happened_all_that_is_kept_can_be_read_and_all_else_is_gone(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, object]], since: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    ages = [since + 0.5 + sum(int(str(later["days"])) for later in steps[i + 1 :]) for i in range(len(steps))]
    shared, made, orphans = store.labels(ages[0]), [], []
    for number, (each, age) in enumerate(zip(steps, ages, strict=True)):
        if each["dead"]:
            orphans.append((store.write(f"feature_sets/f/dead-{number}/0.parquet", age), age))
        name = f"named-{number}" if each["labels"] == "named" else None
        labels = shared if each["labels"] == "shared" else store.labels(age, name)
        assert store.version(age, labels) == number
        made.append(labels)
        if each["pinned"]:
            store.run(number, labels)
    store.vacuum()
    last = len(steps) - 1
    kept = [bool(each["pinned"]) or i == last or ages[i + 1] < 7 for i, each in enumerate(steps)]
    assert [store.readable(version) for version in range(len(steps))] == kept
    referred = {labels.labels_id for labels, is_kept in zip(made, kept, strict=True) if is_kept}
    for labels, age in [(shared, ages[0]), *zip(made, ages, strict=True)]:
        young = age < 7 if labels is not shared else ages[0] < 7
        stays = labels.labels_id in referred or labels.labels_id.startswith("named") or young
        assert store.has_labels(labels) == stays
    assert [store.has(path) for path, _ in orphans] == [age < 7 for _, age in orphans]
    assert store.vacuum().paths == []


def test_the_command_says_what_it_would_remove_and_then_removes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.folder)
    Path("delorean.toml").write_text("")
    labels = store.labels(40, "given")
    store.version(40, labels, experiment="3f2a")
    store.version(30, labels, experiment="77b0")
    store.run(1, labels)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == code, result.output
        return result.output

    assert "would remove" in run("vacuum", "--dry-run")
    reported = json.loads(run("vacuum", "--older-than", "P35D", "--json"))
    assert (reported["files"], reported["removed"]) == (0, [])  # it was superseded 30 days ago
    reported = json.loads(run("vacuum", "--json"))
    assert (reported["files"], len(reported["paths"]), reported["removed"][0]["what"]) == (
        FILES,
        FILES,
        "feature_sets/f, version 0",
    )
    assert "at least 1:00:00" in run("vacuum", "--older-than", "PT1M", code=2)
    shown = json.loads(run("index", "features", "--json"))["versions"]
    assert [(row["version"], row["experiment"], row["runs"]) for row in shown] == [
        (1, "77b0", ["e-1"]),
        (0, "3f2a", []),
    ]
    assert json.loads(run("index", "features", "f", "--experiment", "3f2a", "--json"))["versions"] == shown[1:]
    assert "did you mean 'f'" in run("index", "features", "ff", code=2)
    assert json.loads(run("experiment", "forget", "e-1", "--json")) == {"forgotten": "e-1"}
    assert [each.experiment for each in versions_of(store.storage.uri_of("feature_sets/f"))] == ["77b0", "3f2a"]


def test_what_a_registered_package_was_trained_on_is_kept_until_the_package_is_removed(store: Store) -> None:
    labels = store.labels(30)
    trained_on, newer = store.version(30, labels), store.version(20)
    origin = {
        "label_data": {"id": labels.labels_id, "files": {file.path: file.checksum for file in labels.files}},
        "feature_set": {"uri": store.storage.uri_of("feature_sets/f"), "version": trained_on},
    }
    package = RegisteredVersion(
        "f-1", "0" * 64, "registry/packages/x", {}, datetime.now(UTC), "", "", "", (), {}, origin
    )
    Versions(store.storage).publish(package)
    assert store.vacuum().paths == []
    Registry(store.storage).remove("f-1", "worse")
    store.vacuum()
    assert not store.readable(trained_on)
    assert not store.has_labels(labels)
    assert store.readable(newer)

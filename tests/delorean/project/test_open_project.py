"""A project at hand: one line opens it, completion names what is in it, and nothing of it needs a JVM."""

import subprocess
import sys
from datetime import date

import pyarrow as pa
import pytest
from project_at_rest import HISTORY, PROFILE, Project, long_labels, minutes

import delorean
from delorean import LabelColumns, compare_encoders, generate, materialise_labels, open_project
from delorean.display.html import to_html
from delorean.display.text import to_text
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import global_element, service_element
from schemas.errors import ConfigError
from schemas.services import Service
from snapshotter.global_elements import publish_global
from snapshotter.records import ContextSet, StratumReport

NUMBER = service_element("number", "int64")
VIDEOS = global_element("videos", "struct<video_id: int64, title: string>")
PLANTED = "<script>alert(1)"


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context, items, data, out, *, factor: float = 1.0):
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = len(data.history.video_id) * factor


@pytest.fixture
def opened(tmp_path):
    """A project with two snapshots, a context set, labels and a feature set, whose names are as bad as they can be."""
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    (tmp_path / "other.toml").write_text('[tables]\nshown = { path = "x.parquet" }\n')
    (tmp_path / "broken.toml").write_text("encoders = [")
    spec = 'encoders = ["nowhere:lost"]\n[labels]\nid = "shown"\nitems = ["video_id"]\ntable = "x"\n'
    (tmp_path / "checkout.toml").write_text(spec)
    with open_project(tmp_path) as project:
        at_rest = Project(project.storage, project.index)
        at_rest.history([((p,), 5, [{"video_id": 1, "minutes": 2.0}]) for p in range(9)], "one", failed=3)
        at_rest.publish(Service(PLANTED, NUMBER, (PROFILE,)), [((1,), 7, 1)], f"run {PLANTED}")
        strata = tuple(StratumReport(PLANTED, f"{PLANTED}{n}", 10 * n, 5, min(5, 10 * n)) for n in range(100))
        project.index.publish_context_set(
            ContextSet.of_one_key("set", date(2026, 5, 1), (PLANTED,), (PROFILE,), (), strata)
        )
        rows = long_labels([(p, 10, v, (p + v) % 2) for p in range(8) for v in range(3)])
        labels = materialise_labels(rows, LabelColumns(items=("video_id",)), project.storage, labels_id="shown")
        generate(labels, FeatureModel([minutes_watched]), project.index, project.storage, "watched")
        yield project


def test_a_project_names_what_is_in_it(opened):
    assert list(opened.experiments) == ["checkout"]
    assert list(opened.labels) == ["shown"]
    assert list(opened.feature_sets) == ["watched"]
    assert list(opened.snapshots) == [f"run {PLANTED}", "one"]
    assert list(opened.context_sets) == ["2026-05-01"]
    assert list(opened.runs) == []
    assert opened.labels._ipython_key_completions_() == ["shown"]
    assert "shown" in opened.labels
    assert "experiments" in to_text(opened)


def test_what_is_named_is_read(opened):
    assert opened.labels["shown"].item_count == 24
    assert opened.snapshots["one"].run_id == "one"
    assert opened.snapshots.first.run_id == f"run {PLANTED}"
    assert opened.context_sets["2026-05-01"].context_set_id == "set"
    stored = opened.feature_sets["watched"]
    assert (stored.rows, stored.features, stored.version) == (8, ("minutes_watched",), 0)
    assert stored.to_arrow().num_rows == 8


def test_a_name_that_is_not_there_is_told_beside_those_that_are(opened):
    for shelf, name, near in (
        (opened.labels, "shwn", "'shown'"),
        (opened.feature_sets, "watchd", "'watched'"),
        (opened.snapshots, "on", "'one'"),
        (opened.context_sets, "2026-05-02", "'2026-05-01'"),
        (opened.context_sets, "yesterday", "known: 2026-05-01"),
        (opened.experiments, "chekout", "'checkout'"),
        (opened.runs, "first", "known: none"),
    ):
        with pytest.raises(ConfigError, match=f"unknown {shelf.kind} '{name}'.*{near}"):
            shelf[name]
    with pytest.raises(ConfigError, match="there is no run yet"):
        _ = opened.runs.first
    with pytest.raises(ConfigError, match="nowhere"):  # it exists: the error says what is wrong with it
        opened.experiments["checkout"]


def test_a_projects_own_modules_can_be_imported(opened, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (opened.folder / "our_own_encoders.py").write_text("FOUND = True\n")
    import our_own_encoders

    assert our_own_encoders.FOUND


def test_everything_shows_itself_and_nothing_planted_gets_out(opened):
    then = opened.machine.at(minutes(8))
    compared = compare_encoders(
        minutes_watched, minutes_watched.configured(factor=2.0), opened.labels["shown"], opened.index, opened.storage
    )
    everything = [
        *(opened, opened.machine, then, then["history"], opened.labels, opened.runs, compared),
        *(opened.snapshots["one"], opened.snapshots.first, opened.context_sets.first, opened.labels["shown"]),
        *(opened.feature_sets["watched"], minutes_watched, FeatureModel([minutes_watched]), FeatureModel([])),
    ]
    for each in everything:
        drawn = to_html(each)
        assert "<script" not in drawn
        assert drawn.startswith('<div class="dl">')
        assert "\n" not in repr(each)
        assert to_text(each).startswith(repr(each))
    assert "9 of 12 contexts really answered" in to_text(opened.snapshots["one"])
    assert "3 timeout" in to_text(opened.snapshots["one"])
    assert "2 changed" not in to_text(compared)
    assert "1 changed over 8 rows, 24 items" in repr(compared)
    assert "… and 70 more" in to_html(opened.context_sets.first)
    assert "1 of 100 strata have fewer contexts" in to_text(opened.context_sets.first)
    assert "minutes_watched   █" in to_text(opened.feature_sets["watched"])
    assert list(then._ipython_key_completions_()) == ["history", "number"]


def test_an_encoder_says_what_it_reads_and_whether_it_is_compiled(opened):
    drawn = to_text(minutes_watched)
    assert "minutes_watched(context, items, data, out, *, factor: float = 1.0)" in drawn
    assert minutes_watched.fingerprint[:12] in drawn
    assert "compiled in this process" in drawn

    @feature_encoder(data=[HISTORY], features=["known"])
    def never_run(context, items, data, out):
        out.known[:] = 1.0 if data.history.present else 0.0

    assert "compiled when it is first used" in to_text(never_run)
    assert "known → known" not in to_text(never_run)
    assert "history · service → never_run → known" in to_text(FeatureModel([never_run]))


def test_a_display_reads_what_is_gone_as_something_to_say(opened):
    stored = opened.feature_sets["watched"]
    for file in (opened.folder / "store" / "feature_sets" / "watched").glob("*/*.parquet"):
        file.unlink()
    assert "the rest cannot be shown" in to_text(stored)
    assert "8 rows, 24 items" in to_html(stored)


def test_a_machine_looks_at_the_last_runs_only_and_at_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr("delorean.display.descriptions.time_travel._MOST_RUNS", 40)
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    with open_project(tmp_path) as project:
        assert "no snapshot is published yet" in to_text(project.machine)
        at_rest = Project(project.storage, project.index)
        for day in range(50):
            at_rest.history([((1,), 1_440 * day, [])], f"run {day}", failed=day % 3)
        for file in (tmp_path / "store").rglob("*.parquet"):
            file.unlink()
        drawn, written = to_html(project.machine), to_text(project.machine)
        assert "as the last 40 runs recorded it" in drawn
        assert "1 of 2 in run 49" in drawn
        assert drawn.count("<td") == 31  # a month is shown, not all that there is
        assert len(drawn) < 20_000
        assert "2026-05-20 … 2026-06-19" in written
        assert written.count("\n") < 8


def test_versions_of_global_elements_are_told(opened):
    table = pa.table({"video_id": pa.array([1], pa.int64()), "title": [PLANTED]})
    publish_global(table, VIDEOS, minutes(1), opened.storage, opened.index, "v1")
    assert "v1" in to_html(opened.machine)
    assert "version v1" in to_text(opened.machine.at(minutes(9)))
    assert "version v1 valid from" in repr(opened.machine.at(minutes(9))["videos"])


def test_the_package_names_what_is_public_and_imports_it_when_it_is_used():
    assert set(delorean.__all__) <= set(dir(delorean))
    assert all(name in delorean.__all__ or name.startswith("__") for name in dir(delorean))
    assert all(getattr(delorean, name).__doc__ for name in delorean.__all__)


def test_opening_and_showing_a_project_starts_no_jvm(opened):
    script = (
        "import sys; from delorean import open_project; from delorean.display.html import to_html\n"
        f"with open_project({str(opened.folder)!r}) as project:\n"
        "    for each in (project, project.machine, project.feature_sets.first, project.labels.first):\n"
        "        to_html(each)\n"
        "assert 'pyspark' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=opened.folder)

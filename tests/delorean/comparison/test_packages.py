"""Packages that a project trained, on data that it generated: with features of both, of each, or computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from project_at_rest import Project, minutes

from delorean import (
    ComparisonError,
    ConfigError,
    LabelColumns,
    OpenProject,
    compare_packages,
    materialise_labels,
    open_project,
)
from delorean.cli.commands import cli
from delorean.comparison.counterfactual.exposures import Exposures
from delorean.comparison.result import Comparison, Verdict
from delorean.comparison.settings import ComparisonSettings
from delorean.display.html import to_html
from delorean.display.text import to_text
from delorean.evaluation.settings import EvaluationSettings
from schemas.tables import TIME
from snapshotter.index import open_index
from snapshotter.storage import open_storage

PROFILES, TIMES, VIDEOS = range(30), range(5, 65, 5), range(6)
FILES = {
    "delorean.toml": 'storage = "store"\nindex = "index.db"\nencoders = ["compared_encoders"]\n',
    "compared_encoders.py": """
from delorean import feature_encoder, service_element

HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

@feature_encoder(data=[HISTORY], features=["watched"])
def watched(context, items, data, out, *, scale: float = 1.0):
    for i in range(len(items.video_id)):
        out.watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.watched[i] += data.history.minutes[j] * scale

@feature_encoder(data=[], features=["noise"])
def noise(context, items, data, out):
    for i in range(len(items.video_id)):
        out.noise[i] = (items.video_id[i] * 7919 + context.profile_id * 104729) % 101

@feature_encoder(data=[], features=["early"])
def early(context, items, data, out):
    for i in range(len(items.video_id)):
        out.early[i] = -items.video_id[i]
""",
}
SPEC = """
encoders = [{encoders}]
[labels]
id = "shown"
items = ["video_id"]
context = ["profile_id", "country"]
labels = ["label", "shown", "propensity"]
keep = ["stratum"]
table = "shown"
[tables]
shown = {{ path = "shown.parquet" }}
[model]
estimator = "sklearn.tree:DecisionTreeClassifier"
parameters = {{ max_depth = 4 }}
label = "label"
"""
SPECS = {
    "good": '"compared_encoders:watched", "compared_encoders:early"',
    "poor": '"compared_encoders:noise"',
    "both": '"compared_encoders:watched", "compared_encoders:early", "compared_encoders:noise"',
    "scaled": '{ encoder = "compared_encoders:watched", parameters = { scale = 2 } }',
}


def shown_rows() -> pa.Table:
    random = np.random.default_rng(0)
    rows = []
    for profile in PROFILES:
        for time in TIMES:
            favourite = profile % 6
            chosen = random.integers(6)
            for video in VIDEOS:
                chance = 0.7 if video == favourite else 0.08
                rows.append(
                    {
                        "profile_id": profile,
                        "country": "US" if profile % 3 else "BR",
                        "stratum": f"s{profile % 2}",
                        "time": minutes(time),
                        "outcome_at": minutes(time + 1),
                        "video_id": video,
                        "label": float(random.random() < chance),
                        "shown": float(video == chosen),
                        "propensity": 1 / 6,
                    }
                )
    floats = [(name, pa.float32()) for name in ("label", "shown", "propensity")]
    schema = pa.schema(
        [
            ("profile_id", pa.int64()),
            ("country", pa.string()),
            ("stratum", pa.string()),
            ("time", TIME),
            ("outcome_at", TIME),
            ("video_id", pa.int64()),
            *floats,
        ]
    )
    return pa.Table.from_pylist(rows, schema)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, encoders in SPECS.items():
        (folder / f"{name}.toml").write_text(SPEC.format(encoders=encoders))
    (folder / "services.toml").write_text(
        '[services.history]\ntype = "list<struct<video_id: int64, minutes: float>>"\n'
        'key = { profile_id = "int64" }\nurl = "http://127.0.0.1:1/{profile_id}"\ntimeout_seconds = 1.0\n'
    )
    pq.write_table(shown_rows(), folder / "shown.parquet")
    with open_index(f"sqlite://{folder}/index.db") as index:
        at_rest = Project(open_storage(f"file://{folder}/store"), index)
        for run in range(2):
            history = [((p,), 30 * run, [{"video_id": p % 6, "minutes": 5.0 + p}]) for p in PROFILES]
            at_rest.history(history, f"history-{run}")
    with open_project(folder) as project:
        columns = LabelColumns(
            items=("video_id",),
            context=("profile_id", "country"),
            labels=("label", "shown", "propensity"),
            keep=("stratum",),
        )
        materialise_labels(pq.read_table(folder / "shown.parquet"), columns, project.storage, labels_id="shown")
        for name in SPECS:
            project.generate(name)
            project.package(name, f"packages/{name}")
    return folder


@pytest.fixture
def project(folder: Path) -> Iterator[OpenProject]:
    with open_project(folder) as opened:
        yield opened


def by_column(*columns: str) -> ComparisonSettings:
    return ComparisonSettings(EvaluationSettings(at=(1, 10), by=columns, replicates=300), group_margin=0.5)


@pytest.fixture(scope="module")
def three_ways(folder: Path) -> dict[str, Comparison]:
    """The same packages on a feature set with the features of both, on one for each, and on computed features."""
    with open_project(folder) as project:
        packages, settings = ("packages/good", "packages/poor"), by_column("country", "stratum")
        return {
            "together": project.compare(*packages, "both", settings=settings),
            "apart": project.compare(*packages, "good", "poor", settings=settings),
            "computed": project.compare(*packages, labels="shown", settings=settings),
            "by default": project.compare(*packages, settings=settings),
        }


def test_the_better_features_win_on_contexts_that_neither_was_trained_on(three_ways: dict[str, Comparison]) -> None:
    found = three_ways["together"]
    assert found.verdict is Verdict.BETTER
    assert (found.candidate, found.production, found.data) == ("good", "poor", "both, version 0")
    assert found.contexts == 60, "the last 15 % of the hour are two of twelve times, for 30 profiles"
    assert any("tested from 2026-05-01 00:" in note for note in found.notes)
    assert {(each.by, each.group, each.contexts) for each in found.groups} == {
        ("country", "US", 40),
        ("country", "BR", 20),
        ("stratum", "s0", 30),
        ("stratum", "s1", 30),
    }


@pytest.mark.parametrize("way", ["computed", "by default"])
def test_features_that_are_computed_give_the_same_comparison(three_ways: dict[str, Comparison], way: str) -> None:
    together, other = three_ways["together"], three_ways[way]
    assert other.data == "label data shown"
    assert other.metrics == together.metrics
    assert other.groups == together.groups
    assert other.most_different == together.most_different


def test_feature_sets_of_each_are_paired_by_context_and_item(three_ways: dict[str, Comparison]) -> None:
    assert three_ways["apart"].metrics == three_ways["together"].metrics


def test_feature_sets_in_another_order_are_paired_and_what_is_in_one_only_is_left_out(project: OpenProject) -> None:
    good, poor = (project.load_package(f"packages/{name}") for name in ("good", "poor"))
    ours, theirs = (project.feature_sets[name].to_arrow() for name in ("good", "poor"))
    settings = by_column()
    theirs = theirs.filter(pa.compute.not_equal(theirs["profile_id"], 7))
    expected = compare_packages(
        good, poor, ours.filter(pa.compute.not_equal(ours["profile_id"], 7)), theirs, label="label", settings=settings
    )
    shuffled = np.random.default_rng(0).permutation(len(theirs))
    lists = [f.name for f in theirs.schema if pa.types.is_list(f.type)]
    columns = {
        name: [each[::-1] for each in theirs[name].to_pylist()] if name in lists else theirs[name].to_pylist()
        for name in theirs.schema.names
    }
    reordered = pa.table(columns, theirs.schema).take(shuffled)
    found = compare_packages(good, poor, ours, reordered, label="label", settings=settings)
    assert found["ndcg@10"] == expected["ndcg@10"]
    assert found["mrr"] == expected["mrr"]
    assert "2 contexts of the candidate's features and 0 of production's are not in both" in found.notes


def test_only_the_candidates_feature_set_needs_the_columns_to_compare_by(project: OpenProject) -> None:
    good, poor = (project.load_package(f"packages/{name}") for name in ("good", "poor"))
    ours, theirs = (project.feature_sets[name].to_arrow() for name in ("good", "poor"))
    options: dict[str, Any] = {"label": "label", "settings": by_column("stratum")}
    options["exposures"] = Exposures("shown", "propensity", effective=5)
    whole = compare_packages(good, poor, ours, theirs, **options)
    bare = compare_packages(good, poor, ours, theirs.drop_columns(["stratum", "shown", "propensity"]), **options)
    assert bare.groups == whole.groups
    assert bare.counterfactual == whole.counterfactual


def test_features_of_another_encoder_are_refused_though_their_names_are_equal(project: OpenProject) -> None:
    with pytest.raises(
        ComparisonError, match="feature 'watched' of both, version 0 was computed by another encoder than"
    ):
        project.compare("packages/scaled", "packages/good", "both")
    computed = project.compare("packages/scaled", "packages/good")
    assert computed.data == "label data shown"
    with pytest.raises(ComparisonError, match="good, version 0 does not have feature 'noise' of production → name a"):
        project.compare("packages/good", "packages/poor", "good")


def test_a_package_beside_itself_is_identical(project: OpenProject) -> None:
    assert project.compare("packages/good", "packages/good").verdict is Verdict.IDENTICAL


def test_contexts_that_were_trained_on_are_included_only_on_request(project: OpenProject) -> None:
    found = project.compare("packages/good", "packages/poor", "both", all_contexts=True)
    assert found.contexts == 360
    assert "contexts that a package was trained on are compared too, which favours it" in found.notes
    good, poor = (project.load_package(f"packages/{name}") for name in ("good", "poor"))
    early = project.feature_sets["both"].to_arrow().slice(0, 0)
    with pytest.raises(Exception, match="the feature set is empty"):
        compare_packages(good, poor, early, label="label")
    times = project.feature_sets["both"].to_arrow()
    trained = times.filter(pa.compute.less(times["time"], pa.scalar(minutes(30), TIME)))
    with pytest.raises(ComparisonError, match="none of 150 contexts is held out from both trainings: the candidate is"):
        compare_packages(good, poor, trained, label="label")


def test_an_unknown_training_is_a_note_and_not_a_guess(project: OpenProject) -> None:
    good, poor = (project.load_package(f"packages/{name}") for name in ("good", "poor"))
    lost = replace(poor, lineage={**poor.lineage, "feature_set": {"uri": "file:///gone", "version": 0}})
    found = compare_packages(good, lost, project.feature_sets["both"], label="label")
    assert any("which contexts production was trained on is not known, so it may be favoured" in n for n in found.notes)
    assert found.contexts == 60


def test_a_sample_is_the_same_for_both_and_is_noted(project: OpenProject) -> None:
    together = project.compare("packages/good", "packages/poor", "both", max_items=200)
    assert 0 < together.contexts < 60
    assert f"{60 - together.contexts} contexts were left out by sampling at most 200 items" in together.notes
    computed = project.compare("packages/good", "packages/poor", labels="shown", max_items=120)
    assert 0 < computed.contexts < 40


def test_contexts_that_were_trained_on_are_left_out_before_a_sample_is_drawn(project: OpenProject) -> None:
    found = project.compare("packages/good", "packages/poor", "both", max_items=1_000)
    assert found.contexts == 60  # of 360, which have more items than that
    assert not any("left out by sampling" in note for note in found.notes)


def test_exposures_estimate_what_each_would_have_earned(project: OpenProject) -> None:
    exposures = Exposures("shown", "propensity", effective=5)
    found = project.compare("packages/good", "packages/poor", "both", all_contexts=True, exposures=exposures)
    estimates = found.counterfactual
    assert estimates is not None
    assert estimates.difference is not None
    assert estimates.candidate.greatest_weight == pytest.approx(6)
    assert estimates.difference.snips.value is not None
    assert 0.3 < estimates.difference.snips.value < 1.2
    assert found.reasons[-1].startswith("Shown online, its reward would change by +0.")
    few = project.compare("packages/good", "packages/poor", "both", exposures=Exposures("shown", "propensity"))
    assert few.counterfactual is not None
    assert few.counterfactual.difference is None
    assert any("good has no counterfactual estimate: the effective sample is" in reason for reason in few.reasons)


def test_wrong_input_names_what_is_wrong(project: OpenProject, folder: Path) -> None:
    good, poor = (project.load_package(f"packages/{name}") for name in ("good", "poor"))
    features = project.feature_sets["both"].to_arrow()
    with pytest.raises(ComparisonError, match="the candidate ranks items by video_id .*, production by nothing"):
        compare_packages(good, replace(poor, items=()), features)
    with pytest.raises(ComparisonError, match="unknown column of a table, a variable of the candidate 'country'"):
        compare_packages(good, poor, features.drop_columns("country"), label="label")
    with pytest.raises(
        ComparisonError, match="unknown label of both, version 0 'like' → known: label, propensity, shown"
    ):
        project.compare("packages/good", "packages/poor", "both", label="like")
    with pytest.raises(ComparisonError, match="a table has no label"):
        compare_packages(good, poor, features.drop_columns("label"))
    with pytest.raises(ComparisonError, match="unknown column of both, version 0 'states'"):
        project.compare("packages/good", "packages/poor", "both", settings=by_column("states"))
    with pytest.raises(ComparisonError, match="unknown column of exposures in both, version 0 'shwon' → did you mean"):
        project.compare("packages/good", "packages/poor", "both", exposures=Exposures("shwon", "propensity"))
    with pytest.raises(ConfigError, match="without an index and a storage"):
        compare_packages(good, poor, labels="shown")
    changed = features.set_column(
        features.schema.get_field_index("label"),
        features.schema.field("label"),
        pa.array([[1 - each for each in row] for row in features["label"].to_pylist()], pa.list_(pa.float32())),
    )
    with pytest.raises(ComparisonError, match=r"360 of 360 items have another 'label' in the other feature set"):
        compare_packages(good, poor, features, changed, label="label")


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command in the project's folder and return its JSON, or with another exit code than 0 and 3 its error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(cli, [*arguments, "--json"])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout) if code in (0, 3) else result.stderr

    return run


def test_the_command_exits_with_3_where_the_candidate_regresses(run: Any, folder: Path) -> None:
    run("registry", "add", "packages/good")
    run("registry", "move", "production", "good-1", "--reason", "the first")
    worse = run("compare", "packages/poor", "registry:production", "--by", "country", "--examples", "2", code=3)
    assert (worse["verdict"], worse["production"], worse["regresses"]) == ("regresses", "registry:production", True)
    assert len(worse["largest_losses"]) == 2
    better = run("compare", "packages/good", "packages/poor", "--features", "both", "--cluster", "profile_id")
    assert (better["verdict"], better["worth_testing"]) == ("better", True)
    estimated = run("compare", "packages/good", "packages/poor", "--shown", "shown", "--propensity", "propensity")
    assert estimated["counterfactual"]["candidate"]["refused"].startswith("the effective sample is")
    assert "name one" in run("compare", "packages/good", "packages/poor", "--features", "x", "--labels", "y", code=2)
    assert "give both" in run("compare", "packages/good", "packages/poor", "--shown", "shown", code=2)
    assert "no model package at" in run("compare", "packages/godo", "packages/poor", code=2)


def test_people_see_the_verdict_a_forest_plot_and_examples(three_ways: dict[str, Comparison]) -> None:
    text, page = to_text(three_ways["together"]), to_html(three_ways["together"])
    assert text.startswith("good against poor: better, ndcg@10 +0.")
    assert "It is better, and different enough to test." in text
    assert "●" in text
    assert "the intervals of the 4 groups hold together" in text
    assert "contexts that are ranked most differently" in text
    assert page.count('<svg class="dl-interval dl-better"') >= 3
    assert '<svg class="dl-histogram"' in page

"""One spec behind TOML and Python, whose content is its id, and the errors for wrong ones."""

from dataclasses import replace
from datetime import date

import pytest

from delorean.experiment import (
    EncoderSpec,
    ExperimentSpec,
    LabelSpec,
    ModelSpec,
    contexts_to_select,
    load_experiment,
)
from delorean.leaks import LeakThresholds
from delorean.ranking_data.context_weights import ContextWeight
from delorean.ranking_data.split import Split
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from encoders.library import listed, minutes_watched
from schemas.errors import ConfigError
from snapshotter.index import open_index
from snapshotter.selection.context_selection import _context_set_id
from snapshotter.selection.declarations import ContextSelection, NamedSelection
from snapshotter.storage.table_source import TableSource


def test_a_namespace_begins_the_names_of_an_experiment_and_its_label_data(tmp_path):
    labels = LabelSpec(("video_id",), table="shown", id="shown")
    own = ExperimentSpec(labels, (listed,), "home")
    of_alice = ExperimentSpec(labels, (listed,), "home", namespace="alice")
    assert (of_alice.name, of_alice.labels.id) == ("alice.home", "alice.shown")
    assert replace(of_alice, owner="alice") == replace(of_alice, owner="alice", name="alice.home")
    assert len({own.id, of_alice.id, replace(own, namespace="bob").id}) == 3
    assert ExperimentSpec.from_json(of_alice.to_json()).id == of_alice.id
    assert "namespace" not in of_alice.to_json()
    of_bob = replace(labels, id="bob.shown")
    assert ExperimentSpec(of_bob, (listed,), "home", namespace="alice").labels.id == "bob.shown"
    (tmp_path / "home.toml").write_text(
        'namespace = "alice"\nencoders = ["encoders.library:listed"]\n[labels]\ntable = "t"\nitems = ["video_id"]\n'
    )
    assert load_experiment(tmp_path / "home.toml").name == "alice.home"
    for namespace, name, problem in [
        ("a.b", "home", "name space 'a.b' contains a dot"),
        ("a/b", "home", "name space 'a/b' cannot name a folder"),
        ("alice", "bob.home", "'bob.home' is in name space 'alice', but its name contains a dot"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            ExperimentSpec(labels, (listed,), name, namespace=namespace)


def test_labels_and_weights_are_written_in_toml(tmp_path):
    path = tmp_path / "home.toml"
    text = """
encoders = ["encoders.library.my_list:listed"]
[tables]
shown = { path = "shown.parquet" }
[labels]
table = "shown"
items = ["video_id"]
labels = ["play", "minutes"]
weight = "importance"
keep = ["inclusion_probability"]
[model]
label = "play"
weight = { inverse = "inclusion_probability", times = "confidence", cap = 50 }
"""
    path.write_text(text)
    spec = load_experiment(path)
    labels = LabelSpec(
        ("video_id",),
        labels=("play", "minutes"),
        weight="importance",
        keep=("inclusion_probability",),
        table="shown",
    )
    model = ModelSpec(label="play", weight=ContextWeight("inclusion_probability", "confidence", 50))
    same = ExperimentSpec(labels, (listed,), "home", tables={"shown": TableSource("shown.parquet")}, model=model)
    assert spec.id == same.id
    assert ExperimentSpec.from_json(spec.to_json()).model == model
    path.write_text(text.replace('label = "play"', 'label = "plays"'))
    with pytest.raises(ConfigError, match=r"home.toml, line 12: model.label: .*did you mean 'play'"):
        load_experiment(path)
    path.write_text(text.replace('labels = ["play", "minutes"]', "labels = []").replace('label = "play"\n', ""))
    assert load_experiment(path).labels.label_names == {}


SPEC = """
encoders = [
    "encoders.library.my_list:listed",
    { encoder = "encoders.library.history:minutes_watched", parameters = { window_days = 7 }, rename = { RENAME } },
]

[contexts]
query = "SELECT profile_id FROM plays"
key = ["profile_id"]
quota = 10

[tables]
plays = { path = "plays" }

[labels]
query = '''
SELECT 1 AS x  -- no field: max_age = 3
'''
items = ["video_id"]

[as_of.my_list]
max_age = "P7D"
lag = "PT1M"

[confidence.viewing_history]
floor = 0.9
below = "skip"

[spread]
limit = "PT5M"
beyond = "null"

[leaks]
auc = 0.9

[split]
group = "profile_id"

[model]
seed = 3
""".replace("RENAME", 'minutes_watched = "minutes_watched_7d"')


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "homepage.toml"

    def load(text, index=None):
        path.write_text(text)
        return load_experiment(path, index)

    return load


@pytest.fixture
def refusal(load, tmp_path):
    def refusal(text, index=None):
        with pytest.raises(ConfigError) as error:
            load(text, index)
        assert "\n" not in str(error.value)
        return str(error.value).replace(f"{tmp_path}/", "")

    return refusal


def test_toml_and_python_say_the_same(load):
    from datetime import timedelta

    spec = ExperimentSpec(
        name="homepage",
        encoders=(
            listed,
            minutes_watched.configured(rename={"minutes_watched": "minutes_watched_7d"}, window_days=7),
        ),
        contexts=ContextSelection("SELECT profile_id FROM plays", ("profile_id",), quota=10),
        tables={"plays": TableSource("plays")},
        labels=LabelSpec(("video_id",), query="SELECT 1 AS x  -- no field: max_age = 3\n"),
        as_of={"my_list": AsOf(timedelta(days=7), timedelta(minutes=1))},
        confidence={"viewing_history": ConfidenceFloor(0.9, "skip")},
        spread=SpreadLimit(timedelta(minutes=5), "null"),
        leaks=LeakThresholds(auc=0.9),
        split=Split(group="profile_id"),
        model=ModelSpec(seed=3),
    )
    read = load(SPEC)
    assert read.to_json() == spec.to_json()
    assert read.id == spec.id
    assert read.feature_model.fingerprint == spec.feature_model.fingerprint
    assert ExperimentSpec.from_json(spec.to_json()).id == spec.id


def test_the_id_is_of_what_the_spec_says_and_of_nothing_else(load, tmp_path):
    before = load(SPEC).id
    assert load(SPEC + "# a remark\n").id == before
    assert (
        load(SPEC.replace("seed = 3", "seed = 3\nestimator = 'sklearn.linear_model:LogisticRegression'")).id != before
    )
    assert load(SPEC.replace('lag = "PT1M"', 'lag = "PT60S"\nallow_exact = true')).id == before
    for changed in ('"P7D"', "floor = 0.9", "window_days = 7", "quota = 10", "SELECT 1", '"null"'):
        assert load(SPEC.replace(changed, changed.replace("7", "8").replace("9", "8").replace("1", "2"))).id != (
            before if changed != '"null"' else None
        )
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tmp_path / "elsewhere" / "homepage.toml"
    elsewhere.write_text(SPEC)
    assert load_experiment(elsewhere).id == before
    assert load_experiment(elsewhere).located_tables["plays"].path == str(tmp_path / "elsewhere/plays")


def test_ids_stay_what_earlier_releases_computed(load):
    assert load(SPEC).id == "d06a0e405850"
    selection = NamedSelection("SELECT 1", ("profile_id",), ("country",), {"US": 3, "default": 1}, seed=2, id="home")
    assert _context_set_id([selection], date(2026, 1, 1)) == "2026-01-01-328e7ca6eb91"


def test_a_spec_is_named_by_its_file_and_configures_its_encoders(load):
    spec = load(SPEC)
    assert spec.name == "homepage"
    assert spec.feature_model.features == ("in_my_list", "days_in_my_list", "minutes_watched_7d")
    assert spec.model.build() is None


def test_a_specs_contexts_can_be_selected_alone(load, tmp_path):
    load(SPEC)
    (selection,) = contexts_to_select(tmp_path / "homepage.toml")
    assert (selection.id, selection.key, selection.quota) == ("homepage", ("profile_id",), 10)
    assert selection.tables["plays"].path == str(tmp_path / "plays")
    path = tmp_path / "several.toml"
    path.write_text('[experiments.a]\nquery = "SELECT 1 AS x"\nkey = ["x"]\nquota = 1\n')
    assert [experiment.id for experiment in contexts_to_select(path)] == ["a"]
    load(SPEC.replace("[contexts]", "[tables.x]\npath = 'x'\n[contexts]"))
    with pytest.raises(ConfigError, match=r"selects no contexts"):
        _ = ExperimentSpec(LabelSpec(("v",), query="SELECT 1"), ()).selections


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('group = "', 'grup = "', "split.grup: unknown field 'grup' → did you mean 'group'?"),
        ('max_age = "P7D"', 'maxage = "P7D"', "as_of.my_list.maxage: unknown field 'maxage' → did you mean 'max_age'?"),
        ("path = ", "pth = ", "tables.plays.pth: unknown field 'pth' → did you mean 'path'?"),
        ("rename = {", "renam = {", "encoders[1].renam: unknown field 'renam' → did you mean 'rename'?"),
        ("[labels]\nquery = '''", "[labels]\nquary = '''", "labels.quary: unknown field 'quary' → did you mean"),
        ('max_age = "P7D"', "max_age = 7", "as_of.my_list.max_age: Expected `duration`"),
        ("[as_of.my_list]", "[as_of.my_lst]", "as_of.my_lst: unknown element that encoders read 'my_lst' → did"),
        ("floor = 0.9", "floor = 1.9", "confidence.viewing_history.floor: floor is 1.9"),
        ('below = "skip"', 'below = "skp"', "confidence.viewing_history.below: Invalid enum value 'skp'"),
        ("[confidence.viewing_history]", "[confidence.history]", "confidence.history: unknown element that"),
        ('limit = "PT5M"', 'limit = "-PT5M"', "spread.limit: limit is"),
        ('beyond = "null"', 'beyond = "nul"', "spread.beyond: Invalid enum value 'nul'"),
        ("auc = 0.9", "auc = 0.4", "leaks.auc: auc is 0.4, expected more than 0.5"),
        ("my_list:listed", "my_list:listd", "encoders[0]: unknown encoder in encoders.library.my_list 'listd'"),
        ("window_days = 7", "window_dys = 7", "encoders[1]: unknown parameter of encoder"),
        ("seed = 3", 'estimator = "sklearn.svm:SVX"', "model.estimator: unknown estimator in sklearn.svm 'SVX'"),
        ("[spread]", "[sprd]", "sprd: unknown field 'sprd' → did you mean 'spread'?"),
        ('group = "profile_id"', "shares = [1, 0, 0]", "split.shares: shares of the split are"),
        ("[split]", "[split", "is not TOML"),
    ],
)
def test_a_wrong_spec_names_the_file_the_line_the_field_and_the_nearest_name(refusal, right, wrong, message):
    assert right in SPEC
    text = SPEC.replace(right, wrong, 1)
    line = text.removesuffix(text[text.index(wrong) + len(wrong) :]).count("\n") + 1
    assert refusal(text).startswith(f"homepage.toml, line {line}: {message}")


@pytest.mark.parametrize(
    ("right", "wrong", "table", "message"),
    [
        ('items = ["video_id"]', "", "[labels]", "labels.items: is missing"),
        ("quota = 10", "quota = -1", "quota = ", "contexts.quota: quota is -1, expected"),
        ("quota = 10", "", "[contexts]", "contexts: needs either a quota or a fraction"),
        ('"minutes_watched_7d"', '"in_my_list"', "encoders = [", "encoders: the feature 'in_my_list' is written by"),
        ("items = [", 'table = "plays"\nitems = [', "[labels]", "labels: labels need either a query or a table"),
        ('lag = "PT1M"', 'lag = "P8D"', "[as_of.my_list]", "as_of.my_list: as-of rule has lag 8 days"),
    ],
)
def test_what_no_single_field_is_to_blame_for_names_its_table(refusal, right, wrong, table, message):
    assert right in SPEC
    line = SPEC[: SPEC.index(table)].count("\n") + 1
    assert refusal(SPEC.replace(right, wrong, 1)).startswith(f"homepage.toml, line {line}: {message}")


def test_what_nobody_captured_is_named_with_the_line_of_its_encoder(refusal, tmp_path):
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        found = refusal(SPEC, index)
    assert found.startswith("homepage.toml, line 3: encoders[0]: unknown captured element 'my_list' → known: none")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("minutes_watched", 'write "module:name"'),
        ("encoders.library.nowhere:f", "No module named"),
        ("encoders.library.history:minutes_watchd", "did you mean 'minutes_watched'"),
        ("encoders.library.history:DAY", "put @feature_encoder on it"),
    ],
)
def test_an_encoder_that_is_not_there_is_a_clear_error(place, message):
    with pytest.raises(ConfigError, match=message):
        EncoderSpec(place).load()


def test_an_imputer_stands_before_an_estimator_that_takes_no_missing_values(load):
    model = ModelSpec("sklearn.linear_model:LogisticRegression", {"C": 0.5}, impute="median").build()
    assert [type(step).__name__ for _, step in model.steps] == ["SimpleImputer", "LogisticRegression"]
    assert model.steps[0][1].strategy == "median"
    assert model.steps[1][1].C == 0.5
    spec = SPEC.replace("seed = 3", "seed = 3\nestimator = 'sklearn.linear_model:LogisticRegression'\nimpute = 'mean'")
    assert load(spec).model.impute == "mean"
    assert load(spec).id != load(spec.replace("\nimpute = 'mean'", "")).id
    with pytest.raises(ConfigError, match="impute"):
        load(spec.replace("'mean'", "'guess'"))
    with pytest.raises(ConfigError, match="model.impute without model.estimator"):
        ModelSpec(impute="mean").build()

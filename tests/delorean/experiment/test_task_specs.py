"""Specs of several tasks: read from TOML or Python, and each mistake one error that names the place."""

import json

import pytest

from delorean.experiment import ExperimentSpec, contexts_to_select, load_experiment
from delorean.experiment.label_spec import LabelSpec
from delorean.experiment.settings import require_generated_by
from delorean.experiment.steps import weight_of_contexts
from delorean.experiment.task_spec import MergeSpec, TaskSpec
from delorean.project.config import Schedule
from delorean.project.schedule import owners_in, scheduled
from delorean.ranking_data.context_weights import ContextWeight
from encoders.library import listed, minutes_watched
from schemas.errors import ConfigError, DeloreanError
from snapshotter.storage.table_source import TableSource

SPEC = """
name = "members"
encoders = ["encoders.library.history:minutes_watched"]

[sentinels]
profile_id = -1
seed_id = -1

[defaults]
in_my_list = 0.0

[tables]
shown = { path = "shown.parquet" }

[tasks.homepage]
encoders = ["encoders.library.my_list:listed"]

[tasks.homepage.labels]
table = "shown"
items = ["video_id"]
context = ["profile_id"]
keep = ["country"]

[tasks.homepage.contexts]
query = "SELECT DISTINCT profile_id FROM shown"
key = ["profile_id"]
quota = 100

[tasks.similar]
weight = 2.0

[tasks.similar.sample]
fraction = 0.5

[tasks.similar.labels]
query = "SELECT seed_id, video_id, time, outcome_at, label FROM shown"
items = ["video_id"]
context = ["seed_id"]
"""


def written(folder, *changes, name="members.toml", text=SPEC):
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / name).write_text(text)
    return folder / name


def test_a_spec_of_tasks_has_merged_label_data(tmp_path):
    spec = load_experiment(written(tmp_path))
    labels = spec.label_spec
    assert labels.context == ("profile_id", "seed_id", "task_type")
    assert (labels.items, labels.keep) == (("video_id",), ("country", "inclusion_probability"))
    assert labels.incremental
    assert [encoder.encoder.rpartition(":")[2] for encoder in spec.encoder_specs] == ["minutes_watched", "listed"]
    home, similar = spec.task_set.tasks
    assert home.without == ()
    assert similar.without == ("in_my_list", "days_in_my_list")
    assert dict(spec.task_set.defaults) == {"in_my_list": 0.0}


def test_the_same_spec_in_python_has_the_same_id(tmp_path):
    loaded = load_experiment(written(tmp_path))
    home = LabelSpec(items=("video_id",), context=("profile_id",), table="shown", keep=("country",))
    similar = LabelSpec(
        items=("video_id",),
        context=("seed_id",),
        query="SELECT seed_id, video_id, time, outcome_at, label FROM shown",
    )
    spec = ExperimentSpec(
        encoders=(minutes_watched,),
        name="members",
        tasks={
            "homepage": TaskSpec(home, (listed,), contexts=loaded.tasks["homepage"].contexts),
            "similar": TaskSpec(similar, weight=2, sample=loaded.tasks["similar"].sample),
        },
        sentinels={"profile_id": -1, "seed_id": -1},
        defaults={"in_my_list": 0.0},
        tables={"shown": TableSource("shown.parquet")},
    )
    assert spec.id == loaded.id
    assert ExperimentSpec.from_json(spec.to_json()).id == spec.id
    assert json.loads(json.dumps(spec.label_content)) == spec.label_content  # label data at rest is compared with it


def test_contexts_are_selected_for_each_task_by_its_own_key(tmp_path):
    [selection] = contexts_to_select(written(tmp_path))
    assert (selection.id, selection.key) == ("members-homepage", ("profile_id",))


def test_a_spec_of_tasks_is_scheduled(tmp_path):
    path = written(tmp_path)
    found = scheduled(Schedule(specs=str(tmp_path)))
    path.write_text('owner = "ann"\n' + SPEC)
    assert owners_in(Schedule(specs=str(tmp_path)))["members-homepage"] == "ann"  # who pays for what it captures
    assert list(found.selected) == [path]
    assert [(each.name, each.error) for each in found.experiments] == [("members", None)]


def test_a_sample_of_a_fixed_size_makes_the_label_data_of_a_day_anew(tmp_path):
    assert not load_experiment(written(tmp_path, ("fraction = 0.5", "quota = 5"))).label_spec.incremental


def test_weights_of_tasks_multiply_the_models_and_change_no_features(tmp_path):
    spec = load_experiment(written(tmp_path))
    assert weight_of_contexts(spec) == ContextWeight(tasks={"homepage": 1.0, "similar": 2.0})
    even = load_experiment(written(tmp_path, ("weight = 2.0\n", "")))
    assert weight_of_contexts(even) is None
    lineage = {"spec": even.to_json(), "feature_model": even.feature_model.fingerprint}
    require_generated_by(spec, lineage, "features")
    fewer = load_experiment(written(tmp_path, ("fraction = 0.5", "fraction = 0.25")))
    with pytest.raises(ConfigError, match=r"tasks\.similar\.sample\.fraction was 0.5"):
        require_generated_by(fewer, lineage, "features")


def test_an_encoder_that_several_tasks_name_belongs_to_all_of_them(tmp_path):
    path = written(
        tmp_path,
        ("weight = 2.0", 'weight = 2.0\nencoders = ["encoders.library.my_list:listed"]'),
    )
    spec = load_experiment(path)
    assert len(spec.encoder_specs) == 2
    assert [task.without for task in spec.task_set.tasks] == [(), ()]


def test_the_label_data_of_all_tasks_is_named_in_merge(tmp_path):
    path = written(tmp_path, ("[tables]", '[merge]\nid = "all-uses"\nbuckets = 8\nincremental = false\n\n[tables]'))
    labels = load_experiment(path).label_spec
    assert (labels.id, labels.buckets, labels.incremental) == ("all-uses", 8, False)


LABELS = '[labels]\ntable = "shown"\nitems = ["video_id"]\n'
HOMEPAGE = SPEC[SPEC.index("[tasks.homepage.labels]") : SPEC.index("[tasks.homepage.contexts]")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("[tables]", f"{LABELS}\n[tables]")], "labels and tasks are both given"),
        ([("profile_id = -1\n", "")], "variable 'profile_id' has no sentinel, and tasks lack it: similar"),
        ([("profile_id = -1\n", "profile_id = -1\nprofil = -1\n")], "sentinel 'profil' .*did you mean 'profile_id'"),
        ([("weight = 2.0", "weight = -1")], r"line 30: tasks.similar.weight: weight is -1"),
        ([("weight = 2.0", "weight = nan")], "weight is nan"),
        ([("weight = 2.0", "weight = 0"), ("homepage]", "homepage]\nweight = 0")], "weights of all tasks are 0"),
        ([("tasks.similar", "tasks.Homepage")], "tasks 'homepage' and 'Homepage' differ only in case"),
        ([("tasks.similar", 'tasks."more like this"')], "more like this"),
        ([("tasks.similar", "tasks.homepage")], r"line 29: is not TOML.*'homepage'"),
        ([('context = ["seed_id"]', "")], "task 'similar' does not name its context variables"),
        ([('context = ["seed_id"]', 'context = ["task_type"]')], "task 'similar' has a variable 'task_type'"),
        ([('context = ["seed_id"]', 'context = ["video_id"]')], "'similar': label data uses video_id in two roles"),
        ([('context = ["seed_id"]', 'context = ["seed_id"]\nid = "x"')], r"belongs to .* all tasks.*\[merge\] id"),
        ([('key = ["profile_id"]', 'key = ["seed_id"]')], "variable of task 'homepage' to select .* by 'seed_id'"),
        ([("fraction = 0.5", 'fraction = 0.5\nstrata = ["contry"]')], "stratum of task 'similar' 'contry'"),
        ([("fraction = 0.5", "fraction = 1.5")], r"tasks.similar.sample.fraction"),
        ([("my_list:listed", "my_list:lsited")], r"tasks.homepage.encoders\[0\].*did you mean"),
        ([("in_my_list = 0.0", "in_my_lits = 0.0")], "line 10: defaults.* 'in_my_lits'.*did you mean 'in_my_list'"),
        ([('keep = ["country"]', 'keep = ["seed_id"]')], "'seed_id' is carried along of task 'homepage'"),
        ([('context = ["seed_id"]', 'context = ["seed_id"]\nlabels = []')], "tasks similar have no labels"),
        ([('context = ["seed_id"]', 'context = ["seed_id"]\nlabel = "x"\n[model]\nlabel = "y"')], "label"),
        ([("tasks", "uses")], "unknown field 'uses'"),
    ],
)  # fmt: skip
def test_a_wrong_spec_of_tasks_is_one_error(tmp_path, changes, message):
    with pytest.raises(DeloreanError, match=message):
        load_experiment(written(tmp_path, *changes))


def test_tasks_settings_without_tasks_are_an_error(tmp_path):
    for more in ("[sentinels]\nprofile_id = -1\n", "[defaults]\nin_my_list = 0.0\n", '[merge]\nid = "x"\n'):
        text = f'encoders = ["encoders.library.my_list:listed"]\n{LABELS}{more}'
        with pytest.raises(ConfigError, match="are settings of tasks"):
            load_experiment(written(tmp_path, text=text))
    with pytest.raises(ConfigError, match="labels is missing, and there are no tasks"):
        load_experiment(written(tmp_path, text='encoders = ["encoders.library.my_list:listed"]\n'))


def test_a_merge_of_one_task_is_allowed():
    spec = LabelSpec(items=("video_id",), context=("profile_id",), table="shown")
    one = ExperimentSpec(encoders=(minutes_watched,), name="one", tasks={"home": TaskSpec(spec)}, merge=MergeSpec("x"))
    assert one.label_spec.id == "x"
    assert one.task_set.tasks[0].without == ()

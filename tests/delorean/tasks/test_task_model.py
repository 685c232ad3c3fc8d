"""Features of several tasks: each computed where its task can have it, and its default elsewhere."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from delorean.tasks.applicability import require_features, with_impossible_features
from delorean.tasks.impossible_features import task_numbers, with_defaults
from delorean.tasks.task_model import bind_for_tasks
from delorean.tasks.task_set import Task, TaskSet
from encoders import Vector, feature_encoder
from encoders.data_map import DataMaps, Element
from encoders.feature_model import FeatureModel
from schemas.data_keys import context_variable, item, service_element
from schemas.errors import ConfigError, DataKeyError

MINUTES = service_element("minutes", pa.int64())


@feature_encoder(features=["position"])
def position(context, items, data, out):
    for i in range(len(items.video_id)):
        out.position[i] = float(i)


@feature_encoder(data=[MINUTES], features=["watched"])
def watched(context, items, data, out):
    for i in range(len(items.video_id)):
        out.watched[i] = data.minutes.value if data.minutes.present else 0.0


@feature_encoder(features=["far", "near"], compiled=False)
def distance(context, items, data, out):
    assert context.seed_id != -1, "an encoder saw a sentinel"
    for i in range(len(items.video_id)):
        out.far[i] = float(items.video_id[i] - context.seed_id)
        out.near[i] = -out.far[i]


MODEL = FeatureModel([position, watched, distance])
TASKS = TaskSet(
    (Task("home", ("profile_id",), ("video_id",)), Task("similar", ("seed_id",), ("video_id",))),
    {"profile_id": -1, "seed_id": -1},
    {"far": 7.0, "watched": 0.5},
)
CONTEXT = [context_variable(name, pa.int64()) for name in ("profile_id", "seed_id")]
CONTEXT.append(context_variable("task_type", pa.string()))
ITEMS = [item("video_id", pa.int64())]


def resolved(tasks=TASKS, **options):
    found = with_impossible_features(tasks, MODEL, {"minutes": ["profile_id"]}, **options)
    require_features(found, MODEL.features)
    return found


def maps_of(tasks, lengths):
    """Contexts of tasks, each with as many items as `lengths` says; context i has the id i."""
    ids = np.arange(len(tasks))
    home = np.array([each == "home" for each in tasks], dtype=bool)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    contexts = pa.table(
        {
            "profile_id": pa.array(np.where(home, ids, -1), pa.int64()),
            "seed_id": pa.array(np.where(home, -1, ids), pa.int64()),
            "task_type": pa.array(tasks, pa.string()),
        }
    )
    rows = np.where(home, ids, -1).astype(np.int64)
    items = pa.table({"video_id": pa.array(np.arange(offsets[-1]) * 3, pa.int64())})
    return DataMaps(contexts, items, offsets, {"minutes": Element(pa.array(ids * 10, pa.int64()), rows)})


def test_a_task_cannot_have_features_that_read_a_variable_or_a_service_that_it_lacks():
    home, similar = resolved().tasks
    assert home.without == ("far", "near")
    assert similar.without == ("watched",)


def test_an_encoder_of_some_tasks_is_impossible_in_the_others():
    home, similar = resolved(owners={"position": ("similar",), "far": ("similar",), "near": ("similar",)}).tasks
    assert home.without == ("position", "far", "near")
    assert similar.without == ("watched",)


@given(st.lists(st.tuples(st.sampled_from(["home", "similar"]), st.integers(0, 3)), max_size=12))
def test_features_are_those_of_each_task_alone_and_defaults_elsewhere(rows):
    tasks, lengths = [task for task, _ in rows], [length for _, length in rows]
    bound = bind_for_tasks(MODEL, CONTEXT, ITEMS, resolved())
    maps = maps_of(tasks, lengths)
    expected = {name: [] for name in MODEL.features}
    for i, (task, length) in enumerate(rows):
        videos = maps.items["video_id"].to_pylist()[maps.item_offsets[i] : maps.item_offsets[i + 1]]
        home = task == "home"
        expected["position"] += [float(n) for n in range(length)]
        expected["watched"] += [i * 10.0 if home else 0.5] * length
        expected["far"] += [7.0 if home else float(video - i) for video in videos]
        expected["near"] += [np.nan if home else float(i - video) for video in videos]
    for found in (bound.encode(maps), bound.interpret(maps)):
        assert list(found) == list(MODEL.features)
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, np.array(expected[name], np.float32))


@feature_encoder(features=[Vector("apart", 2), "either"])
def apart(context, items, data, out):
    for i in range(len(items.video_id)):
        out.apart[i, 0] = float(items.video_id[i] - context.seed_id)
        out.either[i] = 1.0


@given(st.lists(st.tuples(st.sampled_from(["home", "similar"]), st.integers(0, 3)), max_size=6))
def test_a_vector_has_its_default_in_every_component(rows):
    model = FeatureModel([position, apart])
    tasks = with_impossible_features(replace(TASKS, defaults={"apart": 7.0}), model, {})
    maps = maps_of([task for task, _ in rows], [length for _, length in rows])
    expected = []
    for i, (task, length) in enumerate(rows):
        videos = maps.items["video_id"].to_pylist()[maps.item_offsets[i] :][:length]
        expected += [[7.0, 7.0] if task == "home" else [float(video - i), np.nan] for video in videos]
    bound = bind_for_tasks(model, CONTEXT, ITEMS, tasks)
    for found in (bound.encode(maps), bound.interpret(maps)):
        np.testing.assert_array_equal(found["apart"], np.array(expected, np.float32).reshape(-1, 2))
        assert found["position"].shape == (len(expected),)


def test_a_model_of_one_use_is_bound_as_it_always_was():
    bound = bind_for_tasks(MODEL, CONTEXT, ITEMS, None)
    assert bound == MODEL.bind(CONTEXT, ITEMS)


def test_defaults_replace_whatever_was_computed_and_leave_the_given_arrays_alone():
    values = {"far": np.array([1, 2, 3], np.float32), "near": np.array([1, 2, 3], np.float32)}
    found = with_defaults(values, np.array([0, 1, 0]), resolved())
    np.testing.assert_array_equal(found["far"], np.array([7, 2, 7], np.float32))
    np.testing.assert_array_equal(found["near"], np.array([np.nan, 2, np.nan], np.float32))
    assert values["far"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (pa.table({"profile_id": [1]}), "unknown context variable that names the task 'task_type'"),
        (pa.table({"task_type": ["home", "hmoe"]}), "did you mean 'home'"),
        (pa.table({"task_type": pa.array([None], pa.string())}), "None"),
    ],
)
def test_a_context_without_a_known_task_is_an_error(contexts, message):
    with pytest.raises(DataKeyError, match=message):
        task_numbers(contexts, TASKS)


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        (TASKS, {"owners": {"far": ("home",), "near": ("home",)}}, "'home' declares the feature 'far'.*seed_id"),
        (TaskSet((*TASKS.tasks, Task("rows", ("device",), ("row_id",)))), {}, "'rows' can have none of the features"),
    ],
)
def test_features_that_do_not_fit_the_tasks_are_one_error(tasks, options, message):
    with pytest.raises(ConfigError, match=message):
        resolved(tasks, **options)


def test_tasks_of_different_items_need_a_feature_that_both_can_have():
    @feature_encoder(features=["row"])
    def row(context, items, data, out):
        for i in range(len(items.row_id)):
            out.row[i] = 1.0

    @feature_encoder(features=["shared"])
    def shared(context, items, data, out):
        out.shared[:] = 1.0

    tasks = TaskSet((TASKS.tasks[0], Task("rows", ("profile_id",), ("row_id",))))
    with pytest.raises(ConfigError, match="'home' ranks video_id and task 'rows' row_id.*no feature"):
        require_features(with_impossible_features(tasks, FeatureModel([position, row]), {}), ["position", "row"])
    assert with_impossible_features(tasks, FeatureModel([position, row, shared]), {}).tasks[1].without == ("position",)

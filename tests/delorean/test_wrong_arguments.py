"""What somebody gives that is none of what is expected is named in one line, not found by Python deep below."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from project_at_rest import HISTORY, long_labels

from delorean import AsOf, TimeMachine, as_of_join_spark, compare_encoders, generate, materialise_labels
from delorean.labels import LabelColumns
from delorean.project.config import Project, Submit, load_project
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import service_element
from schemas.errors import ConfigError, DataKeyError, DeloreanError, EncoderError, LabelError, NotInIndexError
from snapshotter.index import open_index
from snapshotter.storage import open_storage

NOON = datetime(2026, 5, 2, 12, tzinfo=UTC)
ROWS = long_labels([(1, 10, 1, 0.0)])


@feature_encoder(data=[HISTORY], features=["f"])
def length(context, items, data, out):
    out.f[0] = len(data.history.video_id)


@feature_encoder(data=[service_element("nothing", "list<int64>")], features=["f"])
def of_nothing(context, items, data, out):
    out.f[0] = len(data.nothing.values)


WRONG = [
    (lambda m, _: m.at("nonsense"), ConfigError, "'nonsense' is not a time → write one such as 2026-01-31T12:00:00Z"),
    (lambda m, _: m.at(None), ConfigError, "moment is None, expected a datetime"),
    (lambda m, _: m.at(date(2026, 5, 2)), ConfigError, "moment is a date, expected a datetime"),
    (lambda m, _: m.at(NOON, 3), ConfigError, r"max_age is 3, expected a timedelta → write timedelta\(hours=1\)"),
    (lambda m, _: m.at(NOON)["histroy"], DataKeyError, "'histroy' → did you mean 'history'"),
    (lambda m, _: TimeMachine("index.db", m.storage), ConfigError, r"index is 'index.db', expected an open index →"),
    (lambda m, _: TimeMachine("cassandra://me:secret@h/k", m.storage), ConfigError, "index is a str, expected an open"),
    (lambda m, _: TimeMachine(m.index, "data"), ConfigError, r"storage is 'data', expected an open storage →"),
    (lambda *_: open_index("data/index.db"), ConfigError, "the index's URI has no scheme → write sqlite:///"),
    (lambda *_: open_storage("data"), ConfigError, "the storage's URI has no scheme → write file:///"),
    (lambda *_: load_project("nowhere.toml"), ConfigError, "there is no project file nowhere.toml"),
    (lambda m, _: m.at(NOON)["history"].to_spark(None), ConfigError, "spark is None, expected a Spark session"),
    (
        lambda m, _: m.features("rows", length, items="video_id"),
        LabelError,
        "rows are a str, expected what Arrow reads",
    ),
    (
        lambda m, _: m.features(ROWS, len, items="video_id"),
        EncoderError,
        "is not a feature encoder → put @feature_encoder",
    ),
    (
        lambda m, _: m.features(ROWS, of_nothing, items="video_id"),
        DataKeyError,
        "no snapshot has the element 'nothing'",
    ),
    (
        lambda m, k: generate("labels", length, m.index, m.storage, "f"),
        LabelError,
        "labels is 'labels', expected label",
    ),
    (
        lambda m, k: generate(k, of_nothing, m.index, m.storage, "f"),
        DataKeyError,
        "no snapshot has the element 'nothing'",
    ),
    (
        lambda m, k: generate(k, length, m.index, m.storage, "f", spark="local"),
        ConfigError,
        "spark is 'local', expected",
    ),
    (
        lambda m, k: generate(k, length, m.index, m.storage, "f", rules={"history": "PT1H"}),
        ConfigError,
        r"the as-of rule of 'history' is 'PT1H', expected AsOf\(",
    ),
    (lambda *_: AsOf(max_age="1h"), ConfigError, "max_age is '1h', expected a timedelta"),
    (lambda *_: LabelColumns("video_id"), LabelError, r"items is 'video_id'.* → write items=\(\"video_id\",\)"),
    (lambda *_: as_of_join_spark(ROWS, ROWS, by="profile_id"), DataKeyError, "left is a Table, expected a Spark DataF"),
    (lambda m, k: compare_encoders(length, 3, k, m.index, m.storage), EncoderError, "3 is not a feature encoder"),
    (
        lambda *_: feature_encoder(data=HISTORY, features=["f"]),
        EncoderError,
        "data is a DataKey, expected a list → write",
    ),
    (
        lambda *_: feature_encoder(data=["history"], features=["f"]),
        EncoderError,
        "data contains 'history', expected data keys",
    ),
    (lambda *_: feature_encoder(features="fg"), EncoderError, r"features is 'fg', expected a list → write features="),
]


@pytest.fixture
def machine(project):
    project.history([((1,), 0, [{"video_id": 1, "minutes": 1.0}])], "r")
    return TimeMachine(project.index, project.storage)


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_what_is_wrong_is_named_with_what_to_do(machine, call, kind, message):
    labels = materialise_labels(ROWS, LabelColumns(("video_id",)), machine.storage, labels_id="l")
    with pytest.raises(DeloreanError, match=message) as caught:
        call(machine, labels)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_index_in_which_nothing_is_says_so(project):
    with pytest.raises(NotInIndexError, match=r"nothing is published in sqlite:///.*index.db yet → take a snapshot"):
        TimeMachine(project.index, project.storage).at(NOON)["history"]


def test_one_encoder_will_do_where_several_are_expected(machine):
    labels = materialise_labels(ROWS, LabelColumns(("video_id",)), machine.storage)
    prints = {FeatureModel(given).fingerprint for given in (length, [length], FeatureModel([length]))}
    made = [generate(labels, given, machine.index, machine.storage, "f") for given in (length, [length])]
    assert len(prints) == 1
    assert made[0].digest == made[1].digest


def test_a_session_that_runs_is_given_as_it_is_whatever_a_project_says(spark, tmp_path):
    elsewhere = replace(Project(), submit=Submit("spark://127.0.0.1:1", str(tmp_path / "nowhere.tar.gz")))
    assert elsewhere.spark_session() is spark

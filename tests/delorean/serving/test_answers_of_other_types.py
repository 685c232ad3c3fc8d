"""A service deploys a field before or after the model that reads it: live answers are read as captures are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import company
import numpy as np
import pyarrow as pa
import pytest
from project_at_rest import PROFILE, Project, long_labels, minutes

from delorean import data_key, open_project
from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from delorean.packaging.package import ModelPackage
from delorean.serving import GlobalVersions, Ranker, assemble
from encoders import FeatureModel, feature_encoder
from encoders.library.keys import VIDEOS
from prana_proxy.config.services_file import gateway_config, load_gateway_config
from prana_proxy.gateway.gateway import Gateway
from schemas.data_keys import context_variable, item, service_element
from schemas.errors import ConfigError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import open_index
from snapshotter.storage import open_storage

OLD = service_element("history", "list<struct<video_id: int32, watched: float>>")
NEW = service_element(
    "history",
    "list<struct<video_id: int64, minutes: double, device: string, plays: int32>>",
    defaults={"plays": 1},
    aliases={"minutes": ["watched"]},
)


@pytest.fixture
def at_rest(tmp_path: Any) -> Iterator[Project]:
    with open_index(f"sqlite:///{tmp_path}/index.db") as index:
        yield Project(open_storage(f"file://{tmp_path}/store"), index)


@feature_encoder(data=[NEW], features=["minutes", "plays", "with_device"])
def of_new(context, items, data, out):
    for i in range(len(items.video_id)):
        out.minutes[i] = 0.0
        out.plays[i] = 0.0
        out.with_device[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes[i] += data.history.minutes[j]
                out.plays[i] += data.history.plays[j]
                if data.history.device[j] == "tv":
                    out.with_device[i] += 1.0


OLD_MODEL = service_element("history", OLD.type, aliases={"watched": ["minutes"]})


@feature_encoder(data=[OLD_MODEL], features=["watched"])
def of_old(context, items, data, out):
    for i in range(len(items.video_id)):
        out.watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.watched[i] += data.history.watched[j]


WIDE_OLD = service_element(
    "history", "list<struct<video_id: int64, minutes: double>>", aliases={"minutes": ["watched"]}
)


@feature_encoder(data=[WIDE_OLD], features=["minutes"])
def of_wide_old(context, items, data, out):
    for i in range(len(items.video_id)):
        out.minutes[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes[i] += data.history.minutes[j]


@pytest.mark.parametrize(
    ("declared", "play", "encoder"),
    [
        (OLD, {"video_id": 1, "watched": 0.1}, of_new),  # the model's field is not deployed yet
        (NEW, {"video_id": 1, "minutes": 0.1, "device": "tv", "plays": 2}, of_wide_old),  # and here not the service's
        (NEW, {"video_id": 1, "minutes": None, "device": "tv", "plays": 2}, of_new),
        (OLD, {"video_id": 1, "watched": 0.1, "of_tomorrow": 5}, of_old),
    ],
    ids=["service before", "service after", "same", "undeclared field"],
)
def test_offline_features_of_captures_are_those_of_live_answers(
    at_rest: Project, services: Any, declared: Any, play: dict[str, Any], encoder: Any
) -> None:
    services.answer = lambda path, body: (200, [play] * int(path.rsplit("/", 1)[1]))
    service = {"type": str(declared.type), "key": {"profile_id": "int64"}, "timeout_seconds": 30.0}
    config = gateway_config(
        {"services": {"history": {**service, "url": f"http://127.0.0.1:{services.port}/{{profile_id}}"}}}
    )
    profiles = [0, 1, 3]
    contexts = pa.table({"profile_id": profiles, "time": pa.array([minutes(5)] * 3, TIME)})
    with Gateway(config) as gateway:
        batch = gateway.fetch_all({"history": contexts}, timedelta(seconds=30))["history"]
    assert batch["status"].to_pylist() == ["ok"] * 3
    model = FeatureModel([encoder])
    maps = assemble(
        contexts, pa.table({"video_id": [1] * 3}), np.arange(4), {"history": batch}, {}, read_as=model.elements
    )
    online = model.bind([context_variable("profile_id", "int64")], [item("video_id", "int64")]).encode(maps)

    captured = [((p,), 0, value) for p, value in zip(profiles, batch["value"].to_pylist(), strict=True)]
    at_rest.publish(Service("history", declared, (PROFILE,)), captured, "run")
    rows = long_labels([(p, 5, 1, 0) for p in profiles])
    labels = materialise_labels(rows, LabelColumns(items=("video_id",)), at_rest.storage)
    features = generate(labels, model, at_rest.index, at_rest.storage, "f").to_arrow().sort_by("profile_id")
    for name in encoder.features:
        offline = features[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        assert offline.view(np.uint32).tolist() == online[name].view(np.uint32).tolist()


def ranked(package: ModelPackage, services: Any, published: Any, history: dict[str, Any]) -> dict[str, Any]:
    """Rank with the company's services, of which the history is configured otherwise."""
    config = services.config()
    config["services"]["viewing_history"] |= history
    clock = lambda: int(company.NOW.timestamp() * 1e6)  # noqa: E731  # one line
    with (
        Gateway(gateway_config(config)) as gateway,
        GlobalVersions([VIDEOS], published.index, published.storage, clock) as versions,
    ):
        ranker = Ranker(package, gateway, versions, clock, timedelta(seconds=30))
        body = b'{"context": {"profile_id": 7, "country": "US"}, "candidates": [1, 2, 3, 4, 5], "explain": true}'
        found: dict[str, Any] = ranker.rank(body)
        assert found["missing"] == []
        return found


def test_a_model_is_served_while_its_service_deploys_a_field_and_before_it_does(
    company_package: ModelPackage, services: Any, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ranked(company_package, services, published, {})
    more = "list<struct<device: string, video_id: int32, minutes: float, watched_at: timestamp[us, UTC]>>"
    history = {p: [{**play, "device": "tv"} for play in plays] for p, plays in company.HISTORIES.items()}
    with monkeypatch.context() as patch:
        patch.setattr(company, "HISTORIES", history)
        after = ranked(company_package, services, published, {"type": more})
    assert after["ranked"] == before["ranked"]

    fewer = "list<struct<video_id: int64, watched_at: timestamp[us, UTC]>>"
    unknown = ranked(company_package, services, published, {"type": fewer})
    element = company.data_maps([7]).elements["viewing_history"]
    minutes_unknown = pa.array([[{**p, "minutes": None} for p in element.values[0].as_py()]], element.values.type)
    maps = company.data_maps([7])
    maps = replace(maps, elements={**maps.elements, "viewing_history": replace(element, values=minutes_unknown)})
    expected = company_package.bound.encode(maps)
    by_item = {int(v): i for i, v in enumerate(maps.items["video_id"].to_pylist())}
    for entry in unknown["ranked"]:
        if entry["item"]["video_id"] in by_item:
            for name, value in entry["features"].items():
                wanted = float(expected[name][by_item[entry["item"]["video_id"]]])
                assert value == wanted or (value is None and np.isnan(wanted))


def test_a_service_whose_type_cannot_be_read_is_refused_with_the_field_and_the_rule(
    company_package: ModelPackage, services: Any, published: Any
) -> None:
    other = {"type": "list<struct<video_id: int64, minutes: float>>"}
    with pytest.raises(ConfigError, match=r"does not fit the model: .*'viewing_history\.watched_at' is missing, and"):
        ranked(company_package, services, published, other)


TWO_SERVICES = """
[services.history]
type = "list<struct<video_id: int64, minutes: float>>"
key = {{ profile_id = "int64" }}
timeout_seconds = 30.0
url = "http://127.0.0.1:{port}/{{profile_id}}"

[services.history_2]
element = "history@2"
type = "list<struct<seen: string>>"
key = {{ profile_id = "int64" }}
timeout_seconds = 30.0
url = "http://127.0.0.1:{port}/{{profile_id}}"
"""


def test_an_incompatible_successor_is_captured_beside_the_element_while_experiments_move(
    tmp_path: Path, services: Any
) -> None:
    """Two declarations with one URL, each of which reads its own fields of the answer."""
    services.answer = lambda path, body: (200, [{"video_id": 1, "minutes": 2.5, "seen": path}] * int(path[1:]))
    (tmp_path / "delorean.toml").write_text('storage = "store"\nindex = "index.db"\n')
    (tmp_path / "services.toml").write_text(TWO_SERVICES.format(port=services.port))
    contexts = pa.table({"profile_id": [0, 1, 2], "time": pa.array([minutes(1)] * 3, TIME)})
    with open_project(tmp_path) as project:
        config = load_gateway_config(project.config.services)
        with Gateway(config) as gateway:
            captured = gateway.fetch_all(dict.fromkeys(gateway.services, contexts), timedelta(seconds=30))
        for service in config.services:
            batch = captured[service.service.name]
            assert batch["status"].to_pylist() == ["ok"] * 3, batch["reason"]
            rows = [((p,), 0, value) for p, value in enumerate(batch["value"].to_pylist())]
            Project(project.storage, project.index).publish(service.service, rows, f"run-{service.service.name}")
        there = project.travel(minutes(5))
        assert there.keys() == ["history", "history_2"]
        assert there["history_2"].to_arrow()["history_2"].to_pylist()[1] == [{"seen": "/1"}]

        @feature_encoder(data=[data_key("history"), data_key("history@2")], features=["of_first", "of_second"])
        def both(context, items, data, out):
            for i in range(len(items.video_id)):
                out.of_first[i] = len(data.history.video_id)
                out.of_second[i] = len(data.history_2.seen)

        shown = pa.table({"profile_id": [2], "time": pa.array([minutes(5)], TIME), "video_id": [7]})
        features = project.machine.features(shown, both, items=["video_id"])
        assert (features["of_first"].to_pylist(), features["of_second"].to_pylist()) == ([[2.0]], [[2.0]])
        assert {"history_2_captured_at", "history_2_run_id"} <= set(features.column_names)

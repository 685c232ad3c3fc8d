"""The type of an element stands in one place: encoders take it from the project's services, or are checked by them."""

import pyarrow as pa
import pytest
from declaring_project import ENCODERS, NEW, OLD, Folder, capture, shown
from project_at_rest import minutes

from delorean import data_key, generate
from schemas.data_keys import global_element, service_element
from schemas.errors import ConfigError, DataKeyError
from snapshotter.global_elements import publish_global


@pytest.fixture
def folder(tmp_path, request):
    made = Folder(tmp_path, f"declared_{abs(hash(request.node.name)) % 10**9}")
    yield made
    made.forget()


def test_an_encoder_takes_its_type_from_the_services_or_what_was_captured(folder):
    with folder.open() as project:
        (key,) = project.experiments["spec"].feature_model.elements.values()
        assert key == service_element("history", OLD)
        videos = global_element("videos", "struct<video_id: int64, year: int32>")
        table = pa.table({"video_id": [1], "year": pa.array([1985], pa.int32())})
        publish_global(table, videos, minutes(0), project.storage, project.index, "v1")
        capture(project, "list<int64>", [((1,), 0, [1])], "run")
        assert data_key("videos") == videos
        assert data_key("history") == service_element("history", OLD)  # services.toml comes before the index
        (folder.path / "services.toml").unlink()
        assert data_key("history") == service_element("history", "list<int64>")
        with pytest.raises(DataKeyError, match=r"element of the project in .*'histroy'.*did you mean 'history'"):
            data_key("histroy")


def test_defaults_and_older_names_are_declared_with_the_service(folder):
    folder.declare(NEW, 'defaults = { plays = 1 }\naliases = { minutes = ["watched"] }\nelement = "history@2"')
    with folder.open():
        assert data_key("history@2") == service_element(
            "history@2", NEW, defaults={"plays": 1}, aliases={"minutes": ["watched"]}
        )


def test_without_a_project_an_unresolved_element_is_one_clear_error(folder, monkeypatch):
    monkeypatch.setattr("encoders.declared_elements._projects", {})
    problem = r"data_key\('history'\): no project is open.*open_project.*service_element\('history'"
    with pytest.raises(DataKeyError, match=problem):
        data_key("history")


def test_a_module_gets_the_declarations_of_its_own_project_whichever_was_opened_last(folder, tmp_path_factory):
    other = Folder(tmp_path_factory.mktemp("other"), f"{folder.module}_other")
    other.declare(NEW)
    with folder.open() as first, other.open() as second:
        assert first.experiments["spec"].feature_model.elements["history"].type == service_element("h", OLD).type
        assert second.experiments["spec"].feature_model.elements["history"].type == service_element("h", NEW).type
        assert data_key("history").type == service_element("h", NEW).type
    other.forget()


def test_a_spec_is_checked_against_the_services_when_it_is_loaded(folder):
    explicit = ENCODERS.replace('data_key("history")', f'service_element("history", "{OLD}")')
    folder.encoders(explicit.replace("data_key", "service_element"))
    folder.declare("list<struct<video_id: int32, minutes: float, device: string>>")
    with folder.open() as project:
        assert project.experiments["spec"].feature_model.features == ("minutes",)
        folder.declare("list<struct<video_id: int64, minutes: double>>")
        problem = r"spec.toml, line 2: .* declares 'history': .*'history\.minutes' is double, expected float"
        for load in (lambda: project.experiments["spec"], lambda: project.spec("spec.toml")):
            with pytest.raises(ConfigError, match=problem):
                load()
        folder.encoders(ENCODERS.replace("history", "histroy"))
        with pytest.raises(ConfigError, match=r"spec.toml, line 2: encoders\[0\].*did you mean 'history'"):
            _ = project.experiments["spec"]


def test_a_package_and_a_replay_keep_the_types_that_were_resolved_when_they_were_made(folder):
    with folder.open() as project:
        capture(project, OLD, [((p,), 0, [{"video_id": p % 3, "minutes": 1.0 + p}]) for p in range(12)], "before")
        shown(project)
        record = project.run("spec")
        project.package("spec", "package")
        folder.declare(NEW)
        folder.forget()
        later = project.experiments["spec"].feature_model
        assert later.elements["history"].type == service_element("history", NEW).type
        package = project.load_package("package")
        package.check_golden_rows()
        assert package.feature_model.elements["history"] == service_element("history", OLD)
        assert project.replay(record).identical


def test_executors_get_the_types_that_the_driver_resolved(folder, spark):
    with folder.open() as project:
        capture(project, NEW, [((p,), 0, [{"video_id": 1, "minutes": 1.5, "plays": p}]) for p in range(4)], "run")
        folder.declare(NEW)
        labels = shown(project, range(4))
        model = project.experiments["spec"].feature_model
        here = generate(labels, model, project.index, project.storage, "here")
        there = generate(labels, model, project.index, project.storage, "there", spark=spark)
        assert (here.digest, here.adapted) == (there.digest, ())

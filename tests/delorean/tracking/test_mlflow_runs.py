from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from declaring_project import OLD, Folder, capture, shown
from mlflow_server import mlflow_server

from delorean.cli.commands import cli
from delorean.packaging.package import ModelPackage
from delorean.tracking import TrackedRun, mlflow_runs, track_package, track_trained
from schemas.errors import TrackingError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

from company import MODULES, train_company, write_company


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_company(tmp_path_factory.mktemp("packages") / "company", train_company())


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[str]:
    with mlflow_server(server_folder) as uri:
        yield uri


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(server)


@pytest.fixture(scope="module")
def run(package: ModelPackage, server: str) -> TrackedRun:
    return track_package(package, server, "homepage", MODULES)


def test_a_run_has_the_metrics_the_lineage_and_the_report(
    package: ModelPackage, run: TrackedRun, client: Any, tmp_path: Path
) -> None:
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    measured = package.report.metrics["model"]["test"]
    assert stored.data.metrics["model/test/ndcg_at_10"] == measured.ndcg_at_10
    assert stored.data.metrics["importance/listed"] == package.report.importances["listed"]
    assert stored.data.tags["delorean.digest"] == package.digest
    report = json.loads(Path(client.download_artifacts(run.run_id, "report.json", str(tmp_path))).read_text())
    assert report["metrics"]["model"]["test"]["ndcg@10"] == measured.ndcg_at_10


def test_the_stored_model_scores_as_the_package_does_and_holds_no_pickle(
    package: ModelPackage, run: TrackedRun, server: str, server_folder: Path
) -> None:
    import mlflow

    mlflow.set_tracking_uri(server)
    model = mlflow.pyfunc.load_model(run.model_uri)
    frame = pd.DataFrame(package.golden.features, columns=list(package.features))
    frame.insert(0, "unused", 1.0)
    scores = model.predict(frame[["unused", *reversed(package.features)]])
    assert np.array_equal(scores.view(np.uint32), package.golden.scores.view(np.uint32))
    files = {path.name for path in server_folder.rglob("*") if path.is_file()}
    assert {"model.onnx", "packaged_model.py"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_a_package_is_recorded_once(package: ModelPackage, run: TrackedRun, server: str, client: Any) -> None:
    assert track_package(package, server, "homepage", MODULES) == run
    assert track_package(package, server, "other", MODULES) != run
    experiment = client.get_experiment_by_name("homepage").experiment_id
    assert len(client.search_runs([experiment])) == 1


def test_a_run_whose_files_cannot_be_stored_is_shown_as_failed_and_can_be_repeated(
    package: ModelPackage, server: str, server_folder: Path, client: Any
) -> None:
    experiment = client.create_experiment("blocked")
    place = server_folder / "files" / experiment
    place.write_bytes(b"")  # where the folder of its files would be
    with pytest.raises(TrackingError, match=r"did not record the package: .* → check the server"):
        track_package(package, server, "blocked", MODULES)
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    place.unlink()
    again = track_package(package, server, "blocked", MODULES)
    assert client.get_run(again.run_id).info.status == "FINISHED"


def test_a_server_that_does_not_answer_is_named_without_its_password(package: ModelPackage) -> None:
    with pytest.raises(TrackingError, match=r"MLflow at http://.*127\.0\.0\.1:9 did not record") as raised:
        track_package(package, "http://me:hunter2@127.0.0.1:9", "homepage")
    assert "hunter2" not in str(raised.value)


def test_a_server_that_accepts_and_never_answers_is_given_up_after_one_request(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(TrackingError, match="did not record the package"):
            track_package(package, f"http://127.0.0.1:{silent.getsockname()[1]}", "homepage")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # no other connection: nothing was tried again
            silent.accept()


def test_a_package_is_kept_with_one_warning_where_its_server_is_down(
    package: ModelPackage, caplog: pytest.LogCaptureFixture
) -> None:
    assert track_trained(package, "http://me:hunter2@127.0.0.1:9", "homepage") is None
    (warning,) = (record.getMessage() for record in caplog.records if record.name.startswith("delorean"))
    assert str(package.path) in warning
    assert "then run delorean track" in warning
    assert "hunter2" not in warning


def test_training_records_its_package_where_the_project_names_a_server(
    server: str, tmp_path: Path, client: Any
) -> None:
    folder = Folder(tmp_path, "tracked_encoders")
    try:
        with folder.open() as project:
            capture(project, OLD, [((p,), 0, [{"video_id": p % 3, "minutes": 1.0 + p}]) for p in range(12)], "run")
            shown(project)
            project.generate("spec")
        config = tmp_path / "delorean.toml"
        config.write_text(config.read_text() + f'[tracking]\nmlflow = "{server}"\n')
        command = ["train", str(tmp_path / "spec.toml"), "--package", str(tmp_path / "first")]
        ran = CliRunner().invoke(cli, [*command, "--config", str(config), "--json"])
        assert ran.exit_code == 0, ran.output
        stored = client.get_run(json.loads(ran.stdout)["tracked"])
        assert stored.data.params["model/parameters/max_depth"] == "2"
        with folder.open() as project:
            digest = project.package("spec", "second").digest
        config.write_text(config.read_text().replace(server, "http://127.0.0.1:9"))
        command = ["train", str(tmp_path / "spec.toml"), "--package", str(tmp_path / "third")]
        ran = CliRunner().invoke(cli, [*command, "--config", str(config), "--json"])
        assert (ran.exit_code, json.loads(ran.stdout)["tracked"]) == (0, None), ran.output
        assert (tmp_path / "third" / "MANIFEST.json").is_file()
        runs = client.search_runs([client.get_experiment_by_name("spec").experiment_id])
        assert {run.data.tags["delorean.digest"] for run in runs} >= {digest, stored.data.tags["delorean.digest"]}
    finally:
        folder.forget()


def test_the_command_records_a_package(package: ModelPackage, server: str, tmp_path: Path, client: Any) -> None:
    config = tmp_path / "delorean.toml"
    config.write_text(f'encoders = ["{MODULES[0]}"]\n[tracking]\nmlflow = "{server}"\n')
    ran = CliRunner().invoke(
        cli, ["track", str(package.path), "--experiment", "by hand", "--config", str(config), "--json"]
    )
    assert ran.exit_code == 0, ran.output
    shown = json.loads(ran.stdout)
    assert client.get_run(shown["run"]).data.tags["delorean.digest"] == package.digest
    assert re.fullmatch("runs:/[0-9a-f]{32}/model", shown["model"])


def test_the_command_needs_a_server(package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "delorean.toml").write_text("")
    ran = CliRunner().invoke(cli, ["track", str(package.path), "--config", str(tmp_path / "delorean.toml")])
    assert ran.exit_code == 2
    assert "no tracking server: give --server" in ran.output


def test_mlflow_reports_to_nobody() -> None:
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()

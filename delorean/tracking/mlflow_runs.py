"""Records packages as runs of MLflow: parameters, metrics, lineage, and the package as a model that scores."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from delorean.packaging.package import ModelPackage
from delorean.tasks.task_set import TASK_VARIABLE
from encoders.feature_model import LIBRARY
from schemas.errors import SetupError, TrackingError
from schemas.plain_text import plain_text
from schemas.redaction import without_password

_LOG = logging.getLogger(__name__)

_MODEL_CODE = Path(__file__).with_name("packaged_model.py")
_DIGEST = "delorean.digest"
_LONGEST_VALUE = 500  # characters of a parameter; the whole spec is an artifact
_AT_ONCE = 100  # parameters: MLflow takes no more in one request
_ANSWER_SECONDS = 3.0  # a server that does not answer within them is down: a training does not wait for its retries
# Set where the user has not: by default MLflow waits four minutes for a server that is down, and prints to stdout.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class TrackedRun:
    """A run of MLflow. model_uri: what `mlflow.pyfunc.load_model` takes."""

    run_id: str
    experiment: str

    @property
    def model_uri(self) -> str:
        """The package as a model: `mlflow.pyfunc.load_model(run.model_uri).predict(frame)` scores."""
        return f"runs:/{self.run_id}/model"


def track_package(
    package: ModelPackage, server: str, experiment: str, modules: Sequence[str] = (LIBRARY,)
) -> TrackedRun:
    """Record a package as a run: the spec as parameters, the report's metrics, lineage as tags, the files as a model.

    server: the URI of an MLflow tracking server
    experiment: of MLflow; it is created where it does not exist
    modules: that the package's encoders may be imported from when MLflow loads it

    A package that is recorded already is not recorded again. Raises TrackingError where the server does not answer or
    rejects the run, SetupError where MLflow's client is not installed.
    """
    client = _client(server)
    with _errors_of(server):
        _require_answer(server)
        folder = _experiment_id(client, experiment)
        recorded = client.search_runs(
            [folder], f"tags.`{_DIGEST}` = '{package.digest}' AND attributes.status = 'FINISHED'", max_results=1
        )
        if recorded:
            return TrackedRun(recorded[0].info.run_id, experiment)
        run = client.create_run(folder, run_name=package.path.name, tags=_tags(package)).info.run_id
        try:
            _log(client, run, package, modules)
        except BaseException:  # of any kind: the server must not show a run that goes on for ever
            client.set_terminated(run, "FAILED")
            raise
        client.set_terminated(run, "FINISHED")
    return TrackedRun(run, experiment)


def track_trained(
    package: ModelPackage, server: str, experiment: str, modules: Sequence[str] = (LIBRARY,)
) -> TrackedRun | None:
    """Record a package that was just trained, or log a warning and return None where the server does not record it."""
    try:
        return track_package(package, server, experiment, modules)
    except TrackingError as error:
        _LOG.warning("the package %s is complete, but %s", package.path, error)
        return None


def _client(server: str) -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise SetupError.because(
            "MLflow's client is not installed", "pip install 'delorean-features[tracking]'"
        ) from error
    return MlflowClient(tracking_uri=server)


def _require_answer(server: str) -> None:
    """Raise an OSError where a server does not answer one request. What it answers is left to MLflow."""
    import requests  # MLflow's client needs it

    if server.startswith(("http://", "https://")):
        try:
            requests.get(f"{server.rstrip('/')}/health", timeout=_ANSWER_SECONDS, allow_redirects=False)
        except requests.exceptions.SSLError:
            _LOG.debug("the server answers, and MLflow may be told how to trust it")
        except requests.exceptions.RequestException as error:
            raise ConnectionError("it does not answer") from error


def _experiment_id(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    existing = client.get_experiment_by_name(name)
    if existing is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another process may have created it meanwhile
            existing = client.get_experiment_by_name(name)
            if existing is None:
                raise
    return str(existing.experiment_id)


def _log(client: Any, run: str, package: ModelPackage, modules: Sequence[str]) -> None:
    from mlflow.entities import Metric, Param
    from mlflow.utils.time import get_current_time_millis

    spec = package.lineage.get("spec") or {}
    parameters = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in flat_fields(spec).items()]
    for first in range(0, len(parameters), _AT_ONCE):
        client.log_batch(run, params=parameters[first : first + _AT_ONCE])
    now = get_current_time_millis()
    report = msgspec.to_builtins(package.report)
    values = {**flat_fields(report["metrics"]), **flat_fields({"importance": report["importances"]})}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    client.log_batch(run, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])
    client.log_dict(run, dict(spec), "spec.json")
    client.log_dict(run, report, "report.json")
    with tempfile.TemporaryDirectory(prefix="delorean-") as folder:
        model = Path(folder) / "model"
        _save_model(package, model, modules)
        client.log_artifacts(run, str(model), "model")


def _save_model(package: ModelPackage, folder: Path, modules: Sequence[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about types of its own, and an example that the signature replaces
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import ColSpec, Schema

        columns = [ColSpec("float", name, required=False) for name in package.columns]
        inputs = Schema(columns if package.tasks is None else [*columns, ColSpec("string", TASK_VARIABLE)])
        save_model(
            folder,
            python_model=str(_MODEL_CODE),
            artifacts={"package": str(package.path.absolute())},
            model_config={"modules": list(modules)},
            signature=ModelSignature(inputs, Schema([ColSpec("float")])),
            # Named, because MLflow would start a process to guess them.
            pip_requirements=[f"delorean-features=={version('delorean-features')}"],
        )


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return each plain value under its path, in the characters that MLflow's names may have.

    >>> flat_fields({"model": {"test": {"ndcg@10": 0.5}}, "encoders": [{"encoder": "a:b"}]})
    {'model/test/ndcg_at_10': 0.5, 'encoders/0/encoder': 'a:b'}
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inner, Mapping):
            below = flat_fields({str(key): each for key, each in inner.items()})
            flat |= {f"{_plain(name)}/{path}": each for path, each in below.items()}
        else:
            flat[_plain(name)] = value
    return flat


def _plain(name: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-. :") else "_" for c in name.replace("@", "_at_"))
    return "_" if plain in ("", ".", "..") else plain


def _tags(package: ModelPackage) -> dict[str, str]:
    features, labels = package.lineage.get("feature_set", {}), package.lineage.get("label_data", {})
    return {
        _DIGEST: package.digest,
        "delorean.spec": str(package.lineage.get("spec_hash")),
        "delorean.package": str(package.path),
        "delorean.feature_model": package.feature_model.fingerprint,
        "delorean.feature_set": without_password(f"{features.get('uri')}, version {features.get('version')}"),
        "delorean.labels": str(labels.get("id")),
    }


@contextmanager
def _errors_of(server: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        reason = plain_text(without_password(str(error).partition("\n")[0]))[:200]
        raise TrackingError.because(
            f"MLflow at {without_password(server)} did not record the package: {reason}",
            "check the server, then run delorean track",
        ) from error

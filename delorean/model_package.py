"""Model packages: a model with all that is needed to serve it and to prove that it is served right.

A package is a folder of ONNX, JSON and Arrow. Loading one verifies every byte and runs no code that it brings: encoders
are those of this installation, and must be the ones that the model was trained with.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numpy as np
from numpy.typing import NDArray

from delorean.golden_rows import (
    GoldenRows,
    read_data_maps,
    read_expected,
    select_contexts,
    write_data_maps,
    write_expected,
)
from delorean.package_files import new_folder, read_files, read_json, write_json
from delorean.training.onnx_scorer import OnnxScorer
from delorean.training.report import TrainingReport
from encoders import FeatureModel
from encoders.bound_model import BoundModel
from encoders.data_map import DataMaps
from schemas.data_keys import DataKey, Kind
from schemas.errors import DeloreanError, PackageError
from schemas.services import Service

if TYPE_CHECKING:
    from delorean.training import TrainedModel

_DISTRIBUTIONS = ("delorean-features", "numpy", "numba", "pyarrow", "scikit-learn", "skl2onnx", "onnxruntime")
_OTHER_MACHINE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from.

    label_data, feature_set: what names them: path, version, checksum
    snapshot_runs: service → ids of the runs that its data came from
    global_versions: global element → ids of its versions
    spec_hash: of the experiment
    """

    label_data: Mapping[str, Any]
    feature_set: Mapping[str, Any]
    snapshot_runs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    global_versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    spec_hash: str | None = None


@dataclass(frozen=True)
class ModelPackage:
    """A model ready to serve.

    context, items: the variables of its contexts and items
    services: the services whose elements its encoders read
    lineage: what was given, the feature model's fingerprint, versions of libraries, and the machine
    """

    path: Path
    feature_model: FeatureModel
    bound: BoundModel
    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    services: tuple[Service, ...]
    golden: GoldenRows
    report: TrainingReport
    lineage: Mapping[str, Any]
    scorer: OnnxScorer

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of the model's input."""
        return self.feature_model.features

    def score(self, features: Mapping[str, NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Score items; an item's score has the same bits whichever others are scored with it.

        features: name → (items,) as encoders give them, or (items, features) in the order of `features`
        """
        return self.scorer.score(features if isinstance(features, np.ndarray) else matrix(self.features, features))

    def check_golden_rows(self) -> None:
        """Raise GoldenRowsError, naming the row and the feature, unless the golden rows come out as packaged.

        Features must agree in every bit. So must scores with the same onnxruntime on the same kind of processor; else
        they may differ by one millionth, for another one's matrix product may sum in another order.
        """
        found = matrix(self.features, self.bound.encode(self.golden.maps))
        self.golden.check_features(self.features, found)
        here = _versions()
        same = all(self.lineage["versions"].get(name) == here[name] for name in ("onnxruntime", "processor"))
        self.golden.check_scores(self.score(self.golden.features), 0.0 if same else _OTHER_MACHINE_TOLERANCE)


def write_package(
    path: str | Path,
    trained: TrainedModel,
    feature_model: FeatureModel,
    context: Sequence[DataKey],
    items: Sequence[DataKey],
    services: Sequence[Service],
    golden: DataMaps,
    lineage: Lineage,
    *,
    golden_contexts: int = 32,
    modules: Sequence[str] = ("encoders.library",),
) -> ModelPackage:
    """Write a package: it appears under its name only when it has been loaded and has reproduced its golden rows.

    context, items: the variables that the feature model is bound to
    services: at least those whose elements the encoders read
    golden: data maps to take golden rows from, spread evenly over them
    modules: where the encoders may come from, when loaded

    Raises PackageError: something has that name, the model is not of these features, its ONNX form scores otherwise.
    """
    from delorean.training.onnx_model import refuse_disagreement  # needs scikit-learn, which servers do without

    if trained.names != feature_model.features:
        raise PackageError.because(
            f"the model was trained with {list(trained.names)}, but the feature model yields "
            f"{list(feature_model.features)}",
            "train with read_feature_set(…, features=feature_model.features, …)",
        )
    bound = feature_model.bind(context, items)
    maps = select_contexts(golden, _spread(len(golden), golden_contexts))
    features = matrix(trained.names, bound.encode(maps))
    scorer = OnnxScorer(trained.onnx)
    refuse_disagreement(scorer, trained.fitted, features)
    said = {**vars(lineage), "feature_model": feature_model.fingerprint, "versions": _versions()}
    files = {
        "model.onnx": trained.onnx,
        "feature_model.json": feature_model.to_json().encode(),
        "keys.json": write_json({"context": [k.to_json() for k in context], "items": [k.to_json() for k in items]}),
        "services.json": write_json([service.to_json() for service in _needed(feature_model, services)]),
        "metrics.json": write_json(trained.report.to_json()),
        "lineage.json": write_json(said),
        "golden/data_maps.arrow": write_data_maps(maps),
        "golden/expected.arrow": write_expected(features, scorer.score(features)),
    }
    path = Path(path)
    with new_folder(path, files) as written:
        package = load_package(written, modules=modules)
        package.check_golden_rows()
    return replace(package, path=path)


def load_package(path: str | Path, *, modules: Sequence[str] = ("encoders.library",)) -> ModelPackage:
    """Load a package.

    modules: prefixes of the modules that encoders may be imported from; never from the package

    Raises PackageError that names the file which is missing, unexpected, changed, too large or malformed, and
    FingerprintError for encoders other than those of the training.
    """
    path = Path(path)
    files = read_files(path)
    feature_model = FeatureModel.from_json(files["feature_model.json"].decode(), modules=tuple(modules))
    keys, services, metrics, lineage = (
        read_json(name, files[name]) for name in ("keys.json", "services.json", "metrics.json", "lineage.json")
    )
    try:
        context, items = (tuple(DataKey.from_json(key) for key in keys[part]) for part in ("context", "items"))
        known = tuple(Service.from_json(service) for service in services)
        report = TrainingReport.from_json(metrics)
        lineage["versions"].items()
    except (KeyError, TypeError, ValueError, AttributeError, DeloreanError) as error:
        problem = f"keys.json, services.json, metrics.json or lineage.json of {path} is malformed: {error!r}"
        raise PackageError.because(problem, "package the model again") from error
    scorer = OnnxScorer(files["model.onnx"])
    if scorer.features != len(feature_model.features):
        raise PackageError.because(
            f"model.onnx takes {scorer.features} features, feature_model.json yields {len(feature_model.features)}"
        )
    maps = read_data_maps("golden/data_maps.arrow", files["golden/data_maps.arrow"])
    expected = read_expected("golden/expected.arrow", files["golden/expected.arrow"], scorer.features)
    if len(expected[0]) != maps.items.num_rows or len(maps) == 0:
        raise PackageError.because(f"golden/expected.arrow of {path} has {len(expected[0])} rows, its data maps differ")
    bound = feature_model.bind(context, items)
    golden = GoldenRows(maps, *expected)
    needed = _needed(feature_model, known)
    return ModelPackage(path, feature_model, bound, context, items, needed, golden, report, lineage, scorer)


def matrix(names: Sequence[str], features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Put features side by side: (items, features), in the order of `names`."""
    return np.stack([features[name] for name in names], axis=1)


def _needed(feature_model: FeatureModel, services: Sequence[Service]) -> tuple[Service, ...]:
    """Give the service of each service element that encoders read."""
    by_element = {service.element.name: service for service in services}
    needed = []
    for name, key in feature_model.elements.items():
        if key.kind is Kind.SERVICE_ELEMENT:
            if name not in by_element:
                raise PackageError.unknown("service for data element", name, by_element)
            if by_element[name].element != key:
                raise PackageError.because(
                    f"service '{by_element[name].name}' answers with {by_element[name].element.type}, encoders read "
                    f"'{name}' as {key.type}"
                )
            needed.append(by_element[name])
    return tuple(needed)


def _spread(contexts: int, wanted: int) -> NDArray[np.int64]:
    if contexts == 0 or wanted < 1:
        raise PackageError.because(f"{wanted} golden rows of {contexts} contexts", "give data maps of some contexts")
    return np.unique(np.linspace(0, contexts - 1, min(contexts, wanted)).astype(np.int64))


def _versions() -> dict[str, str]:
    """What a model's numbers may depend on."""
    return {
        "python": platform.python_version(),
        "processor": str(llvmlite.binding.get_host_cpu_name()),
        **{name: version(name) for name in _DISTRIBUTIONS},
    }

"""Reads the parts of a package that must not be trusted: encoders' names, and files that unpack to any size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from delorean.packaging.files import read_json
from delorean.packaging.golden_rows import open_arrow
from delorean.packaging.trial import MODEL, try_package
from delorean.scoring.onnx_rules import check_model
from encoders import FeatureModel
from schemas.errors import DataKeyError, EncoderError, FingerprintError, PackageError


def read_feature_model(data: bytes, modules: tuple[str, ...], allow: Collection[str]) -> FeatureModel:
    """Import the encoders that a package names. Raises PackageError, and FingerprintError for changed encoders.

    allow: fingerprints of encoders whose packaged source may be executed where the installed ones are others
    """
    read_json("feature_model.json", data)
    try:
        return FeatureModel.from_json(data.decode(), modules, allow)
    except FingerprintError:
        raise
    except (EncoderError, DataKeyError) as error:
        raise PackageError.because(f"feature_model.json: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackageError.because(f"feature_model.json is malformed: {error!r}", "package the model again") from error


def refuse_excess(path: Path, files: Mapping[str, bytes], width: int) -> None:
    """Raise PackageError for a model or golden rows that cannot be loaded in bounded memory and time."""
    check_model(files[MODEL])
    golden = {name: data for name, data in files.items() if name.endswith(".arrow")}
    for name, data in golden.items():
        open_arrow(name, data)
    problem = try_package({MODEL: files[MODEL], **golden}, width)
    if problem is not None:
        raise PackageError.because(f"the package {path} cannot be loaded: {problem}", "package the model again")

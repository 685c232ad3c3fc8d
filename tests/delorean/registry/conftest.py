"""Registries in both kinds of storage, and packages to put in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_once import made_once

from delorean.registry.registry import Registry
from snapshotter.storage import Storage, open_storage

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above

STORAGES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "local": lambda request: f"file://{request.getfixturevalue('tmp_path')}/data",
    "s3": lambda request: request.getfixturevalue("s3").new_uri(),
}


def _write_packages(folder: Path) -> list[Path]:
    """Write three packages of one model, of experiments `homepage`, `homepage` and one without a name."""
    trained = company.train_company()
    paths = []
    for number, spec in enumerate([{"name": "homepage"}, {"name": "homepage", "seed": 1}, None]):
        lineage = company.Lineage(
            {"id": f"labels-{number}", "files": {}},
            {"uri": "file:///x/feature_sets/homepage", "version": number},
            spec_hash=f"hash-{number}",
            spec=spec,
        )
        paths.append(
            company.write_package(
                folder / f"package-{number}",
                trained,
                company.MODEL,
                company.CONTEXT,
                company.ITEMS,
                company.SERVICES,
                company.data_maps(range(8)),
                lineage,
                golden_contexts=4,
                modules=company.MODULES,
            ).path
        )
    return paths


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made: list[Path] = made_once("registered packages", _write_packages, tmp_path_factory)
    return made


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> Storage:
    return open_storage(STORAGES[request.param](request))


@pytest.fixture
def registry(storage: Storage, tmp_path: Path) -> Registry:
    return Registry(storage, company.MODULES, cache=tmp_path / "cache")

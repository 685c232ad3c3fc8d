"""Packages of LightGBM's and XGBoost's trees: exact, loaded without those libraries, rejected where forged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delorean.packaging.files import MANIFEST, write_json
from delorean.packaging.package import ModelPackage, load_package
from delorean.packaging.tree_checks import refuse_inexact_trees
from delorean.packaging.tree_file import TREES, read_trees, write_trees
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.trees_onnx import trees_to_onnx
from delorean.training.fitting import TrainedModel, train
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.xgboost import XGBoost
from schemas.errors import PackageError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above

LEARNERS = {
    "lightgbm": lambda: LightGBM("lambdarank", {"num_leaves": 7}, rounds=20, threads=1),
    "xgboost": lambda: XGBoost("rank:ndcg", {"max_depth": 3}, rounds=20, threads=1),
}


@pytest.fixture(scope="module", params=sorted(LEARNERS))
def trained(request: pytest.FixtureRequest) -> TrainedModel:
    return train(company.ranking_data(), model=LEARNERS[request.param]())


@pytest.fixture(scope="module")
def package(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return company.write_company(tmp_path_factory.mktemp("packages") / "company", trained)


def test_a_package_scores_with_the_bits_of_its_learner_and_of_its_onnx(
    package: ModelPackage, trained: TrainedModel
) -> None:
    loaded = load_package(package.path, modules=company.MODULES)
    loaded.check_golden_rows()
    rows = company.ranking_data().features
    scores = loaded.score(rows)
    assert len(np.unique(scores)) > 10
    assert (scores == trained.reference(rows).astype(np.float32)).all()
    assert (scores == OnnxScorer((package.path / "model.onnx").read_bytes()).score(rows)).all()
    library = trained.report.model.split()[0].lower()
    assert loaded.lineage["versions"][library] == sys.modules[library].__version__


WITHOUT = """
import sys
for name in ("lightgbm", "xgboost", "sklearn", "skl2onnx"):
    sys.modules[name] = None  # an import of it is an error
sys.path.insert(0, sys.argv[2])
from delorean.packaging.package import load_package
from delorean.scoring import rank_kernels, tree_kernels
package = load_package(sys.argv[1], modules=("company_encoders",))
package.check_golden_rows()
kernels = [value for each in (rank_kernels, tree_kernels) for value in vars(each).values() if hasattr(value, "stats")]
used = sorted(kernel.py_func.__name__ for kernel in kernels if kernel.signatures)
compiled = [kernel.py_func.__name__ for kernel in kernels if kernel.stats.cache_misses]
print(*used, compiled)
"""


def test_serving_needs_no_learner_and_compiles_nothing_that_an_earlier_process_has_compiled(
    package: ModelPackage,
) -> None:
    command = [sys.executable, "-c", WITHOUT, str(package.path), str(Path(company.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "fill_block rank_block score_ranks walk_trees []\n"), done.stderr


def forged(package: ModelPackage, folder: Path, trees: bytes) -> Path:
    copy = Path(shutil.copytree(package.path, folder))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / TREES).write_bytes(trees)
    manifest["files"][TREES] = {"sha256": hashlib.sha256(trees).hexdigest(), "bytes": len(trees)}
    (copy / MANIFEST).write_bytes(write_json(manifest))
    return copy


def test_forged_trees_are_a_package_error(package: ModelPackage, tmp_path: Path) -> None:
    content = (package.path / TREES).read_bytes()
    trees = read_trees(TREES, content, 4)
    other = replace(trees, leaf_values=trees.leaf_values[::-1].copy())
    cases = [b"", b"trees", content[: len(content) // 2], content[:-9], write_trees(replace(trees, features=5))]
    random = np.random.default_rng(0)
    for _ in range(12):
        broken = bytearray(content)
        for place in random.integers(0, len(content), 3):
            broken[place] ^= 1 << int(random.integers(8))
        cases.append(bytes(broken))
    for number, case in enumerate([*cases, write_trees(other)]):
        folder = forged(package, tmp_path / str(number), case)
        try:
            load_package(folder, modules=company.MODULES).check_golden_rows()
        except PackageError:
            continue
        assert read_trees(TREES, case, 4) == trees  # a changed byte may be one that Arrow does not read


def test_trees_or_onnx_that_are_nearly_the_learners_are_not_packaged(trained: TrainedModel) -> None:
    features = company.ranking_data().features[:20]
    trees = trained.trees
    assert trees is not None
    refuse_inexact_trees(trees, trained, features, "used")
    used = int(np.bincount(trees.feature).argmax())
    threshold = trees.threshold.copy()
    place = int(np.flatnonzero(trees.feature == used)[0])
    threshold[place] = np.nextafter(threshold[place], np.float32(np.inf))
    nearly: Any = replace(trees, threshold=threshold)
    with pytest.raises(PackageError, match="the trees disagree with the learner in .* rows on or beside thresholds"):
        refuse_inexact_trees(nearly, replace(trained, onnx=trees_to_onnx(nearly)), features, "used")
    with pytest.raises(PackageError, match="the trees disagree with their ONNX form"):
        refuse_inexact_trees(trees, replace(trained, onnx=trees_to_onnx(nearly)), features, "used")

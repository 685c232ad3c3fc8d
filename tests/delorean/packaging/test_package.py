from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from delorean.packaging.files import FILES, MANIFEST, write_json
from delorean.packaging.golden_rows import (
    read_data_maps,
    read_expected,
    take_contexts,
    write_data_maps,
    write_expected,
)
from delorean.packaging.package import ModelPackage, load_package, matrix
from delorean.packaging.writing import write_package
from delorean.state.rules import AsOf
from delorean.training.fitting import TrainedModel
from delorean.training.onnx_model import to_onnx
from encoders import FeatureModel
from schemas.errors import FingerprintError, GoldenRowsError, PackageError

sys.path.insert(0, str(Path(__file__).parents[1] / "company"))  # its encoders are imported by their module's name

import company  # found through the line above
from company_encoders import listed, popularity, watched


@pytest.fixture(scope="module")
def trained_company() -> TrainedModel:
    return company.train_company()


@pytest.fixture(scope="module")
def company_package(trained_company: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return company.write_company(tmp_path_factory.mktemp("packages") / "company", trained_company)


@pytest.fixture
def copied(company_package: ModelPackage, tmp_path: Path) -> Path:
    return Path(shutil.copytree(company_package.path, tmp_path / "copied"))


def reseal(folder: Path, changed: dict[str, bytes]) -> None:
    """Change files and write their checksums too: what a careful forger would do."""
    import hashlib

    manifest = json.loads((folder / MANIFEST).read_text())
    for name, data in changed.items():
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / MANIFEST).write_bytes(write_json(manifest))


def load(path: Path) -> ModelPackage:
    return load_package(path, modules=company.MODULES)


def test_a_package_is_loaded_as_it_was_written(company_package: ModelPackage, trained_company: TrainedModel) -> None:
    package = load(company_package.path)
    assert package.features == ("minutes", "days_since", "listed", "popularity")
    assert [service.name for service in package.services] == ["viewing_history", "my_list"]
    assert (package.context, package.items) == (tuple(company.CONTEXT), tuple(company.ITEMS))
    assert package.report == trained_company.report
    assert package.lineage["snapshot_runs"] == {"my_list": ["run-1"]}
    assert package.lineage["feature_model"] == company.MODEL.fingerprint
    assert package.lineage["versions"]["onnxruntime"]
    assert len(package.golden.maps) == 12
    package.check_golden_rows()


def test_golden_data_maps_are_the_given_ones(company_package: ModelPackage) -> None:
    whole = company.data_maps(range(company.PROFILES))
    rows = np.linspace(0, company.PROFILES - 1, 12).astype(np.int64)
    assert [company_package.golden.maps.data_map(i) for i in range(12)] == [whole.data_map(int(r)) for r in rows]


def test_absent_elements_stay_absent_and_others_are_not_carried_along() -> None:
    maps = company.data_maps([3, 5, 7])
    few = take_contexts(maps, np.array([0, 2]))
    kept = read_data_maps("f", write_data_maps(few))
    assert kept.data_map(0)["viewing_history"] is None
    assert kept.data_map(1) == maps.data_map(2)
    assert len(kept.elements["viewing_history"].values) == 1
    nothing = read_data_maps("f", write_data_maps(take_contexts(maps, np.array([0]))))
    assert len(nothing.elements["viewing_history"].values) == 0


def test_an_items_score_has_the_same_bits_alone_and_among_many(company_package: ModelPackage) -> None:
    found = company_package.bound.encode(company.data_maps(range(20)))
    together = company_package.score(found)
    rows = matrix(company_package.features, found)
    alone = np.concatenate([company_package.score(rows[i : i + 1]) for i in range(100)])
    assert (alone.view(np.uint32) == together[:100].view(np.uint32)).all()


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    company_package: ModelPackage, trained_company: TrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(PackageError, match="already exists → packages are never overwritten"):
        company.write_company(company_package.path, trained_company)
    other = FeatureModel([watched, popularity, listed])
    with pytest.raises(PackageError, match="model was trained with"):
        write_package(
            tmp_path / "p", trained_company, other, company.CONTEXT, company.ITEMS, [], company.data_maps([1]), None
        )  # type: ignore[arg-type]
    unlike = replace(
        trained_company, fitted=trained_company.fitted.__class__(max_iter=1).fit([[0.0] * 4] * 9, [0, 1, 1] * 3)
    )
    with pytest.raises(PackageError, match="disagrees"):
        company.write_company(tmp_path / "p", unlike)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_load_gets_no_name(trained_company: TrainedModel, tmp_path: Path) -> None:
    lineage: Any = company.Lineage({}, {})
    with pytest.raises(PackageError, match="unknown service for data element 'my_list'"):
        write_package(
            tmp_path / "p",
            trained_company,
            company.MODEL,
            company.CONTEXT,
            company.ITEMS,
            company.SERVICES[:1],
            company.data_maps([1]),
            lineage,
            modules=company.MODULES,
        )
    with pytest.raises(PackageError, match="32 golden rows of 0 contexts"):
        write_package(
            tmp_path / "p",
            trained_company,
            company.MODEL,
            company.CONTEXT,
            company.ITEMS,
            company.SERVICES,
            take_contexts(company.data_maps([1]), np.array([], dtype=np.int64)),
            lineage,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_takes_no_missing_values_is_refused_where_an_absent_service_makes_some(
    trained_company: TrainedModel, tmp_path: Path
) -> None:
    rows = np.nan_to_num(
        matrix(
            company.MODEL.features,
            company.MODEL.bind(company.CONTEXT, company.ITEMS).encode(company.data_maps(range(8))),
        )
    )
    fitted = LogisticRegression().fit(rows, np.arange(len(rows)) % 2)
    unlike = replace(trained_company, fitted=fitted, onnx=to_onnx(fitted, 4))
    with pytest.raises(PackageError, match="accepts no missing values, and .*'minutes'.* put an imputer before it"):
        company.write_company(tmp_path / "p", unlike)
    assert list(tmp_path.iterdir()) == []


def test_a_packaged_model_that_takes_no_missing_values_says_so_when_it_scores(company_package: ModelPackage) -> None:
    refusing = replace(
        company_package, report=msgspec.structs.replace(company_package.report, missing_values="refused")
    )
    rows = np.zeros((3, 4), dtype=np.float32)
    assert len(refusing.score(rows)) == 3
    rows[1, 2] = np.nan
    with pytest.raises(PackageError, match="accepts no missing values, and 'listed' is missing in 1 of 3 rows"):
        refusing.score(rows)
    assert len(company_package.score(rows)) == 3


class Bomb:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (Bomb.trace,)

    trace = ""


@pytest.mark.parametrize("name", ["model.pkl", "encoders.py", "golden/more.arrow", "__init__.py"])
def test_a_planted_file_is_refused_and_never_run(copied: Path, tmp_path: Path, name: str) -> None:
    Bomb.trace = str(tmp_path / "exploded")
    planted = f"import os; os.mkdir({Bomb.trace!r})".encode() if name.endswith(".py") else pickle.dumps(Bomb())
    (copied / name).write_bytes(planted)
    with pytest.raises(PackageError, match=f"'{name}' of .* is not a file of a model package"):
        load(copied)
    (copied / name).unlink()
    reseal(copied, {"model.onnx": pickle.dumps(Bomb())})
    with pytest.raises(PackageError):
        load(copied)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_or_missing_file_is_named(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(PackageError, match=f"'{name}' of .* its checksum differs"):
        load(copied)
    (copied / name).unlink()
    with pytest.raises(PackageError, match=f"'{name}' of .* is missing"):
        load(copied)


def test_links_and_paths_out_of_the_folder_are_refused(copied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    shutil.move(copied / "services.json", outside)
    (copied / "services.json").symlink_to(outside)
    with pytest.raises(PackageError, match=r"'services.json' of .* is a link"):
        load(copied)
    (copied / "services.json").unlink()
    shutil.move(outside, copied / "services.json")
    load(copied)
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["files"]["../outside.json"] = manifest["files"]["services.json"]
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"lists '\.\./outside\.json', which is not a file of a model package"):
        load(copied)


def test_a_linked_folder_and_a_pipe_are_refused(copied: Path, tmp_path: Path) -> None:
    shutil.move(copied / "golden", tmp_path / "golden")
    (copied / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(PackageError, match="'golden' of .* is a link"):
        load(copied)
    (copied / "golden").unlink()
    shutil.move(tmp_path / "golden", copied / "golden")
    (copied / "metrics.json").unlink()
    os.mkfifo(copied / "metrics.json")
    with pytest.raises(PackageError, match=r"'metrics.json' of .* is not a regular file"):
        load(copied)


def test_wrong_manifests_are_refused(copied: Path, tmp_path: Path) -> None:
    good = json.loads((copied / MANIFEST).read_text())
    fewer = {**good, "files": {name: entry for name, entry in good["files"].items() if name != "keys.json"}}
    for manifest, message in [
        ("{", "'MANIFEST.json' is not JSON"),
        ("[" * 100_000, "'MANIFEST.json' is not JSON"),
        ("[]", "MANIFEST.json has the format"),
        (json.dumps({**good, "version": 2}), "'version': 2.*expected .*'version': 1"),
        (json.dumps({**good, "files": 3}), "lists no files"),
        (json.dumps(fewer), "does not list 'keys.json'"),
        (" " * 2_000_000, "larger than"),
    ]:
        (copied / MANIFEST).write_text(manifest)
        with pytest.raises(PackageError, match=message):
            load(copied)
    with pytest.raises(PackageError, match="no model package at"):
        load(tmp_path / "nowhere")


def test_a_resealed_package_that_makes_no_sense_is_refused(copied: Path) -> None:
    good = {name: (copied / name).read_bytes() for name in FILES}
    narrow = np.zeros((240, 3), dtype=np.float32)
    for name, data, message in [
        ("keys.json", b"{}", "keys.json"),
        ("services.json", b"[1]", "services.json"),
        ("services.json", b"[]", "unknown service"),
        ("metrics.json", b"[]", "metrics.json"),
        ("lineage.json", b"[]", "lineage.json"),
        ("lineage.json", b"{", "'lineage.json' is not JSON"),
        ("golden/data_maps.arrow", b"ARROW1", "'golden/data_maps.arrow' is not an Arrow file"),
        ("golden/data_maps.arrow", good["golden/expected.arrow"], "does not hold data maps"),
        ("golden/expected.arrow", good["golden/data_maps.arrow"], "does not hold 4 features"),
        ("golden/expected.arrow", write_expected(narrow, narrow[:, 0]), "does not hold 4 features"),
    ]:
        reseal(copied, {name: data})
        with pytest.raises(PackageError, match=message):
            load(copied)
        reseal(copied, {name: good[name]})
    load(copied)


def test_an_encoder_other_than_the_trained_one_is_refused(copied: Path) -> None:
    text = (copied / "feature_model.json").read_text()
    reseal(copied, {"feature_model.json": text.replace('"window_days": 20.0', '"window_days": 21.0').encode()})
    with pytest.raises(FingerprintError, match="company_encoders:watched"):
        load(copied)


def test_golden_rows_that_differ_name_the_row_and_the_feature(copied: Path) -> None:
    name = "golden/expected.arrow"
    features, scores = read_expected(name, (copied / name).read_bytes(), 4)
    changed = features.copy()
    changed[45, 3] = np.nextafter(changed[45, 3], np.float32(2))
    reseal(copied, {name: write_expected(changed, scores)})
    with pytest.raises(
        GoldenRowsError, match=r"golden row 45 \(profile_id 7, .*video_id \d+\): feature 'popularity' is"
    ):
        load(copied).check_golden_rows()
    worse = scores.copy()
    worse[7] = np.nextafter(worse[7], np.float32(2))
    reseal(copied, {name: write_expected(features, worse)})
    with pytest.raises(GoldenRowsError, match=r"golden row 7 \(.*\): the score is"):
        load(copied).check_golden_rows()


def forge_scores(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the expected scores of a package, and say that it was written on another kind of processor."""
    name = "golden/expected.arrow"
    features, scores = read_expected(name, (folder / name).read_bytes(), 4)
    lineage = json.loads((folder / "lineage.json").read_text())
    lineage["versions"]["processor"] = "another"
    reseal(folder, {name: write_expected(features, change(scores)), "lineage.json": write_json(lineage)})


def without_trees(folder: Path) -> None:
    """Make a package one of an earlier release."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["trees.arrow"]
    (folder / MANIFEST).write_bytes(write_json(manifest))
    (folder / "trees.arrow").unlink()


def test_onnxs_scores_may_differ_by_a_millionth_on_another_processor_but_no_more(copied: Path) -> None:
    without_trees(copied)
    forge_scores(copied, lambda scores: np.nextafter(scores, np.float32(2)))
    load(copied).check_golden_rows()
    forge_scores(copied, lambda scores: scores + np.float32(1e-4))
    with pytest.raises(GoldenRowsError, match="the score"):
        load(copied).check_golden_rows()


def test_trees_scores_must_have_the_same_bits_on_every_processor(copied: Path) -> None:
    forge_scores(copied, lambda scores: scores)
    load(copied).check_golden_rows()
    forge_scores(copied, lambda scores: np.nextafter(scores, np.float32(2)))
    with pytest.raises(GoldenRowsError, match="the score"):
        load(copied).check_golden_rows()


def test_a_package_without_trees_scores_with_onnx_as_before(copied: Path) -> None:
    trees = load(copied)
    without_trees(copied)
    onnx = load(copied)
    assert (type(trees.scorer).__name__, type(onnx.scorer).__name__) == ("TreeScorer", "OnnxScorer")
    ours, theirs = trees.score(trees.golden.features), onnx.score(trees.golden.features)
    assert (np.abs(ours - theirs) <= np.spacing(ours)).all()


def test_unknown_features_survive_the_golden_file() -> None:
    features = np.array([[np.nan, -0.0], [np.inf, 1e-45]], dtype=np.float32)
    found, scores = read_expected("f", write_expected(features, features[:, 1]), 2)
    assert (found.view(np.uint32) == features.view(np.uint32)).all()
    assert (scores.view(np.uint32) == features[:, 1].view(np.uint32)).all()


RULES = {"videos": AsOf(timedelta(days=2), timedelta(minutes=5), allow_exact=False, as_published=True)}


def written_with(path: Path, trained: TrainedModel, rules: dict[str, AsOf]) -> ModelPackage:
    lineage = company.Lineage({}, {}, rules=rules)
    golden = company.data_maps(range(4))
    return write_package(
        path, trained, company.MODEL, company.CONTEXT, company.ITEMS, company.SERVICES, golden, lineage,
        modules=company.MODULES,
    )  # fmt: skip


def test_a_package_carries_the_rules_that_its_features_were_generated_by(
    trained_company: TrainedModel, tmp_path: Path
) -> None:
    package = written_with(tmp_path / "p", trained_company, RULES)
    assert package.rules == load(tmp_path / "p").rules == {**dict.fromkeys(company.MODEL.elements, AsOf()), **RULES}


def test_a_package_without_rules_was_made_before_there_were_any_and_loads(copied: Path) -> None:
    lineage = json.loads((copied / "lineage.json").read_text())
    rules = lineage.pop("rules")
    reseal(copied, {"lineage.json": write_json(lineage)})
    assert load(copied).rules == {}
    rules["videos"]["lag_seconds"] = "soon"
    reseal(copied, {"lineage.json": write_json({**lineage, "rules": rules})})
    with pytest.raises(PackageError, match="not an as-of rule"):
        load(copied)


def test_packaging_warns_where_serving_cannot_give_what_training_saw(
    trained_company: TrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = {"my_list": AsOf(timedelta(hours=1), allow_exact=False), "videos": AsOf(lag=timedelta(hours=1))}
    written_with(tmp_path / "a", trained_company, fresh)
    assert caplog.text == ""
    written_with(tmp_path / "b", trained_company, {"my_list": AsOf(lag=timedelta(hours=1))})
    assert "trained with 'my_list' as of 1:00:00 before each label's time" in caplog.text

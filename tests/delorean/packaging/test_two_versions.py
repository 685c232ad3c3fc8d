"""Two versions of an encoder side by side in one process: the old one from its package, where the project allows it."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from declaring_project import ENCODERS, OLD, Folder, capture, shown

from delorean.packaging.files import MANIFEST
from delorean.project.config import load_project
from encoders import FeatureModel
from encoders.encoder import fingerprint_of
from schemas.errors import ConfigError, FingerprintError, PackageError

BEFORE = (
    ENCODERS.replace(
        "@feature_encoder",
        """
FACTOR = 1.5


def weighted(minutes, power):
    return FACTOR * minutes ** power


@feature_encoder""",
    )
    .replace("data, out)", "data, out, *, power: int = 2)")
    .replace("+= data.history.minutes[j]", "+= weighted(data.history.minutes[j], power)")
)
AFTER = BEFORE.replace("1.5", "0.25")
WORDS = """
import re
from delorean import data_key, feature_encoder

LETTERS = re.compile("[a-m]")


@feature_encoder(data=[data_key("history")], features=["words"], compiled=False)
def words(context, items, data, out):
    for i in range(len(items.video_id)):
        out.words[i] = float(len(LETTERS.findall(str(context.profile_id) + "abcz"))) + len(data.history.minutes)
"""


@pytest.fixture
def folder(tmp_path, request):
    made = Folder(tmp_path, f"versions_{abs(hash(request.node.name)) % 10**9}")
    yield made
    made.forget()


def packaged(folder, text, name, encoder="minutes"):
    """Package a version of the encoder, as a process does in which it is installed. Returns its fingerprint."""
    folder.encoders(text, encoder)
    with folder.open() as project:
        project.generate("spec")
        project.package("spec", name)
        (fields,) = json.loads(project.experiments["spec"].feature_model.to_json())["encoders"]
        return fields["fingerprint"]


@pytest.fixture
def two(folder):
    """Packages of both versions; the later one is installed."""
    with folder.open() as project:
        capture(project, OLD, [((p,), 0, [{"video_id": p % 3, "minutes": 1.0 + p}]) for p in range(12)], "run")
        shown(project)
    return packaged(folder, BEFORE, "before"), packaged(folder, AFTER, "after")


def allow(folder, *fingerprints):
    file = folder.path / "delorean.toml"
    text = file.read_text().partition("[packages]")[0]
    file.write_text(f"{text}[packages]\nallow = {json.dumps(fingerprints)}\n")


def test_two_packages_give_their_own_golden_rows_in_one_process(folder, two):
    allow(folder, two[0])
    with folder.open() as project:
        before, after = project.load_package("before"), project.load_package("after")
        for package in (before, after):
            package.bound.warm_up()
            package.check_golden_rows()
        maps = after.golden.maps
        old, new = (package.bound.encode(maps)["minutes"] for package in (before, after))
        assert np.array_equal(old, 6 * new)
        assert old.any()
        assert np.array_equal(before.bound.interpret(maps)["minutes"], old)
        assert before.feature_model.encoders[0].name == after.feature_model.encoders[0].name
        assert before.feature_model.encoders[0].source is not None
        assert after.feature_model.encoders[0].source is None  # the installed encoder runs where it is the same
        (fields,) = json.loads(before.feature_model.to_json())["encoders"]
        assert fields["fingerprint"] == two[0]


def test_a_package_never_runs_its_source_unless_the_project_allows_its_fingerprint(folder, two):
    for allowed in ((), (two[1],)):
        allow(folder, *allowed)
        with folder.open() as project, pytest.raises(FingerprintError, match=rf'allow = \["{two[0]}"\]'):
            project.load_package("before")


def test_an_encoder_that_is_not_installed_any_more_runs_from_its_package(folder, two):
    (folder.path / f"{folder.module}.py").unlink()
    folder.forget()
    allow(folder, *two)
    with folder.open() as project:
        for name in ("before", "after"):
            project.load_package(name).check_golden_rows()
    allow(folder)
    with folder.open() as project, pytest.raises(PackageError, match="cannot be imported"):
        project.load_package("before")


def reseal(path, change):
    """Change the entry of the package's encoder, with checksums to match, as a forger would."""
    model = json.loads((path / "feature_model.json").read_text())
    change(model["encoders"][0])
    data = json.dumps(model).encode()
    (path / "feature_model.json").write_bytes(data)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["feature_model.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_a_source_that_is_not_of_its_fingerprint_is_never_executed(folder, two, tmp_path):
    allow(folder, *two)
    trace = tmp_path / "executed"

    def plant(fields):
        fields["source"]["text"] = f"open({str(trace)!r}, 'w').close()\n" + fields["source"]["text"]

    def take(name):
        def change(fields):
            del fields["source"][name]

        return change

    for number, (change, error, problem) in enumerate(
        [
            (plant, FingerprintError, "packaged source .* is of fingerprint"),
            (lambda fields: fields["parameters"].update(power=3), FingerprintError, "is of fingerprint"),
            (lambda fields: fields["source"].update(data=[]), FingerprintError, "is of fingerprint"),
            (take("versions"), PackageError, "malformed"),
            (lambda fields: fields.pop("source"), PackageError, "has no source of encoder"),
        ]
    ):
        shutil.copytree(folder.path / "before", folder.path / f"forged-{number}")
        reseal(folder.path / f"forged-{number}", change)
        with folder.open() as project, pytest.raises(error, match=problem):
            project.load_package(f"forged-{number}")
    assert not trace.exists()


def test_malformed_types_of_a_package_are_an_error_of_the_package(folder, two):
    reseal(folder.path / "after", lambda fields: fields["resolved_keys"][0].update(type="list<nothing>"))
    with folder.open() as project, pytest.raises(PackageError, match=r"feature_model.json: Arrow type 'list<nothing>'"):
        project.load_package("after")


def test_a_package_of_an_earlier_release_has_no_source_and_is_loaded_as_before(folder, two):
    reseal(folder.path / "after", lambda fields: fields.pop("source"))
    with folder.open() as project:
        project.load_package("after").check_golden_rows()


def test_plain_python_runs_from_a_package_with_the_versions_it_was_captured_with(folder, two):
    first = packaged(folder, WORDS, "words-1", "words")
    # Of another size: within one second Python takes a file of the same size for the one that it has compiled.
    packaged(folder, WORDS.replace("[a-m]", "[ab]"), "words-2", "words")
    allow(folder, first)
    with folder.open() as project:
        before, after = project.load_package("words-1"), project.load_package("words-2")
        before.check_golden_rows()
        maps = after.golden.maps
        assert set(before.bound.encode(maps)["words"] - after.bound.encode(maps)["words"]) == {1.0}


def test_a_source_captured_with_other_versions_of_what_it_imports_is_refused(folder):
    folder.encoders(WORDS, "words")
    with folder.open() as project:
        (encoder,) = project.experiments["spec"].feature_model.encoders
    model = json.loads(FeatureModel([encoder]).to_json(with_source=True))
    (fields,) = model["encoders"]
    fields["source"]["versions"] = {"numpy": "0.1"}
    captured = replace(encoder.captured(), versions={"numpy": "0.1"})
    fields["fingerprint"] = fingerprint_of(captured, False, encoder.written, {}, {}, encoder.data, {})
    with pytest.raises(FingerprintError, match=r"captured with numpy 0\.1, installed is .*install numpy==0\.1"):
        FeatureModel.from_json(json.dumps(model), (), (fields["fingerprint"],))


def test_what_is_not_a_fingerprint_cannot_be_allowed(folder):
    allow(folder, "abc")
    with pytest.raises(ConfigError, match=r"packages.*allow holds 'abc', expected a fingerprint of 64"):
        load_project(folder.path / "delorean.toml")

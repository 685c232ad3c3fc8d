from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registered_packages import MOVING, RACING, UPLOADING, start

from delorean import CorruptFileError, DeloreanError, PackageError, PointerMovedError, Registry, RegistryError
from delorean.packaging.files import MANIFEST, digest_of, read_files
from delorean.registry.records import UnreadableFile
from snapshotter.storage import Storage


def paths(storage: Storage, folder: str = "registry") -> list[str]:
    return [file.path for file in storage.list(folder)]


def test_versions_are_numbered_by_experiment_and_loaded_as_they_were_added(
    registry: Registry, packages: list[Path]
) -> None:
    added = [registry.add(package, note="a note", by="ann") for package in packages]
    assert [version.name for version in added] == ["homepage-1", "homepage-2", "model-1"]
    assert [version.name for version in registry.versions()] == ["model-1", "homepage-2", "homepage-1"]
    shown = registry.version("homepage-2")
    assert shown == added[1]
    assert (shown.by, shown.note, shown.lineage["feature_set"]["version"]) == ("ann", "a note", 1)
    assert shown.features == ("minutes", "days_since", "listed", "popularity")
    assert 0 < shown.metrics["test"]["ndcg@10"] <= 1
    loaded = registry.load("registry:homepage-2")
    loaded.check_golden_rows()
    assert loaded.lineage["spec_hash"] == "hash-1"
    assert read_files(loaded.path) == read_files(packages[1])


def test_the_same_package_is_stored_once_whatever_its_folder_is_called(
    registry: Registry, packages: list[Path], storage: Storage, tmp_path: Path
) -> None:
    first = registry.add(packages[0])
    before = paths(storage)
    again = registry.add(shutil.copytree(packages[0], tmp_path / "elsewhere"))
    assert again == first
    assert paths(storage) == before
    with pytest.raises(RegistryError, match="is registered already, as version 'homepage-1'"):
        registry.add(packages[0], "another")


def test_a_name_belongs_to_the_first_package_that_has_it(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    registry.add(packages[0], "chosen")
    with pytest.raises(RegistryError, match="version 'chosen' exists, with another package → versions never change"):
        registry.add(packages[1], "chosen")
    assert [version.name for version in registry.versions()] == ["chosen"]
    with pytest.raises(DeloreanError, match="cannot name a folder"):
        registry.add(packages[1], "../chosen")
    registry.move("production", "chosen", "the first")
    with pytest.raises(RegistryError, match="'production' is a pointer"):
        registry.add(packages[1], "production")
    with pytest.raises(RegistryError, match="'chosen' is a version"):
        registry.move("chosen", "chosen", "why not")


def test_a_pointer_remembers_who_moved_it_when_and_why_and_goes_back_step_by_step(
    registry: Registry, packages: list[Path]
) -> None:
    for package in packages:
        registry.add(package)
    registry.move("production", "homepage-1", "the first", by="ann")
    registry.move("production", "homepage-2", "better", by="bob", expected="homepage-1")
    registry.move("candidate", "production", "what production is now")
    registry.move("production", "model-1", "better still")
    back = registry.rollback("production", "errors", by="eve")
    assert (back.version, back.previous, back.rollback) == ("homepage-2", "model-1", True)
    assert registry.rollback("production", "still errors").version == "homepage-1"
    with pytest.raises(RegistryError, match="'production' has no earlier version than 'homepage-1'"):
        registry.rollback("production", "still errors")
    assert registry.move("production", "model-1", "repaired").previous == "homepage-1"
    assert registry.rollback("production", "no").version == "homepage-1"
    history = registry.history("production")
    assert [move.number for move in history] == [7, 6, 5, 4, 3, 2, 1]
    assert [(move.by, move.reason) for move in history[-2:]] == [("bob", "better"), ("ann", "the first")]
    assert {name: move.version for name, move in registry.pointers().items()} == {
        "candidate": "homepage-2",
        "production": "homepage-1",
    }
    assert registry.version("candidate").name == "homepage-2"


def test_a_pointer_that_somebody_else_has_moved_is_a_clear_error(registry: Registry, packages: list[Path]) -> None:
    registry.add(packages[0])
    registry.add(packages[1])
    with pytest.raises(PointerMovedError, match="expected version 'homepage-1', but it does not exist"):
        registry.move("production", "homepage-2", "x", expected="homepage-1")
    registry.move("production", "homepage-1", "first", expected="")
    registry.move("production", "homepage-2", "second", by="bob")
    with pytest.raises(
        PointerMovedError,
        match=r"expected version 'homepage-1', but it points at 'homepage-2': moved by bob at .*, sec",
    ):
        registry.rollback("production", "x", expected="homepage-1")
    with pytest.raises(PointerMovedError, match="expected that it does not exist, but it points at 'homepage-2'"):
        registry.move("production", "homepage-1", "x", expected="")
    assert registry.move("production", "homepage-2", "a retry").number == 2, "a move that is done already is no move"
    with pytest.raises(RegistryError, match="has no reason"):
        registry.move("production", "homepage-1", " ")
    with pytest.raises(RegistryError, match="unknown version or pointer of the registry 'homepage-3' → did you mean"):
        registry.move("production", "homepage-3", "x")
    with pytest.raises(RegistryError, match="unknown pointer 'prodution' → did you mean 'production'"):
        registry.history("prodution")


@pytest.mark.program
def test_of_movers_at_once_exactly_one_wins(registry: Registry, packages: list[Path], storage: Storage) -> None:
    for package in packages:
        registry.add(package)
    registry.move("production", "homepage-1", "first")
    for turn in range(3):
        at = registry.version("production").name
        others = [name for name in ("homepage-1", "homepage-2", "model-1") if name != at]
        movers = [start(RACING, storage.uri, name, at) for name in [*others, *others]]
        try:
            assert [mover.stdout.readline() for mover in movers] == ["ready\n"] * 4  # type: ignore[union-attr]
            for mover in movers:
                mover.stdin.write("go\n")  # type: ignore[union-attr]
                mover.stdin.flush()  # type: ignore[union-attr]
            ended = [mover.communicate()[0].strip() for mover in movers]
        finally:
            for mover in movers:
                mover.kill()
        moves = registry.history("production")
        assert moves[0].number == turn + 2
        # Who finds the pointer at his own version already has nothing to move.
        same = others.index(moves[0].version)
        assert {ended[same], ended[same + 2]} <= {"won", "lost"}
        assert "won" in (ended[same], ended[same + 2])
        assert ended[1 - same] == ended[3 - same] == "lost"


@pytest.mark.program
def test_an_upload_that_is_killed_is_never_visible_and_can_be_repeated(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    with start(UPLOADING, storage.uri, str(packages[0])) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "uploading\n"
        uploader.kill()
    assert len(paths(storage, "registry/packages/half")) >= 4
    assert registry.versions() == []
    assert registry.add(packages[0]).name == "homepage-1"
    registry.load("homepage-1").check_golden_rows()


@pytest.mark.program
@pytest.mark.parametrize(("when", "at"), [("before", "homepage-1"), ("after", "homepage-2")])
def test_a_move_that_is_killed_has_happened_or_has_not(
    registry: Registry, packages: list[Path], storage: Storage, when: str, at: str
) -> None:
    registry.add(packages[0])
    registry.add(packages[1])
    registry.move("production", "homepage-1", "first")
    with start(MOVING, storage.uri, "homepage-2", when) as mover:
        assert mover.stdout is not None
        assert mover.stdout.readline() == "moving\n"
        mover.kill()
    assert registry.version("production").name == at
    registry.move("production", "homepage-2", "again")
    assert registry.version("production").name == "homepage-2"
    assert registry.rollback("production", "back").version == "homepage-1"


def test_a_removed_version_is_gone_for_good_but_not_forgotten(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    registry.add(packages[0])
    registry.add(packages[1])
    registry.move("production", "homepage-1", "first")
    with pytest.raises(RegistryError, match="version 'homepage-1' is in use: production points at it"):
        registry.remove("homepage-1", "too old")
    registry.move("production", "homepage-2", "second")
    removal = registry.remove("homepage-1", "its labels had to be deleted", by="ann")
    assert (removal.version, removal.by) == ("homepage-1", "ann")
    assert len({path.split("/")[2] for path in paths(storage, "registry/packages")}) == 1
    with pytest.raises(RegistryError, match=r"'homepage-1' was removed by ann at .*: its labels had to be deleted"):
        registry.fetch("homepage-1")
    with pytest.raises(RegistryError, match="where 'production' pointed before, was removed"):
        registry.rollback("production", "x")
    with pytest.raises(RegistryError, match="was removed by ann"):
        registry.remove("homepage-1", "again")
    assert registry.add(packages[0]).name == "homepage-3", "names are never used again"
    with pytest.raises(RegistryError, match="unknown version of the registry 'homepage-9'"):
        registry.remove("homepage-9", "x")


def test_a_file_that_changed_in_the_storage_is_never_used(
    registry: Registry, packages: list[Path], storage: Storage, tmp_path: Path
) -> None:
    version = registry.add(packages[0])
    path = f"{version.folder}/golden/expected.arrow"
    storage.delete([path])
    with storage.open_output(path) as output:
        output.write(b"forged")
    with pytest.raises(CorruptFileError, match=r"expected\.arrow' differs from what was registered"):
        registry.fetch("homepage-1")
    assert list((tmp_path / "cache").glob("*")) == []


def test_a_cached_package_that_changed_is_fetched_again(
    registry: Registry, packages: list[Path], tmp_path: Path
) -> None:
    registry.add(packages[0])
    folder = registry.fetch("homepage-1")
    assert registry.fetch("homepage-1") == folder
    (folder / "lineage.json").write_text("{}")
    assert read_files(registry.fetch("homepage-1")) == read_files(packages[0])
    named = registry.fetch("homepage-1", tmp_path / "named" / "package")
    assert registry.fetch("homepage-1", named) == named
    registry.add(packages[1])
    with pytest.raises(RegistryError, match="exists, and is not version 'homepage-2'"):
        registry.fetch("homepage-2", named)


def test_of_fetchers_at_once_all_get_the_same_whole_package(registry: Registry, packages: list[Path]) -> None:
    registry.add(packages[0])
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: registry.fetch("homepage-1"), range(8)))
    assert len(folders) == 1
    assert read_files(folders.pop()) == read_files(packages[0])


def test_of_adders_at_once_of_one_package_all_get_the_same_version(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    with ThreadPoolExecutor(3) as threads:
        added = list(threads.map(lambda _: registry.add(packages[0]), range(3)))
    assert {version.name for version in added} == {"homepage-1"}
    assert {path.split("/")[2] for path in paths(storage, "registry/packages")} == {added[0].folder.split("/")[2]}


def test_a_package_that_cannot_be_trusted_is_never_registered(
    registry: Registry, packages: list[Path], storage: Storage, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(packages[0], tmp_path / "broken"))
    (broken / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(PackageError, match=r"'model\.onnx' of .* has changed"):
        registry.add(broken)
    with pytest.raises(PackageError, match="no model package at"):
        registry.add(tmp_path / "nothing")
    assert paths(storage) == []


def test_a_record_that_cannot_be_read_hides_no_other(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    registry.add(packages[0])
    storage.create("registry/versions/strange-1.json", b"{")
    unreadable: list[UnreadableFile] = []
    assert [version.name for version in registry.versions(unreadable)] == ["homepage-1"]
    assert [each.path for each in unreadable] == ["registry/versions/strange-1.json"]
    [path] = [path for path in paths(storage, "registry/versions") if "strange" not in path]
    storage.delete([path])
    storage.create(path, b"[]")
    with pytest.raises(RegistryError, match=r"\.json cannot be read: .* → restore it from a copy"):
        registry.version("homepage-1")
    with pytest.raises(RegistryError, match="cannot be read"):
        registry.add(packages[0])


def test_a_record_that_leads_out_of_its_folder_is_refused(
    registry: Registry, packages: list[Path], storage: Storage, tmp_path: Path
) -> None:
    version = registry.add(packages[0])
    [path] = paths(storage, "registry/versions")
    record = json.loads(bytes(storage.open_input(path).read()))
    record["files"]["../../../escaped"] = record["files"].pop(MANIFEST)
    storage.delete([path])
    storage.create(path, json.dumps(record).encode())
    with pytest.raises(CorruptFileError, match="outside of its folder"):
        registry.fetch(version.name)
    assert not list(tmp_path.rglob("escaped"))


def test_a_digest_covers_names_and_contents_but_not_the_manifest() -> None:
    files = {"a": b"1", "b": b"2", MANIFEST: b"{}"}
    assert digest_of(files) == digest_of({"b": b"2", "a": b"1", MANIFEST: b"{ }"})
    assert len({digest_of(files), digest_of({**files, "a": b"2"}), digest_of({"a": b"1", "c": b"2"})}) == 3


def test_a_move_to_a_version_that_is_removed_at_the_same_time_is_undone(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    """A mover that has found the version, and a remover that has found no pointer at it, notice each other."""
    registry.add(packages[0])
    registry.add(packages[1])
    registry.move("production", "homepage-1", "first")
    create = storage.create

    def removed_first(path: str, data: bytes) -> bool:
        if path.startswith("registry/pointers/") and not path.endswith("1.json"):
            storage.create = create  # type: ignore[method-assign]
            registry.remove("homepage-2", "worse")
        return create(path, data)

    storage.create = removed_first  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match=r"version 'homepage-2' was removed by .*: worse"):
        registry.move("production", "homepage-2", "better")
    assert registry.version("production").name == "homepage-1"
    assert [move.version for move in registry.history("production")] == ["homepage-1", "homepage-2", "homepage-1"]


def test_a_version_that_gets_a_pointer_while_it_is_removed_is_kept(
    registry: Registry, packages: list[Path], storage: Storage
) -> None:
    registry.add(packages[0])
    registry.add(packages[1])
    registry.move("production", "homepage-1", "first")
    create = storage.create

    def moved_first(path: str, data: bytes) -> bool:
        storage.create = create  # type: ignore[method-assign]
        registry.move("production", "homepage-2", "better")
        return create(path, data)

    storage.create = moved_first  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match="version 'homepage-2' is in use: production points at it"):
        registry.remove("homepage-2", "worse")
    registry.load("production").check_golden_rows()

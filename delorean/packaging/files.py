"""The files of a model package: written atomically, and verified when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, PackageError
from snapshotter.storage import require_plain_name
from snapshotter.storage.local import sync

MANIFEST = "MANIFEST.json"
_FORMAT = {"format": "delorean-model-package", "version": 1}
_MEBIBYTE = 1 << 20

MODEL = "model.onnx"
TASK_MODELS = "onnx"  # folder of a model for each task, `<task>.onnx`, where tasks have trees of their own
_MOST_OF_MODEL = 512 * _MEBIBYTE

# The files of a package, and their maximum sizes in bytes.
FILES: Mapping[str, int] = {
    "trees.arrow": 512 * _MEBIBYTE,
    MODEL: _MOST_OF_MODEL,
    "feature_model.json": 16 * _MEBIBYTE,
    "keys.json": _MEBIBYTE,
    "services.json": _MEBIBYTE,
    "metrics.json": 16 * _MEBIBYTE,
    "lineage.json": 16 * _MEBIBYTE,
    "golden/data_maps.arrow": 512 * _MEBIBYTE,
    "golden/expected.arrow": 64 * _MEBIBYTE,
}
# Packages of models that do not consist of trees, and those of earlier releases, lack these.
OPTIONAL = frozenset({"trees.arrow"})
# Packages of several tasks may have these too, and a file in TASK_MODELS for each task. No other file is allowed.
_OF_TASKS: Mapping[str, int] = {"tasks.json": 16 * _MEBIBYTE, "calibration.arrow": 64 * _MEBIBYTE}


@contextmanager
def new_folder(path: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write a package to a temporary folder beside `path`, yield it, and rename it when the block succeeds.

    Raises PackageError if `path` exists: packages are never overwritten.
    """
    _refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise PackageError.because(f"{path.parent} cannot be written: {error.strerror}") from error
    try:
        manifest = {**_FORMAT, "files": {name: _entry(data) for name, data in files.items()}}
        for name, data in {**files, MANIFEST: write_json(manifest)}.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(data)
            sync(temporary / name)
        yield temporary
        temporary.chmod(0o755)
        _refuse_existing(path)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise PackageError.because(f"{path} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_files(folder: Path) -> dict[str, bytes]:
    """Read a package's files, each checked against the manifest before its content is used.

    Raises PackageError that names the file: unknown format, missing, not in the manifest, not of a package, not a
    regular file, too large, or changed.
    """
    if not folder.is_dir():
        raise PackageError.because(f"no model package at {folder}", "name the folder that contains its MANIFEST.json")
    _refuse_other_files(folder)
    manifest = read_json(MANIFEST, _read(folder, MANIFEST, _MEBIBYTE))
    actual = {key: manifest.get(key) for key in _FORMAT} if isinstance(manifest, dict) else manifest
    if actual != _FORMAT:
        raise PackageError.because(f"{MANIFEST} has the format {actual}, expected {_FORMAT}", "package the model again")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise PackageError.because(f"{MANIFEST} lists no files")
    for name in listed:
        if not _is_file_of_package(name):
            raise PackageError.because(f"{MANIFEST} lists '{name}', which is not a file of a model package")
    of_tasks = [name for name in listed if name not in FILES]
    optional = OPTIONAL | ({MODEL} if any(name.startswith(TASK_MODELS) for name in of_tasks) else frozenset())
    files = {}
    for name in (*FILES, *of_tasks):
        if name not in listed and name in optional:
            continue
        if name not in listed:
            raise PackageError.because(f"{MANIFEST} does not list '{name}'")
        files[name] = _read(folder, name, {**FILES, **_OF_TASKS}.get(name, _MOST_OF_MODEL))
        if _entry(files[name]) != listed[name]:
            raise PackageError.because(
                f"'{name}' of {folder} has changed since it was packaged: its checksum differs",
                "copy the package again",
            )
    return files


def task_model(task: str) -> str:
    """Return the name of the file that holds a task's model."""
    return f"{TASK_MODELS}/{task}.onnx"


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the digest of a package: of the names and contents of its files, without the manifest."""
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != MANIFEST}
    return hashlib.sha256(write_json(checksums)).hexdigest()


def write_json(content: Any) -> bytes:
    """Return readable JSON; the same content gives the same bytes."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_json(name: str, data: bytes) -> Any:
    """Parse a file's JSON strictly: UTF-8, unique names, finite numbers. Raises PackageError that names the file."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PackageError.because(f"'{name}' is not JSON: {error}", "copy the package again") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the name '{next(n for n in names if names.count(n) > 1)}' twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _is_file_of_package(name: str) -> bool:
    if name in FILES or name in _OF_TASKS:
        return True
    folder, _, file = name.partition("/")
    try:
        require_plain_name("task", file.removesuffix(".onnx"))
    except ConfigError:
        return False
    return folder == TASK_MODELS and file.endswith(".onnx")


def _entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise PackageError.because(f"{path} already exists", "packages are never overwritten: choose another name")


def _refuse_other_files(folder: Path) -> None:
    folders = {str(Path(name).parent) for name in FILES} - {"."} | {TASK_MODELS}
    remaining = [folder]
    while remaining:
        with os.scandir(remaining.pop()) as entries:
            for entry in entries:
                name = str(Path(entry.path).relative_to(folder))
                if entry.is_symlink():
                    raise PackageError.because(f"'{name}' of {folder} is a link, expected a regular file")
                if entry.is_dir(follow_symlinks=False) and name in folders:
                    remaining.append(Path(entry.path))
                elif name != MANIFEST and not _is_file_of_package(name):
                    raise PackageError.because(f"'{name}' of {folder} is not a file of a model package", "remove it")


def _read(folder: Path, name: str, most: int) -> bytes:
    try:
        # Neither follow nor block: a link or a pipe that was created since the listing must not be read.
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise PackageError.because(f"'{name}' of {folder} is not a regular file")
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise PackageError.because(f"'{name}' of {folder} is missing", "copy the package again") from error
    except OSError as error:
        raise PackageError.because(f"'{name}' of {folder} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise PackageError.because(f"'{name}' of {folder} is larger than {most} bytes")
    return data

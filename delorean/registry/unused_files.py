"""The files of a registry that no version needs: of uploads that died, and of versions that were removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from delorean.registry.records import FOLDER, PACKAGES, RegisteredVersion
from snapshotter.capture import is_half_written
from snapshotter.storage import Storage, StoredFile


def unused_files(storage: Storage, versions: Sequence[RegisteredVersion], latest: datetime) -> list[StoredFile]:
    """Return the files that were modified before a time and that no version needs.

    versions: all that are registered, read after `latest`; an upload that is still under way has younger files
    """
    needed = {version.folder for version in versions}
    old = [file for file in storage.list(FOLDER) if file.modified_at < latest]
    return [
        file
        for file in old
        if is_half_written(file.path)
        or (file.path.startswith(f"{PACKAGES}/") and "/".join(file.path.split("/")[:3]) not in needed)
    ]

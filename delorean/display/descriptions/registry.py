"""Describes registered versions of model packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from delorean.display.description import describes
from delorean.display.formats import bytes_text
from delorean.display.parts import Code, Facts, Part, Table
from delorean.registry.records import RegisteredVersion


def _document(version: RegisteredVersion) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(version).items() if name not in ("name", "files")}
    files = msgspec.to_builtins(version.files)
    return {"version": version.name, **fields, "bytes": version.bytes, "files": files}


@describes(RegisteredVersion, _document)
def _version(version: RegisteredVersion) -> Iterator[Part]:
    lineage = version.lineage
    yield Facts(
        {
            "note": version.note or None,
            "digest": Code(version.digest),
            "size": bytes_text(version.bytes),
            "experiment": lineage.get("spec_hash"),
            "feature set": lineage.get("feature_set"),
            "label data": (lineage.get("label_data") or {}).get("id"),
            "features": list(version.features),
        }
    )
    yield Table([{"": part, **metrics} for part, metrics in version.metrics.items()], "metrics of the model")
    files = [{"file": name, "bytes": file.bytes, "sha256": file.sha256} for name, file in version.files.items()]
    yield Table(files, "files", most=None)

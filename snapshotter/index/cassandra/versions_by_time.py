"""Looks versions of global elements up by the time from which they are valid."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import groupby

from snapshotter.index.cassandra import record_pieces
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement
from snapshotter.index.cassandra.published_entries import PublishedEntries, PublishedEntry
from snapshotter.records import GlobalVersion, to_micros

_PAGE = 32
_VERSIONS = (
    "SELECT valid_from, version_id, attempt, record FROM {keyspace}.global_versions"
    " WHERE index_name = :index_name AND element = :element AND valid_from <= :latest"
)
_WRITE = (
    "INSERT INTO {keyspace}.global_versions (index_name, element, valid_from, version_id, attempt, record)"
    " VALUES (:index_name, :element, :valid_from, :version_id, :attempt, :record)"
)


def write_version(session: CassandraSession, version: GlobalVersion, attempt: uuid.UUID, copy: str | None) -> Statement:
    """Return the statement that writes a version's row of an attempt to publish it."""
    row = {
        "index_name": session.address.index,
        "element": version.element.name,
        "valid_from": to_micros(version.valid_from),
        "version_id": version.version_id,
    }
    return _WRITE, {**row, "attempt": attempt, "record": copy}


def visible_versions(published: PublishedEntries, element: str, latest: int) -> Iterator[tuple[PublishedEntry, str]]:
    """Yield an element's versions that are valid up to a time, with their records, read as they are consumed.

    The newest comes first; of several with one time, the later published.
    """
    values = {"index_name": published.session.address.index, "element": element, "latest": latest}
    visible = (
        (entries[row.attempt], row)
        for page in published.session.pages(_VERSIONS, values, _PAGE)
        for entries in [published.among((row.version_id for row in page), element)]
        for row in page
        if row.attempt in entries
    )
    for _, group in groupby(visible, key=lambda pair: pair[1].valid_from):
        for entry, row in sorted(group, key=lambda pair: pair[0].published_at, reverse=True):
            (text,) = record_pieces.complete(published.session, [(row.attempt, 0, row.record)])
            yield entry, text

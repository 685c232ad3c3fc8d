"""Creates and checks the tables of a keyspace.

published        the entries, which alone make anything visible. One partition for each index, so that one conditional
                 write publishes an entry and advances the index's clock, and with a run its timeline row and its
                 services' declarations. Also what was withdrawn. Only conditional writes change it
records          the records of attempts to publish, in pieces, so that rows stay small
snapshots        for look-ups by time: a row in each month that a service's snapshot captured in
months           the months that a service has rows in
global_versions  for look-ups by time: versions of global elements
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from cassandra import InvalidRequest

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.address import CassandraAddress
from snapshotter.index.cassandra.cluster_session import CassandraSession, RetryDeadline
from snapshotter.index.cassandra.migration import add_missing_rows
from snapshotter.index.cassandra.published_entries import CLOCK

_TABLES = {
    "schema_version": "what text PRIMARY KEY, version int",
    "published": "index_name text, kind text, subject text, id text, clock bigint STATIC,"
    " published_at bigint, attempt uuid, header text, PRIMARY KEY (index_name, kind, subject, id)",
    "records": "attempt uuid, position int, piece int, record text, PRIMARY KEY (attempt, position, piece)",
    "snapshots": "index_name text, service text, month int, captured_to bigint, captured_from bigint, run_id text,"
    " attempt uuid, position int, record text,"
    " PRIMARY KEY ((index_name, service, month), captured_to, captured_from, attempt, position)",
    "months": "index_name text, service text, month int, PRIMARY KEY ((index_name, service), month)",
    "global_versions": "index_name text, element text, valid_from bigint, version_id text, attempt uuid, record text,"
    " PRIMARY KEY ((index_name, element), valid_from, attempt)",
}
_NEWEST_FIRST = {
    "snapshots": "captured_to DESC, captured_from DESC, attempt ASC, position ASC",
    "months": "month DESC",
    "global_versions": "valid_from DESC, attempt ASC",
}
# Each step upgrades the schema by one version. Steps are idempotent, and may run concurrently. The second creates no
# table: it adds rows of published runs that are written with each run since, see `run_timeline`. The third changes
# nothing: it keeps earlier releases away, which do not expect ids of context sets with the number of a revision.
_STEPS: tuple[Mapping[str, str], ...] = (_TABLES, {}, {})
VERSION = len(_STEPS)
_KEYSPACE = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = :name"
_TABLE = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = :name AND table_name = 'schema_version'"
_VERSION = "SELECT version FROM {keyspace}.schema_version WHERE what = 'tables'"
_START_CLOCK = "INSERT INTO {keyspace}.published (index_name, clock) VALUES (:index_name, 0) IF NOT EXISTS"
_SET_VERSION = "UPDATE {keyspace}.schema_version SET version = :next WHERE what = 'tables' IF version = :before"


def check(session: CassandraSession) -> None:
    """Raise SnapshotIndexError for an index that does not exist, or has the schema of another release."""
    address, version = session.address, _version(session)
    if version is None or not session.execute(CLOCK, {"index_name": address.index}):
        raise SnapshotIndexError.because(f"index {address.uri} does not exist", _how_to_create(session))
    _check_version(version, address)


def prepare(session: CassandraSession, replication: Mapping[str, int] | None) -> bool:
    """Create what is missing, and return whether the index is new. It may run concurrently, and after one that died.

    replication: datacenter → copies, for the keyspace if it is created; the datacenter "" stands for all
    """
    deadline = RetryDeadline(session.address.patience_seconds)
    while True:
        try:
            new = _prepare(session, replication)
            session.await_agreement()  # the next request may go to another node
            return new
        except SnapshotIndexError as error:  # a node that does not know yet what another has just created
            if not isinstance(error.__cause__, InvalidRequest) or deadline.passed:
                raise
        deadline.pause()
        session.await_agreement()


def _prepare(session: CassandraSession, replication: Mapping[str, int] | None) -> bool:
    address, version = session.address, _version(session)
    if version is None:
        _create_keyspace(session, replication)
    for step in range(version or 0, VERSION):
        for name, columns in _STEPS[step].items():
            session.change_schema(_create_table(address.keyspace, name, columns))
        if step > 0:
            add_missing_rows(session)
        session.execute(_SET_VERSION, {"before": step or version, "next": step + 1})  # before the first: 0, or no row
    _check_version(_version(session), address)
    (started,) = session.execute(_START_CLOCK, {"index_name": address.index})
    add_missing_rows(session, address.index)  # of runs that an earlier release has published since
    return bool(started.applied)


def _version(session: CassandraSession) -> int | None:
    name = {"name": session.address.keyspace}
    if not session.execute(_TABLE, name):
        return None
    rows = session.execute(_VERSION, {})
    return int(rows[0].version) if rows else None


def _check_version(version: int | None, address: CassandraAddress) -> None:
    if version != VERSION:
        raise SnapshotIndexError.because(
            f"keyspace of index {address.uri} has schema version {version}, expected {VERSION}",
            "use the release that wrote it" if version and version > VERSION else "migrate it: delorean index init",
        )


def _how_to_create(session: CassandraSession) -> str:
    exists = session.execute(_KEYSPACE, {"name": session.address.keyspace})
    copies = "" if exists else f" (there is no keyspace '{session.address.keyspace}': add --replication)"
    return f"correct the URI, or prepare it: delorean index init{copies}"


def _create_keyspace(session: CassandraSession, replication: Mapping[str, int] | None) -> None:
    keyspace = session.address.keyspace
    if session.execute(_KEYSPACE, {"name": keyspace}):
        return
    if replication is None:
        raise SnapshotIndexError.because(
            f"index {session.address.uri}: there is no keyspace '{keyspace}'",
            "set its number of copies: delorean index init --replication 3, or dc1=3,dc2=3",
        )
    copies = {name or "replication_factor": count for name, count in replication.items()}
    options = ", ".join(f"'{name}': {count}" for name, count in copies.items())
    strategy = f"{{'class': 'NetworkTopologyStrategy', {options}}}"
    session.change_schema(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {strategy}")


def _create_table(keyspace: str, table: str, columns: str) -> str:
    """Return a statement with an id derived from the table's name, without which concurrent creations never agree."""
    order = f" AND CLUSTERING ORDER BY ({_NEWEST_FIRST[table]})" if table in _NEWEST_FIRST else ""
    table_id = uuid.uuid5(uuid.NAMESPACE_URL, f"cassandra:{keyspace}.{table}")
    return f"CREATE TABLE IF NOT EXISTS {keyspace}.{table} ({columns}) WITH id = {table_id}{order}"

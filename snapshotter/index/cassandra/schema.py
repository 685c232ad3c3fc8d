"""The tables of a keyspace, made and checked.

published        what is visible: nothing else is. A partition for each index, so that one conditional write publishes
                 an entry and moves the index's clock, and writes with a run its place in time and its services'
                 declarations. What was withdrawn is there too. Never written but by conditional writes
records          what an attempt to publish has written, in pieces, so that no row is huge
snapshots        for look-ups by time: a row in each month that a service's snapshot captured in
months           which of these a service has
global_versions  for look-ups by time: versions of global elements
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from cassandra import InvalidRequest

from schemas.errors import SnapshotIndexError
from snapshotter.index.cassandra.address import CassandraAddress
from snapshotter.index.cassandra.cluster_session import CassandraSession, Patience
from snapshotter.index.cassandra.migration import fill

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
# Each step brings the schema one version further. A step may be made twice, and by two at once. The second makes no
# table: it fills in, of runs that are published, what is written with each since, see `timeline`.
_STEPS: tuple[Mapping[str, str], ...] = (_TABLES, {})
VERSION = len(_STEPS)
_KEYSPACE = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = :name"
_TABLE = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = :name AND table_name = 'schema_version'"
_VERSION = "SELECT version FROM {keyspace}.schema_version WHERE what = 'tables'"
_CLOCK = "SELECT clock FROM {keyspace}.published WHERE index_name = :index_name LIMIT 1"
_START_CLOCK = "INSERT INTO {keyspace}.published (index_name, clock) VALUES (:index_name, 0) IF NOT EXISTS"
_SET_VERSION = "UPDATE {keyspace}.schema_version SET version = :next WHERE what = 'tables' IF version = :before"


def check(connection: CassandraSession) -> None:
    """Refuse an index that is not there, or not of this release's schema."""
    address, version = connection.address, _version(connection)
    if version is None or not connection.one(_CLOCK, {"index_name": address.index}):
        raise SnapshotIndexError.because(f"index {address.uri} does not exist", _how_to_make(connection))
    _refuse_other(version, address)


def prepare(connection: CassandraSession, replication: Mapping[str, int] | None) -> bool:
    """Make what is missing, and tell whether the index is new. Any number may do it at once, and after one that died.

    replication: datacenter → copies, for the keyspace if it is made; the datacenter "" is all of them
    """
    patience = Patience(connection.address.patience_seconds)
    while True:
        try:
            new = _prepare(connection, replication)
            connection.agree()  # the next who asks may ask another node
            return new
        except SnapshotIndexError as error:  # a node that does not know yet what another has just made
            if not isinstance(error.__cause__, InvalidRequest) or not patience.left:
                raise
        patience.pause()
        connection.agree()


def _prepare(connection: CassandraSession, replication: Mapping[str, int] | None) -> bool:
    address, version = connection.address, _version(connection)
    if version is None:
        _make_keyspace(connection, replication)
    for step in range(version or 0, VERSION):
        for name, columns in _STEPS[step].items():
            connection.change(_create(address.keyspace, name, columns))
        if step > 0:
            fill(connection)
        connection.one(_SET_VERSION, {"before": step or version, "next": step + 1})  # before the first: 0, or no row
    _refuse_other(_version(connection), address)
    (started,) = connection.one(_START_CLOCK, {"index_name": address.index})
    fill(connection, address.index)  # what an earlier release has published since
    return bool(started.applied)


def _version(connection: CassandraSession) -> int | None:
    name = {"name": connection.address.keyspace}
    if not connection.one(_TABLE, name):
        return None
    rows = connection.one(_VERSION, {})
    return int(rows[0].version) if rows else None


def _refuse_other(version: int | None, address: CassandraAddress) -> None:
    if version != VERSION:
        raise SnapshotIndexError.because(
            f"keyspace of index {address.uri} has schema version {version}, expected {VERSION}",
            "use the release that wrote it" if version and version > VERSION else "migrate it: delorean index init",
        )


def _how_to_make(connection: CassandraSession) -> str:
    there = connection.one(_KEYSPACE, {"name": connection.address.keyspace})
    copies = "" if there else f" (there is no keyspace '{connection.address.keyspace}': --replication says how)"
    return f"correct the URI, or prepare it: delorean index init{copies}"


def _make_keyspace(connection: CassandraSession, replication: Mapping[str, int] | None) -> None:
    keyspace = connection.address.keyspace
    if connection.one(_KEYSPACE, {"name": keyspace}):
        return
    if replication is None:
        raise SnapshotIndexError.because(
            f"index {connection.address.uri}: there is no keyspace '{keyspace}'",
            "say how many copies it shall keep: delorean index init --replication 3, or dc1=3,dc2=3",
        )
    copies = {name or "replication_factor": count for name, count in replication.items()}
    options = ", ".join(f"'{name}': {count}" for name, count in copies.items())
    strategy = f"{{'class': 'NetworkTopologyStrategy', {options}}}"
    connection.change(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {strategy}")


def _create(keyspace: str, table: str, columns: str) -> str:
    """Give a table an id that all who make it at once agree on: nodes that know two of one name disagree for ever."""
    order = f" AND CLUSTERING ORDER BY ({_NEWEST_FIRST[table]})" if table in _NEWEST_FIRST else ""
    table_id = uuid.uuid5(uuid.NAMESPACE_URL, f"cassandra:{keyspace}.{table}")
    return f"CREATE TABLE IF NOT EXISTS {keyspace}.{table} ({columns}) WITH id = {table_id}{order}"

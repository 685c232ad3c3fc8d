"""The index for production: tables in a Cassandra keyspace, shared by any number of machines and projects."""

from snapshotter.index.cassandra.index import CassandraIndex, init_cassandra

__all__ = ["CassandraIndex", "init_cassandra"]

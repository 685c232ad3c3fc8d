"""The embedded index: one SQLite file, shared by any number of processes and threads of one machine."""

from snapshotter.index.sqlite.index import SqliteIndex, init_sqlite

__all__ = ["SqliteIndex", "init_sqlite"]

"""Jobs in one SQLite file, on one machine: the default store, which needs nothing set up.

On stable storage means: in a write-ahead log that was synced before the commit returned (`synchronous=FULL`).
"""

from jobstatus.stores.sqlite.store import SQLiteJobStore

__all__ = ["SQLiteJobStore"]

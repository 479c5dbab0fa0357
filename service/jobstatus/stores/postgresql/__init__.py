"""Jobs in a PostgreSQL database, for any number of replicas.

On stable storage means: in the write-ahead log of the server, flushed before the commit returned, and on the
synchronous standbys where `synchronous_standby_names` names some (as far as `synchronous_commit` makes a commit wait
for them: `local` and `remote_write` wait for less). What an asynchronous standby lacks is lost when it is promoted. A
row can be read once the server has flushed its commit, not before.

A client cannot detect two primaries at a time: before a standby is promoted, the old primary must be kept from
answering.
"""

from jobstatus.stores.postgresql.store import PostgreSQLJobStore

__all__ = ["PostgreSQLJobStore"]

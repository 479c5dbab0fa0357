"""Jobs in a PostgreSQL database, for any number of replicas.

On stable storage means: in the write-ahead log of the server, which was flushed before the commit returned, and on the
synchronous standbys where `synchronous_standby_names` names some (as far as `synchronous_commit` has a commit wait for
them: `local` and `remote_write` wait for less). What only an asynchronous standby lacks is lost when that one is
promoted. A row can be read once the server has flushed its commit, not before.

Two primaries at a time are beyond what a client can see: whoever promotes a standby has to keep the old primary from
answering first.
"""

from jobstatus.stores.postgresql.store import PostgreSQLJobStore

__all__ = ["PostgreSQLJobStore"]

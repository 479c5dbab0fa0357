"""Jobs in the keyspace of a Redis or Valkey server, or of a cluster of them."""

from jobstatus.stores import StoreConfigError

try:
    from jobstatus.stores.redis.store import KeyspaceJobStore
except ModuleNotFoundError as error:
    if error.name != "hiredis":
        raise
    raise StoreConfigError("redis:// and rediss:// need a driver: pip install '.[redis]' in the checkout") from error

__all__ = ["KeyspaceJobStore"]

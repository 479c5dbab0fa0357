"""Jobs in a Redis or Valkey server or cluster."""

from jobstatus.stores import StoreConfigError

try:
    from jobstatus.stores.redis.store import RedisJobStore
except ModuleNotFoundError as error:
    if error.name != "hiredis":
        raise
    raise StoreConfigError("redis:// and rediss:// need a driver: pip install '.[redis]' in the checkout") from error

__all__ = ["RedisJobStore"]

"""Look into the database without changing it, and say what a start would do with it."""

import asyncio

import psycopg

from jobstatus.stores import StoreConfigError
from jobstatus.stores.postgresql import schema
from jobstatus.stores.postgresql.address import conninfo_of
from jobstatus.stores.postgresql.connections import connect, first_line
from jobstatus.stores.postgresql.limits import PostgreSQLLimits


async def describe(url: str, limits: PostgreSQLLimits) -> str:
    """Return what a start would open or make. Raise StoreConfigError where a start would."""
    try:
        connection = await connect(conninfo_of(url, limits.connect_seconds))
    except (psycopg.Error, OSError) as error:
        raise StoreConfigError(f"cannot connect to PostgreSQL: {first_line(error)}") from error
    cutting = asyncio.get_running_loop().call_later(limits.start_seconds, connection.cut)
    try:
        await connection.execute("SET default_transaction_read_only = on")
        version = await schema.inspect(connection)
        info = connection.info
        where = f"the database {info.dbname} of the PostgreSQL server at {info.host}:{info.port}"
    except psycopg.Error as error:
        raise StoreConfigError(f"cannot use the PostgreSQL database: {first_line(error)}") from error
    finally:
        cutting.cancel()
        await connection.close()
    if not version:
        return f"{where}, where the schema jobstatus would be created"
    if version < len(schema.MIGRATIONS):
        return f"{where}, which would be migrated from schema {version} to {len(schema.MIGRATIONS)}"
    return f"{where} (schema {version})"

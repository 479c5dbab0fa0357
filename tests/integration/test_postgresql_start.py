"""How a store on PostgreSQL starts: the schema is there afterwards, or one sentence says why not."""

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness import ports
from harness.postgresql import Server, server
from harness.stores import change, job
from jobstatus.core.store import Store
from jobstatus.stores import StoreConfigError, open_store
from jobstatus.stores.postgresql.schema import MIGRATIONS

PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server of this module's own, which asks the role `asked` for a password."""
    own = Server().create()
    rules = (own.data / "pg_hba.conf").read_text()
    (own.data / "pg_hba.conf").write_text(f"host all asked 127.0.0.1/32 scram-sha-256\n{rules}")
    own.start().execute(f"CREATE ROLE asked LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    yield own
    own.remove()


async def opens(url: str) -> None:
    """Open the store and work with it."""
    async with open_store(url) as store:
        assert await store.commit([change(job())]) == {}
        await store.probe()


async def why_refused(url: str) -> str:
    """Why the store does not open, with all that a log would hold of it."""
    with pytest.raises(StoreConfigError) as caught:
        async with open_store(url):
            pass
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- the schema ---


async def test_replicas_that_start_at_once_make_the_schema_once() -> None:
    """Eight that find an empty database all open it, and it has been migrated once."""
    name = server().database()
    async with AsyncExitStack() as stack:
        stores = [open_store(server().url(name)) for _ in range(8)]
        await asyncio.gather(*(stack.enter_async_context(store) for store in stores))
        assert await stores[0].commit([change(job())]) == {}
        assert await stores[-1].read_jobs(["job-1"], with_results=True) == [job()]
    assert server().execute("SELECT * FROM jobstatus.schema_version", name) == [(len(MIGRATIONS),)]


async def test_what_is_there_stays_when_the_store_opens_again() -> None:
    """A second start changes nothing."""
    url = server().url(server().database())
    await opens(url)
    async with open_store(url) as store:
        assert await store.read_jobs(["job-1"], with_results=True) == [job()]


async def test_a_newer_schema_is_refused_and_left_as_it_is() -> None:
    """The sentence names both versions, and what to do."""
    name = server().database()
    await opens(server().url(name))
    server().execute("UPDATE jobstatus.schema_version SET version = 99", name)
    sentence = await why_refused(server().url(name))
    assert "99" in sentence
    assert "upgrade" in sentence
    assert server().execute("SELECT version FROM jobstatus.schema_version", name) == [(99,)]


async def test_a_database_can_be_shared_with_others() -> None:
    """Tables of others with the same names are not touched, whatever the search path."""
    name = server().database()
    server().execute("CREATE TABLE jobs (theirs text)", name)
    await opens(server().url(name))
    assert server().execute("SELECT * FROM public.jobs", name) == []


# --- what is refused ---

REFUSED_URLS = [
    f"postgresql://jobstatus:{PASSWORD}@127.0.0.1:port/postgres",
    f"postgresql://jobstatus:pass/{PASSWORD}@127.0.0.1/postgres",
    f"postgresql://jobstatus:p@ss:{PASSWORD}@127.0.0.1/postgres",
    f"postgresql://jobstatus:{PASSWORD}%zz@127.0.0.1/postgres",
    f"postgresql://jobstatus:{PASSWORD}@127.0.0.1/postgres?no_such_option=1",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
async def test_a_url_that_cannot_be_right_is_not_tried(url: str) -> None:
    """The sentence names the setting, and nothing of a password that was not encoded is in it."""
    assert "JOBSTATUS_STORE" in await why_refused(url)


async def test_a_server_that_is_not_there(strict: Server) -> None:
    """Whatever keeps from connecting is said as the server or the system says it, without the password."""
    nobody = f"postgresql://asked:{PASSWORD}@127.0.0.1:{ports.reserve()}/postgres"
    assert "refused" in await why_refused(nobody)
    there = f"postgresql://asked:{{}}@127.0.0.1:{strict.port}/{{}}"
    assert "no_such_database" in await why_refused(there.format(PASSWORD, "no_such_database"))
    assert "password authentication failed" in await why_refused(there.format(f"not-{PASSWORD}", "postgres"))
    await opens(there.format(PASSWORD, "postgres"))


async def test_rights_that_are_missing_are_asked_for() -> None:
    """A role that may not make the schema is refused; with the rights that the sentence names it may do all."""
    name = server().database()
    server().execute("CREATE ROLE modest LOGIN", name)
    url = server().url(name, user="modest")
    assert "rights" in await why_refused(url)
    await opens(server().url(name))
    assert "rights" in await why_refused(url)
    server().execute("GRANT USAGE ON SCHEMA jobstatus TO modest", name)
    server().execute("GRANT SELECT ON ALL TABLES IN SCHEMA jobstatus TO modest", name)
    assert "rights" in await why_refused(url)
    server().execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobstatus TO modest", name)
    async with open_store(url) as store:
        await works_for_a_modest_role(store)


async def works_for_a_modest_role(store: Store) -> None:
    assert await store.commit([change(job(version=2), replaces=1)]) == {}
    assert await store.confirm(["job-1"]) == {}
    assert (await store.try_lead("one", 1000)).leads
    await store.count_jobs()
    await store.probe()


async def test_a_role_that_does_not_wait_for_the_disk_is_refused_until_it_does() -> None:
    """With synchronous_commit off the store does not open; what the sentence says mends it."""
    name = server().database()
    server().execute("CREATE ROLE hasty LOGIN SUPERUSER; ALTER ROLE hasty SET synchronous_commit = off")
    url = server().url(name, user="hasty")
    assert "ALTER ROLE … SET synchronous_commit = on" in await why_refused(url)
    server().execute("ALTER ROLE hasty SET synchronous_commit = on")
    await opens(url)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(strict: Server, setting: str) -> None:
    """The sentence names the setting, and the server is accepted once it is on."""
    strict.set_for_all(**{setting: "off"})
    try:
        assert f"set {setting} = on" in await why_refused(strict.url())
    finally:
        strict.set_for_all(**{setting: ""})
    await opens(strict.url(strict.database()))


async def test_a_database_that_cannot_keep_every_text_is_refused() -> None:
    """Its encoding is named."""
    server().execute("CREATE DATABASE ascii_only ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    assert "SQL_ASCII" in await why_refused(server().url("ascii_only"))


def test_without_the_driver_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    """The driver is imported only when the store is opened."""
    script = "import sys; sys.modules['psycopg'] = None\nimport jobstatus.stores as s\ns.open_store('postgresql://x/y')"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode
    assert "StoreConfigError: this store needs a driver: pip install '.[postgresql]' in the checkout" in done.stderr

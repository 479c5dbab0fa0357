"""The PostgreSQL store while its server fails: each operation ends in time with an error, and the store recovers."""

import asyncio
import gc
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from harness.http import request
from harness.jobs import complete, create
from harness.postgresql import USER, Server, server
from harness.service import service_here
from harness.stores import change, job
from harness.tokens import admin_token, bearer
from harness.waiting import until
from harness.wire import Refusal, refused
from jobstatus.core.circuit_breaker import BreakerLimits
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.store import Answer, Listing, Store
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores import StoreConfigError, open_store
from jobstatus.stores.postgresql import PostgreSQLJobStore
from jobstatus.stores.postgresql.connections import Connection, connect
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from psycopg import errors

LIMITS = PostgreSQLLimits()
LIMIT = LIMITS.operation_seconds + 4
"""Nothing takes longer, but for a count: the store's own limit, and what a busy machine adds."""
HEALED_SECONDS = 60.0
IMPATIENT = PostgreSQLLimits(operation_seconds=1.5, breaker=BreakerLimits(silence_seconds=0.1))
"""Asks early whether the server answers at all."""
KEY = VirtualKey(virtual_key_id="vk", key_sha256=(), created_at_ms=1, updated_at_ms=1)
NAMES = [f"job-{number}" for number in range(100)]

OPERATIONS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "read_answers": lambda one: one.read_answers(["job-1"]),
    "read_jobs": lambda one: one.read_jobs(["job-1"], with_results=True),
    "commit": lambda one: one.commit([change(job("another"))]),
    "confirm": lambda one: one.confirm(["job-1"]),
    "changed": lambda one: one.changed({"job-1": 1}),
    "claim_sweep": lambda one: one.try_lead("me", 1000),
    "due": lambda one: one.due(0, 1),
    "purge": lambda one: one.purge(0, 1),
    "list_jobs": lambda one: one.list_page(Listing(limit=1), 0),
    "probe": lambda one: one.probe(),
    "read_virtual_keys": lambda one: one.read_virtual_keys(["vk"]),
    "find_virtual_keys": lambda one: one.find_virtual_keys([b"x" * 32]),
    "put_virtual_key": lambda one: one.put_virtual_key(KEY),
    "disable_virtual_key": lambda one: one.disable_virtual_key("vk", 2),
    "delete_virtual_key": lambda one: one.delete_virtual_key("vk"),
    "list_virtual_keys": lambda one: one.list_virtual_keys("", 1),
    "virtual_keys_version": lambda one: one.virtual_keys_version(),
}


@pytest.fixture(scope="module")
def fragile() -> Iterator[Server]:
    """A server of this module's own, to be harmed."""
    own = Server().create().start()
    yield own
    own.remove()


@pytest.fixture
def database(fragile: Server) -> str:
    return fragile.database()


@pytest.fixture
async def opened(fragile: Server, database: str) -> AsyncIterator[PostgreSQLJobStore]:
    """An open store upon the fragile server, which has job-1."""
    async with PostgreSQLJobStore(fragile.url(database)) as one:
        assert await one.commit([change(job())]) == {}
        yield one


async def failure_of(operation: Awaitable[Any], limit: float = LIMIT) -> type[Exception] | None:
    """How the operation fails, which has to be in time, and with its cause."""
    (outcome,) = await asyncio.wait_for(asyncio.gather(operation, return_exceptions=True), limit)
    if not isinstance(outcome, BaseException):
        return None
    assert isinstance(outcome, StoreUnavailable | StoreFull), outcome
    assert outcome.__cause__ is not None
    return type(outcome)


async def works(one: Store, name: str) -> bool:
    """Whether the store writes and reads."""
    try:
        await one.commit([change(job(name))])
        assert await one.read_jobs([name], with_results=True) == [job(name)]
    except StoreUnavailable:
        return False
    return True


async def healed(one: Store, name: str = "healed") -> None:
    await until(lambda: works(one, name), HEALED_SECONDS)


def sessions(of: Server, database: str) -> list[int]:
    """The server's processes that serve stores in this database."""
    asked = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'jobstatus'"
    return [pid for (pid,) in of.execute(asked)]


def waiting(of: Server, database: str, for_what: str) -> list[int]:
    """Those of them that wait for this."""
    asked = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = '{for_what}'"
    return [pid for (pid,) in of.execute(asked)]


@asynccontextmanager
async def locked(of: Server, database: str, statement: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """While another client's transaction holds what this statement locks."""
    async with await psycopg.AsyncConnection.connect(of.url(database)) as somebody:
        await somebody.execute(statement.encode())
        yield somebody
        await somebody.rollback()


# --- a server that hangs ---


async def test_whatever_is_asked_of_a_frozen_server_ends_in_time(fragile: Server, opened: PostgreSQLJobStore) -> None:
    """Every operation is StoreUnavailable within its limit, on connections of before and new ones; then all work."""
    await asyncio.gather(*(opened.read_jobs(["job-1"], with_results=True) for _ in range(LIMITS.connections)))
    fragile.freeze()
    try:
        for _ in range(2):
            failures = await asyncio.gather(*(failure_of(ask(opened)) for ask in OPERATIONS.values()))
            assert failures == [StoreUnavailable] * len(OPERATIONS)
        assert await failure_of(opened.count_jobs(), LIMITS.count_seconds + 4) is StoreUnavailable
    finally:
        fragile.thaw()
    await healed(opened)
    assert await asyncio.gather(*(failure_of(ask(opened)) for ask in OPERATIONS.values())) == [None] * len(OPERATIONS)


async def is_silent(store: PostgreSQLJobStore) -> bool:
    """Whether its server counts as silent after one more read, which must fail."""
    assert await failure_of(store.read_answers(["job-1"])) is StoreUnavailable
    return store._breaker.is_down


async def test_a_silent_server_is_waited_for_once(fragile: Server, database: str) -> None:
    """From then on reads and writes are refused at once, and one attempt at a time finds out when it is back."""
    async with PostgreSQLJobStore(fragile.url(database), IMPATIENT) as one:
        assert await one.commit([change(job())]) == {}
        fragile.freeze()
        try:
            await until(lambda: is_silent(one))
            before = psutil.Process().num_fds()
            for _ in range(100):
                refused_at_once = [asyncio.ensure_future(failure_of(ask(one))) for ask in OPERATIONS.values()]
                await asyncio.sleep(0)
                assert not one._short._tasks
                assert not one._listings._tasks
                assert await asyncio.gather(*refused_at_once) == [StoreUnavailable] * len(OPERATIONS)
            assert psutil.Process().num_fds() <= before + 1
        finally:
            fragile.thaw()
        await until(lambda: not one._breaker.is_down, HEALED_SECONDS)
        assert await works(one, "another")


async def test_a_silent_host_before_the_primary_is_not_taken_for_it(fragile: Server, database: str) -> None:
    """It costs time to connect, no more; and the primary's own silence is noticed as soon as without it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{fragile.port}"
        async with PostgreSQLJobStore(f"postgresql://{USER}@{hosts}/{database}", IMPATIENT) as one:
            await healed(one)
            await until(lambda: not one._breaker.is_down)
            fragile.freeze()
            try:
                await until(lambda: is_silent(one))
            finally:
                fragile.thaw()
            await healed(one, "again")


async def test_a_statement_that_waits_for_a_lock_is_no_silence(fragile: Server, database: str) -> None:
    """What needs no lock goes on, however long others wait."""
    async with PostgreSQLJobStore(fragile.url(database), IMPATIENT) as one:
        async with locked(fragile, database, "LOCK TABLE jobstatus.jobs"):
            locked_out = asyncio.ensure_future(failure_of(one.read_answers(["job-1"])))
            while not locked_out.done():
                await one.probe()
            assert await locked_out is StoreUnavailable
        assert await one.commit([change(job())]) == {}


async def test_a_store_closes_though_its_server_is_frozen(fragile: Server, database: str) -> None:
    """With operations under way: those end with an error, closing takes no longer than they may, nothing is left."""
    async with PostgreSQLJobStore(fragile.url(database)) as one:
        await one.commit([change(job())])
        fragile.freeze()
        try:
            asked = [asyncio.ensure_future(failure_of(one.probe())) for _ in range(3)]
            counting = asyncio.ensure_future(failure_of(one.count_jobs(), LIMITS.count_seconds))
            await asyncio.sleep(0)  # they begin
            began = time.monotonic()
            await one.__aexit__(None, None, None)
            assert time.monotonic() - began < LIMITS.close_seconds + 1
            assert await asyncio.gather(*asked, counting) == [StoreUnavailable] * 4
        finally:
            fragile.thaw()


async def test_a_service_upon_a_frozen_server_says_so_and_heals(fragile: Server, database: str) -> None:
    """Polls are 503 with Retry-After, writes STORE_UNAVAILABLE, never anything else; nothing is restarted."""
    owner = bearer(admin_token())
    async with service_here(PostgreSQLJobStore(fragile.url(database))) as service:
        await create(service, "job-1")
        fragile.freeze()
        try:
            polls = asyncio.gather(*(service.poll("job-1", owner) for _ in range(5)))
            assert await refused(complete(service, "job-1")) == Refusal(
                grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"
            )
            answers = await polls
            assert {answer.status for answer in answers} == {503}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)

            async def is_unready() -> bool:
                return (await request(service.admin_port, "/readyz")).status == 503

            await until(is_unready)
        finally:
            fragile.thaw()

        async def is_served() -> bool:
            return (await service.poll("job-1", owner)).status in (200, 202)

        await until(is_served, HEALED_SECONDS)
        await complete(service, "job-1")
        assert (await service.poll("job-1", owner)).status == 200


async def test_writes_that_hang_do_not_take_every_connection(fragile: Server, opened: PostgreSQLJobStore) -> None:
    """While a standby that commits wait for is away, few are left hanging, reads go on, and nothing is acknowledged."""
    before = len(fragile.execute("SELECT pid FROM pg_stat_activity"))
    fragile.set_for_all(synchronous_standby_names="nobody")
    try:
        for attempt in range(6):
            asked = [opened.commit([change(job(f"{attempt}-{number}"))]) for number in range(4)]
            assert await asyncio.gather(*map(failure_of, asked)) == [StoreUnavailable] * 4
            assert await opened.read_jobs(["job-1"], with_results=True) == [job()]
        assert await failure_of(opened.confirm(["job-1"])) is StoreUnavailable
        hanging = len(fragile.execute("SELECT pid FROM pg_stat_activity")) - before
        assert hanging <= LIMITS.connections + LIMITS.max_hanging_writes, "each attempt would have left four"
    finally:
        fragile.set_for_all(synchronous_standby_names="")
    await healed(opened)


async def test_a_commit_that_gave_up_its_standby_is_not_acknowledged(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """The server calls it committed when its wait is cancelled; the store does not, nor confirms it before it is."""
    fragile.set_for_all(synchronous_standby_names="nobody")
    try:
        committing = asyncio.ensure_future(failure_of(opened.commit([change(job("doubtful"))])))
        await until(lambda: bool(waiting(fragile, database, "SyncRep")))
        fragile.execute(f"SELECT pg_cancel_backend({waiting(fragile, database, 'SyncRep')[0]})")
        assert await committing is StoreUnavailable
        assert await opened.read_jobs(["doubtful"], with_results=True) == [job("doubtful")]
        assert await failure_of(opened.confirm(["doubtful"])) is StoreUnavailable
    finally:
        fragile.set_for_all(synchronous_standby_names="")
    await healed(opened)
    assert await opened.confirm(["doubtful"]) == {}


async def test_an_attempt_to_connect_that_is_given_up_leaves_no_socket_open() -> None:
    """Not even until the garbage is collected: an outage would cost a file descriptor for each attempt."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/postgres?connect_timeout=2"
        attempts = [connect(url) for _ in range(5)]
        before = psutil.Process().num_fds()
        gc.disable()
        try:
            outcomes = await asyncio.gather(*attempts, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [errors.ConnectionTimeout] * 5
            assert psutil.Process().num_fds() == before
        finally:
            gc.enable()


# --- connections that break ---


async def test_connections_that_the_server_has_ended_are_not_used(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """After all idle ones were terminated the next operations work at once, without an error."""
    for _ in range(3):
        await asyncio.gather(*(opened.read_jobs([name], with_results=False) for name in NAMES))
        ended = sessions(fragile, database)
        fragile.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM unnest(ARRAY{ended}) AS pid")
        assert await opened.read_jobs(["job-1"], with_results=True) == [job()]
        await opened.probe()
        assert not set(ended) & set(sessions(fragile, database))


async def test_a_connection_that_is_ended_under_a_statement_is_an_error_once(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """What was under way is StoreUnavailable at once; what comes next works."""
    async with locked(fragile, database, "LOCK TABLE jobstatus.jobs"):
        asked = [asyncio.ensure_future(failure_of(opened.read_jobs(["job-1"], with_results=True))) for _ in range(4)]
        await until(lambda: len(waiting(fragile, database, "relation")) == 4)
        began = time.monotonic()
        fragile.execute(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{sessions(fragile, database)}) AS pid")
        assert await asyncio.gather(*asked) == [StoreUnavailable] * 4
        assert time.monotonic() - began < LIMITS.operation_seconds - 0.5
    assert await opened.read_jobs(["job-1"], with_results=True) == [job()]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_is_survived(fragile: Server, opened: PostgreSQLJobStore, mode: Any) -> None:
    """What was acknowledged is there after it; operations in the gap are errors in time."""
    ended = False
    outcomes = set()

    async def write() -> None:
        number = 0
        while not ended:
            number += 1
            failure = await failure_of(opened.commit([change(job(f"at-{number}"))]))
            outcomes.add(failure)
            if failure is None:
                acknowledged.append(f"at-{number}")

    acknowledged: list[str] = []
    writing = asyncio.ensure_future(write())
    await until(lambda: bool(acknowledged))
    await asyncio.to_thread(fragile.restart, mode)
    so_far = len(acknowledged)
    await until(lambda: len(acknowledged) > so_far, HEALED_SECONDS)
    ended = True
    await writing
    assert None not in await opened.read_jobs(acknowledged, with_results=False)
    assert outcomes <= {None, StoreUnavailable}


async def test_a_crash_of_one_process_of_the_server_is_survived(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """A killed one takes all others along; the store has new ones as soon as the server has recovered."""
    await asyncio.gather(*(opened.read_jobs([name], with_results=False) for name in NAMES))
    killed = sessions(fragile, database)[0]
    (process,) = [process for process in fragile._processes() if process.pid == killed]
    process.kill()
    await healed(opened)


async def test_after_the_server_has_turned_read_only_no_connection_of_before_is_kept(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """A write that is refused as on a standby (25006) makes the store replace all connections."""
    await asyncio.gather(*(opened.read_jobs([name], with_results=False) for name in NAMES))
    before = sessions(fragile, database)
    assert len(before) > 1

    async def write(connection: Connection) -> None:
        await connection.execute(b"BEGIN READ ONLY")
        await connection.execute(b"DELETE FROM jobstatus.jobs")

    with pytest.raises(StoreUnavailable) as caught:
        await opened._short.use(write)
    assert isinstance(caught.value.__cause__, errors.ReadOnlySqlTransaction)
    await works(opened, "anew")
    await until(lambda: not set(before) & set(sessions(fragile, database)))


async def test_a_server_that_takes_no_writes_fails_the_probe(fragile: Server, opened: PostgreSQLJobStore) -> None:
    """A server made read-only while it runs takes no writes and answers reads, and the store recovers."""
    fragile.set_for_all(default_transaction_read_only="on")
    try:
        await until(lambda: _is(failure_of(opened.probe()), StoreUnavailable))
        assert await failure_of(opened.commit([change(job("another"))])) is StoreUnavailable
        assert await opened.read_jobs(["another"], with_results=True) == [None]
    finally:
        await asyncio.to_thread(make_writable, fragile)
    await healed(opened)


def make_writable(of: Server) -> None:
    with psycopg.connect(f"{of.url()}?options=-c%20default_transaction_read_only%3Doff", autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


async def _is(failure: Awaitable[type[Exception] | None], expected: type[Exception]) -> bool:
    return await failure is expected


async def test_a_standby_takes_over() -> None:
    """The primary hangs, its synchronous standby is promoted: nothing acknowledged is missing, without a restart.

    A standby by itself is refused at the start.
    """
    primary = Server().create().start(synchronous_standby_names="heir")
    heir = Server().copy_of(primary, "heir").start()
    try:
        with pytest.raises(StoreConfigError, match="hot standby"):
            await open_store(heir.url()).__aenter__()
        async with open_store(primary.url("postgres", heir)) as one:
            assert await one.commit([change(job(name)) for name in NAMES]) == {}
            primary.freeze()
            promoting = asyncio.ensure_future(asyncio.to_thread(heir.promote))
            await healed(one)
            await promoting
            assert await one.read_jobs(NAMES, with_results=True) == [job(name) for name in NAMES]
            assert await one.commit([change(job(name, version=2), replaces=1) for name in NAMES]) == {}
    finally:
        primary.remove()
        heir.remove()


# --- too much ---


async def test_when_all_connections_are_taken_the_others_wait_their_time(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """Two hundred reads that a lock blocks end in time, without more connections, and then reads work."""
    async with locked(fragile, database, "LOCK TABLE jobstatus.jobs"):
        asked = [failure_of(opened.read_jobs(["job-1"], with_results=True)) for _ in range(200)]
        assert await asyncio.gather(*asked) == [StoreUnavailable] * 200
        assert await failure_of(opened.probe()) is None, "what needs no lock is done again"
    assert await opened.read_jobs(["job-1"], with_results=True) == [job()]


async def test_listings_that_wait_for_each_other_end_in_time(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """Also the last of many, though each would wait for a lock as long as it may."""
    async with locked(fragile, database, "LOCK TABLE jobstatus.jobs"):
        asked = [failure_of(opened.list_page(Listing(limit=1), 0)) for _ in range(20)]
        assert await asyncio.gather(*asked) == [StoreUnavailable] * 20
    assert (await opened.list_page(Listing(limit=1), 0)).jobs == [job()]


SLOW_COUNT = (
    "CREATE SCHEMA slow",
    "CREATE FUNCTION slow.step(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1 + 1 FROM pg_sleep(60)'",
    "CREATE AGGREGATE slow.count(*) (SFUNC = slow.step, STYPE = bigint, INITCOND = '0')",
    "ALTER DATABASE {database} SET search_path = slow, pg_catalog",
)
"""Makes every count on new connections take a minute for each row."""


async def test_a_long_count_holds_up_no_read_and_no_write(fragile: Server, database: str) -> None:
    """Counts have a connection of their own; many that hang leave listings and the others theirs."""
    url = fragile.url(database)
    async with PostgreSQLJobStore(url, PostgreSQLLimits(count_seconds=4.0)) as opened:
        assert await opened.commit([change(job())]) == {}
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
            for statement in SLOW_COUNT:
                await owner.execute(statement.format(database=database).encode())
        counting = [asyncio.ensure_future(failure_of(opened.count_jobs(), 30)) for _ in range(20)]
        await until(lambda: bool(waiting(fragile, database, "PgSleep")))
        assert await failure_of(opened.list_page(Listing(limit=1), 0)) is None
        for number in range(20):
            assert await failure_of(opened.commit([change(job(f"beside-{number}"))])) is None
        assert len(waiting(fragile, database, "PgSleep")) == 1
        assert await asyncio.gather(*counting) == [StoreUnavailable] * 20


async def test_a_server_without_free_connections_is_unavailable(fragile: Server, database: str) -> None:
    """While others have them all (53300) operations fail at once; the store recovers when they go."""
    role = f"limited_{database}"
    fragile.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2")
    fragile.execute(f"ALTER DATABASE {database} OWNER TO {role}")
    url = fragile.url(database, user=role)
    async with PostgreSQLJobStore(url) as one:
        assert await works(one, "before")
        fragile.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{role}'")
        async with await psycopg.AsyncConnection.connect(url), await psycopg.AsyncConnection.connect(url):
            assert await failure_of(one.read_jobs(["before"], with_results=True)) is StoreUnavailable
            assert await failure_of(one.probe()) is StoreUnavailable
        await healed(one)


async def test_no_room_is_told_as_such(fragile: Server, database: str, opened: PostgreSQLJobStore) -> None:
    """What the server refuses for want of space (53100) is StoreFull; reads go on, and writes when there is room."""
    fragile.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
        database,
    )
    fragile.execute("CREATE TRIGGER full_disk BEFORE INSERT ON jobstatus.jobs EXECUTE FUNCTION full_disk()", database)
    assert await failure_of(opened.commit([change(job("another"))])) is StoreFull
    assert await opened.read_jobs(["job-1", "another"], with_results=True) == [job(), None]
    fragile.execute("DROP TRIGGER full_disk ON jobstatus.jobs", database)
    assert await opened.commit([change(job("another"))]) == {}


async def test_what_the_server_says_besides_is_unavailable_with_its_cause(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """A table that has gone is the operator's affair, not a fault that ends the caller."""
    fragile.execute("ALTER TABLE jobstatus.jobs RENAME TO elsewhere", database)
    with pytest.raises(StoreUnavailable) as caught:
        await opened.read_answers(["job-1"])
    assert isinstance(caught.value.__cause__, errors.UndefinedTable)
    fragile.execute("ALTER TABLE jobstatus.elsewhere RENAME TO jobs", database)
    assert await opened.read_jobs(["job-1"], with_results=True) == [job()]


# --- others at work ---


async def test_a_batch_that_is_locked_out_is_tried_again(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """A deadlock with another client costs time, not the batch."""
    await opened.commit([change(job("a")), change(job("b"))])
    lock = "SELECT 1 FROM jobstatus.jobs WHERE job_id = '{}' FOR UPDATE"
    async with locked(fragile, database, lock.format("b")) as somebody:
        await somebody.execute("SET deadlock_timeout = '1min'")  # it is the other that gives in
        batch = [change(job(name, version=2), replaces=1) for name in ("a", "b")]
        committing = asyncio.ensure_future(opened.commit(batch))
        await until(lambda: bool(waiting(fragile, database, "transactionid")))
        await somebody.execute(lock.format("a").encode())  # returns when the store's statement was ended for it
        await somebody.commit()
        assert await committing == {}
    ((deadlocks,),) = fragile.execute(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database}'")
    assert deadlocks >= 1  # and more where the store tries again before the other, which was let in, has woken up


async def test_batches_of_several_processes_do_not_lock_each_other_out(fragile: Server, database: str) -> None:
    """Four that change the same hundred jobs in any order, at once, win or lose races, and never wait in a circle."""
    async with open_store(fragile.url(database)) as one, open_store(fragile.url(database)) as two:
        won = 0

        async def write(through: Store, seed: int) -> None:
            nonlocal won
            chance = random.Random(seed)
            for _ in range(40):
                names = chance.sample(NAMES, 50)
                found = await through.read_jobs(names, with_results=False)
                versions = [known.version if isinstance(known, Job) else 0 for known in found]
                versions_of = zip(names, versions, strict=True)
                batch = [change(job(name, version=known + 1), known) for name, known in versions_of]
                lost = await through.commit(batch)
                won += len(batch) - len(lost)

        await asyncio.gather(*(write(through, seed) for seed, through in enumerate((one, two, one, two))))
        found = await one.read_jobs(NAMES, with_results=False)
        assert sum(known.version for known in found if isinstance(known, Job)) == won
    asked = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{database}'"
    assert fragile.execute(asked) == [(0,)]


async def test_a_storm_of_cancelled_calls_mixes_nothing_up(
    fragile: Server, database: str, opened: PostgreSQLJobStore
) -> None:
    """Calls that are cancelled at any moment leave the connections sound: each answer is of the job asked for."""
    await opened.commit([change(job(name, message=name)) for name in NAMES])
    chance = random.Random(11)

    async def ask(name: str) -> None:
        (answer,) = await opened.read_answers([name])
        assert isinstance(answer, Answer)
        assert f'"{name}"'.encode() in answer.body

    async def storm() -> None:
        asked = [asyncio.ensure_future(ask(name)) for name in chance.choices(NAMES, k=50)]
        await asyncio.sleep(chance.random() * 0.003)  # any moment
        for one in chance.sample(asked, 25):
            one.cancel()
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)

    for _ in range(40):
        await storm()
    await asyncio.gather(*map(ask, NAMES))
    assert len(sessions(fragile, database)) <= LIMITS.connections + LIMITS.long_connections


async def test_the_shared_server_was_left_in_peace() -> None:
    """The faults of this module are those of its own server."""
    assert server().execute("SHOW synchronous_standby_names") == [("",)]

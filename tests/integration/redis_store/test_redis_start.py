"""What a store URL may say, and which servers a store refuses or warns of, each time with what to do about it."""

import asyncio
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from harness import valkey
from harness.logged import events_logged
from harness.stores import change, job
from harness.tracking import creation, tracker_on
from harness.waiting import until
from jobstatus.core.commands import CompleteJob
from jobstatus.core.errors import ResultTooLarge
from jobstatus.core.job import Job
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer
from jobstatus.stores import StoreConfigError, open_store
from jobstatus.stores.redis.cluster.durability import Durability
from jobstatus.stores.redis.cluster.server_info import ServerInfo, parse_server_info
from jobstatus.stores.redis.cluster.url import NodeAddress
from jobstatus.stores.redis.url import parse_url

SECRET = "s3cret-w0rd"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The events that were warned of."""
    return events_logged(caplog, level=logging.WARNING)


# --- the URL ---


def test_a_url_says_who_and_where_and_how() -> None:
    """Several hosts, IPv6 among them, a login with escaped characters, a database and options."""
    target = parse_url("redis://me:p%40ss%2F@one:7001,[::1]:7002,two/3?prefix=a.b&fsync=false&ephemeral=true")
    assert target.cluster.addresses == (NodeAddress("one", 7001), NodeAddress("::1", 7002), NodeAddress("two", 6379))
    assert (target.cluster.login, target.cluster.database, target.prefix) == (("me", "p@ss/"), 3, "a.b")
    assert (target.waits_for_fsync, target.is_ephemeral, target.cluster.tls) == (False, True, None)
    assert "p@ss" not in repr(target)


def test_a_url_may_say_nothing_but_the_host() -> None:
    """A password alone is the default user's; TLS checks certificates."""
    plain = parse_url("redis://host")
    assert (plain.cluster.addresses, plain.cluster.login, plain.cluster.database) == (
        (NodeAddress("host", 6379),),
        (),
        0,
    )
    assert (plain.prefix, plain.waits_for_fsync, plain.is_ephemeral) == ("jobstatus", True, False)
    secure = parse_url("rediss://:word@host").cluster
    assert secure.login == ("word",)
    assert secure.tls is not None
    assert (secure.tls.verify_mode, secure.tls.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("host:port", "host:port"),
        ("host:99999", "host:port"),
        ("host/main", "number of a database"),
        ("me@host", "user and no password"),
        ("host?prefix={x}", "prefix"),
        ("host?prefix=", "prefix"),
        ("host?fsync=maybe", "fsync must be true or false"),
        ("host?pool=7", "unknown option 'pool'"),
    ],
)
def test_a_url_that_cannot_be_is_refused_with_what_is_wrong(rest: str, words: str) -> None:
    """One sentence that names the part."""
    with pytest.raises(StoreConfigError, match=words):
        parse_url(f"redis://{rest}")


def test_files_that_are_not_there_are_named_as_such() -> None:
    """TLS with files that cannot be read does not start."""
    with pytest.raises(StoreConfigError, match="ssl_ca_certs"):
        parse_url("rediss://host?ssl_ca_certs=/nowhere.pem")


def test_without_the_driver_the_url_says_what_to_install(tmp_path: Path) -> None:
    """The store is an optional part."""
    (tmp_path / "hiredis.py").write_text("raise ModuleNotFoundError(name='hiredis')")
    code = "from jobstatus.stores import open_store; open_store('redis://host')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert ended.returncode == 1
    assert (
        b"StoreConfigError: redis:// and rediss:// need a driver: pip install '.[redis]' in the checkout"
        in ended.stderr
    )


# --- who answers ---


async def refusal(url: str) -> str:
    """Why a store does not open."""
    with pytest.raises(StoreConfigError) as refused:
        async with open_store(url):
            pass
    return str(refused.value)


async def test_a_server_that_is_not_there_is_named() -> None:
    """No server listens: the message has the address and nothing of the login."""
    nobody = valkey.Server()
    message = await refusal(f"redis://me:{SECRET}@127.0.0.1:{nobody.port}")
    assert f"127.0.0.1:{nobody.port}" in message
    assert SECRET not in message
    nobody.remove()


async def test_something_else_that_answers_is_no_server() -> None:
    """A server of another protocol is refused in time."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            assert "no server answers" in await refusal(f"redis://127.0.0.1:{port}")


async def test_a_password_that_is_wrong_is_not_repeated(server: valkey.Server) -> None:
    """A wrong login, and one for a server without a password, are refused; the right one works."""
    where = f"127.0.0.1:{server.port}"
    assert "refuses the user, password" in await refusal(f"redis://:{SECRET}@{where}")
    server.command("CONFIG", "SET", "requirepass", SECRET)
    for login in ("", ":wrong@", f"me:{SECRET}@"):
        message = await refusal(f"redis://{login}{where}")
        assert "refuses the user, password" in message
        assert SECRET not in message
        assert "wrong" not in message
    async with open_store(f"redis://:{SECRET}@{where}") as store:
        assert await store.commit([change(job())]) == {}


async def test_a_replica_is_refused(server: valkey.Server) -> None:
    """Only a primary can be written to."""
    replica = valkey.Server().start()
    replica.command("REPLICAOF", "127.0.0.1", server.port)
    assert "is a replica" in await refusal(replica.url())
    replica.remove()


async def test_databases_and_prefixes_are_apart(server: valkey.Server) -> None:
    """Two services on one server do not see each other."""
    urls = [f"redis://127.0.0.1:{server.port}/{rest}" for rest in ("0", "1", "1?prefix=other")]
    for url in urls:
        async with open_store(url) as store:
            assert await store.read_jobs(["job-1"], with_results=False) == [None]
            assert await store.commit([change(job())]) == {}


@asynccontextmanager
async def in_front_of(
    port: int, *, certificate: ssl.SSLContext | None = None, changing: tuple[bytes, bytes] = (b"", b"")
) -> AsyncIterator[int]:
    """A port that hands on to the other one, with TLS, or with something else said than was."""

    tasks = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data.replace(*changing) if changing[0] else data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)
        finally:
            for end in (back, writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async with await asyncio.start_server(connect, "127.0.0.1", 0, ssl=certificate) as front:
        yield front.sockets[0].getsockname()[1]
        await asyncio.gather(*(task for task in tasks if task is not None))


async def test_tls_checks_who_answers(server: valkey.Server, tmp_path: Path) -> None:
    """With the authority's certificate the store opens; without it, or under another name, it does not."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with in_front_of(server.port, certificate=context) as port:
        trusting = f"?ssl_ca_certs={tmp_path / 'ca.pem'}"
        async with open_store(f"rediss://127.0.0.1:{port}{trusting}") as store:
            assert await store.commit([change(job())]) == {}
            assert await store.read_jobs(["job-1"], with_results=False) == [job()]
        assert "no server answers" in await refusal(f"rediss://127.0.0.1:{port}")
        assert "no server answers" in await refusal(f"rediss://localhost:{port}{trusting}")


# --- how it is configured ---


async def test_an_old_server_is_refused(server: valkey.Server) -> None:
    """The sentence says which version it has and which would do."""
    ours = server.info("redis_version")
    old = f"6{ours[1:]}"
    told = (f"redis_version:{ours}".encode(), f"redis_version:{old}".encode())
    async with in_front_of(server.port, changing=told) as port:
        assert f"has version {old}: use Redis 7.0 or newer" in await refusal(f"redis://127.0.0.1:{port}")


async def test_a_server_that_drops_keys_is_refused(server: valkey.Server, caplog: pytest.LogCaptureFixture) -> None:
    """An eviction policy is refused where memory has a limit, and warned of where it has none."""
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with open_store(server.url()):
        assert warnings(caplog) == ["store_may_evict"]
    for policy in ("allkeys-lru", "volatile-ttl"):
        server.command("CONFIG", "SET", "maxmemory", 10**9, "maxmemory-policy", policy)
        assert f"(maxmemory-policy {policy}): set maxmemory-policy to noeviction" in await refusal(server.url())


async def test_a_server_that_writes_nothing_down_is_refused_unless_that_is_wanted(
    server: valkey.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither log nor snapshots: refused, or with ephemeral=true warned of; snapshots alone are warned of."""
    server.command("CONFIG", "SET", "appendonly", "no")
    assert "set appendonly to yes, or say ephemeral=true" in await refusal(server.url())
    async with open_store(server.url("ephemeral=true")) as store:
        assert warnings(caplog) == ["store_not_persistent"]
        assert await store.commit([change(job())]) == {}
    caplog.clear()
    server.command("CONFIG", "SET", "save", "3600 1")
    async with open_store(server.url()):
        assert warnings(caplog) == ["store_without_aof"]


@pytest.mark.parametrize(
    ("policy", "events"),
    [("no", ["store_fsync_off"]), ("everysec", ["store_fsync_every_second"]), ("always", [])],
)
async def test_a_log_that_is_not_synced_at_once_is_warned_of(
    server: valkey.Server, caplog: pytest.LogCaptureFixture, policy: str, events: list[str]
) -> None:
    """A sync once a second is waited for; one that the system decides on is warned of, too."""
    server.command("CONFIG", "SET", "appendfsync", policy)
    async with open_store(server.url()) as store:
        assert warnings(caplog) == events
        if policy != "no":
            assert await store.commit([change(job())]) == {}


async def test_fsync_false_does_not_wait_for_the_disk(server: valkey.Server, caplog: pytest.LogCaptureFixture) -> None:
    """Then a log that is synced once a second is as it should be, and no write waits for it."""
    server.command("CONFIG", "SET", "appendfsync", "everysec")
    async with open_store(server.url("fsync=false")) as store:
        assert warnings(caplog) == []
        assert await store.commit([change(job())]) == {}
    assert "waitaof" not in server.command("INFO", "commandstats").decode()


async def test_a_configuration_that_may_not_be_read_is_warned_of(
    server: valkey.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What INFO tells is checked all the same."""
    server.command("ACL", "SETUSER", "jobs", "on", f">{SECRET}", "~jobstatus:*", "+@all", "-config")
    url = f"redis://jobs:{SECRET}@127.0.0.1:{server.port}"
    async with open_store(url) as store:
        assert warnings(caplog) == ["store_config_unreadable"]
        assert await store.commit([change(job())]) == {}
    server.command("CONFIG", "SET", "maxmemory", 10**9, "maxmemory-policy", "allkeys-lru")
    assert "noeviction" in await refusal(url)


@pytest.mark.parametrize(
    ("setting", "limit", "most"),
    [
        ("proto-max-bulk-len", "1mb", 1 << 20),
        ("client-query-buffer-limit", "2mb", 1 << 20),
        ("client-output-buffer-limit", "normal 4mb 0 0", 1 << 21),
        ("client-output-buffer-limit", "normal 0 2mb 1", 1 << 20),
    ],
)
async def test_a_result_that_could_not_be_read_back_is_refused(
    server: valkey.Server, caplog: pytest.LogCaptureFixture, setting: str, limit: str, most: int
) -> None:
    """It fails nothing else, the largest are read back however many are asked for, and the start warns of it."""
    server.command("CONFIG", "SET", setting, limit)
    async with open_store(server.url()) as store:
        assert warnings(caplog) == ["store_limits_results"]
        tracker = tracker_on(store)
        small = [f"small-{number}" for number in range(300)]
        for job_id in ("large-1", "large-2", "large-3", *small):
            await tracker.apply(creation(job_id))
        for job_id in ("large-1", "large-2", "large-3"):
            with pytest.raises(ResultTooLarge, match=f"at most {most}"):
                await tracker.apply(CompleteJob(job_id=job_id, result=b"1" * (most + 1)))
            await tracker.apply(CompleteJob(job_id=job_id, result=b"1" * most))
        await tracker.write([CompleteJob(job_id=job_id, result=b"2" * SMALL_RESULT_BYTES) for job_id in small])
        jobs = await store.read_jobs(["large-1", *small, "large-2", "large-3"], with_results=True)
        assert [len(each.result or b"") for each in jobs if isinstance(each, Job)] == [
            most,
            *[SMALL_RESULT_BYTES] * len(small),
            *[most] * 2,
        ]
        assert all(isinstance(each, Answer) for each in await store.read_answers(small))
        await tracker.close()


async def test_a_command_that_may_not_be_used_is_said_once(
    server: valkey.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A right that is missing is a store that does not answer, and a line in the log that says of which kind."""
    server.command("ACL", "SETUSER", "jobs", "on", f">{SECRET}", "~jobstatus:*", "+@all", "-zadd")
    async with open_store(f"redis://jobs:{SECRET}@127.0.0.1:{server.port}") as store:
        for _ in range(3):
            assert set(await store.commit([change(job())])) == {"job-1"}
    assert events_logged(caplog).count("store_command_refused") == 1


async def test_a_cluster_that_refuses_all_when_a_part_fails_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """And where its primaries have replicas, one of them is required, unless a number is given."""
    cluster = valkey.cluster()
    with caplog.at_level(logging.INFO, "jobstatus"):
        async with open_store(cluster.url()) as store:
            assert store._client.durability.replicas == 1  # type: ignore[attr-defined]
            assert "store_replicas_required" in events_logged(caplog)
        async with open_store(cluster.url(), redis_replicas=0) as store:
            assert store._client.durability.replicas == 0  # type: ignore[attr-defined]
    assert warnings(caplog) == []
    server = cluster.primaries()[0]
    server.command("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    try:
        async with open_store(cluster.url()):
            assert "store_needs_full_coverage" in warnings(caplog)
    finally:
        server.command("CONFIG", "SET", "cluster-require-full-coverage", "no")


async def test_replicas_that_are_missing_at_the_start_are_warned_of(
    server: valkey.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The store opens: reads work, and writes will once the replicas are there."""
    async with open_store(server.url(), redis_replicas=1) as store:
        assert "store_replicas_missing" in warnings(caplog)
        assert await store.read_jobs(["job-1"], with_results=False) == [None]


async def test_a_server_that_is_still_empty_of_slots_is_no_cluster_yet() -> None:
    """A server in cluster mode whose slots are not assigned is refused."""
    lonely = valkey.Server("--cluster-enabled", "yes", "--appendonly", "yes").start()
    assert "finish setting it up" in await refusal(lonely.url())
    lonely.remove()


def test_an_old_server_is_known_by_its_version() -> None:
    """Versions are compared as numbers; only newer servers know WAITAOF, and only with a log."""
    old = parse_server_info(b"redis_version:6.2.14\r\nredis_mode:standalone\r\nrole:master\r\naof_enabled:1\r\n")
    assert (old.version, old.is_cluster, old.knows_waitaof) == ((6, 2, 14), False, False)
    new = parse_server_info(b"redis_version:10.0.1\r\nredis_mode:cluster\r\naof_enabled:1\r\n")
    assert (new.is_cluster, new.knows_waitaof) == (True, True)
    assert not ServerInfo(version=(9, 1, 0)).knows_waitaof


def test_a_write_is_durable_only_when_all_that_was_asked_is_answered() -> None:
    """Every count must be reached, and an error or nothing is no count."""
    durability = Durability(replicas=1, fsync=True, replicas_with_aof=1)
    new = ServerInfo(version=(7, 2), has_aof=True)
    waits = durability.waits(new, size=0, was_missed=False)
    assert waits.are_fulfilled_by([1, [1, 1]])
    assert waits.are_fulfilled_by([2, [1, 2]])
    for replies in ([0, [1, 1]], [1, [0, 1]], [1, [1, 0]], [None, [1, 1]], [1, b"ERR"]):
        assert not waits.are_fulfilled_by(replies)
    assert durability.waits(ServerInfo(version=(7, 0), has_aof=True), size=0, was_missed=False).least == ((1,),)
    small, large = (durability.waits(new, size=size, was_missed=False) for size in (0, 10**7))
    assert small.ms < large.ms
    assert durability.waits(new, size=0, was_missed=True).ms < small.ms
    assert Durability().waits(ServerInfo(version=(7, 2), has_aof=True), size=0, was_missed=False).least == ()


async def test_opening_and_closing_leaves_no_connection(server: valkey.Server) -> None:
    """A store that was closed lets go of the server, also one that was refused."""
    for _ in range(3):
        async with open_store(server.url()) as store:
            await asyncio.gather(*(store.read_answers([str(number)]) for number in range(30)))
    server.command("CONFIG", "SET", "maxmemory", 10**9, "maxmemory-policy", "allkeys-lru")
    await refusal(server.url())
    await until(lambda: server.info("connected_clients") == "1")

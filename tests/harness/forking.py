"""Starts the command by a fork of a process that has imported it, which takes a tenth of the time of an import.

What is started has an environment, a folder and standard streams of its own, runs `jobstatus.cli.main` as the console
script does, and ends as that ends. A supervisor is forked of another process, because it must not have loaded gRPC.
What a library reads from the environment while it is imported cannot be set so: such tests use the installed command.
"""

import asyncio
import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

from harness.command import LIMIT_SECONDS, Ended

_MODULES: Final = (
    *("jobstatus.cli.serve", "jobstatus.cli.edge", "jobstatus.cli.migrate", "jobstatus.cli.jobs"),
    *("jobstatus.processes.start", "jobstatus.app.service", "jobstatus.app.edge"),
)
_SUPERVISOR: Final = ("jobstatus.cli.serve", "jobstatus.processes.start", "jobstatus.processes.supervisor")
"""What a supervisor needs, none of which loads gRPC."""
_END: Final = b"\n"
_MANY_BYTES: Final = 65_536


class Forked:
    """A command that runs: as much of asyncio's Process as tests use."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._follow(reader, writer))

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        self.returncode = int(await reader.readline())
        writer.close()
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
    modules: tuple[str, ...] = _MODULES,
) -> Forked:
    """Start `jobstatus` with these arguments, in a process that has imported these modules."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_forking(modules))
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(connection, [request], [stdout.fileno(), stderr.fileno()])
        connection.sendall(_END)
        reader, writer = await asyncio.open_connection(sock=connection.dup())
    return Forked(int(await reader.readline()), reader, writer)


async def run(*arguments: str, env: Mapping[str, str], cwd: Path) -> Ended:
    """Run `jobstatus` with these arguments, which has to end in time."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = await start(*arguments, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                code = await child.wait()
        finally:
            child.kill()
        for stream in (out, err):
            stream.seek(0)
        return Ended(code, out.read().decode(), err.read().decode())


start_supervisor: Final = partial(start, modules=_SUPERVISOR)


@cache
def _forking(modules: tuple[str, ...]) -> str:
    """Return the address of the process that forks, with these modules; it lives as long as this one."""
    folder = tempfile.TemporaryDirectory(prefix="forking-")
    address = f"{folder.name}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from harness.forking import serve; serve({listener.fileno()}, {modules})"],
        # The command sets GRPC_VERBOSITY before it imports gRPC, which reads it then.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "GRPC_VERBOSITY": "NONE"},
        pass_fds=[listener.fileno()],
        stdin=subprocess.PIPE,
    )
    listener.close()

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    return address


# --- in the process that forks ---


def serve(listening: int, modules: tuple[str, ...]) -> None:
    """Start what is asked for on the socket, and tell how it ended, until standard input ends."""
    for name in modules:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(fileno=listening)
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    asking: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([sys.stdin, woken, listener], [], [])
        if sys.stdin in ready:
            break
        if woken in ready:
            woken.recv(_MANY_BYTES)
            _tell_of_ends(asking)
        if listener in ready:
            connection, _ = listener.accept()
            request, streams = _received(connection)
            pid = os.fork()
            if not pid:
                for inherited in (listener, woken, waking, connection, *asking.values()):
                    inherited.close()
                _become(request, streams)
                return
            for stream in streams:
                os.close(stream)
            connection.sendall(b"%d\n" % pid)
            asking[pid] = connection
    for pid in asking:
        os.kill(pid, signal.SIGKILL)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    request, streams, _, _ = socket.recv_fds(connection, _MANY_BYTES, 2)
    while not request.endswith(_END):
        request += connection.recv(_MANY_BYTES)
    return json.loads(request), streams


def _tell_of_ends(asking: dict[int, socket.socket]) -> None:
    for pid in tuple(asking):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with asking.pop(pid) as connection, suppress(OSError):  # whoever asked may be gone
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Run the command in this process, which was forked for it. Raise SystemExit."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Path(os.devnull).open("rb") as nothing:
        for target, source in enumerate((nothing.fileno(), *streams)):
            os.dup2(source, target)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["jobstatus", *request["arguments"]]
    from jobstatus.cli import main  # noqa: PLC0415  # not needed by whoever starts commands

    main()

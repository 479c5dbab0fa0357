"""A supervisor and a reload that comes while a serving process is starting."""

import asyncio
import json
import os
import signal
import socket
from types import SimpleNamespace

import pytest
from harness.logged import events_logged
from jobstatus.processes.launch import Launch, Source
from jobstatus.processes.supervisor import SupervisorLimits, _Supervisor
from jobstatus.settings import Address, Settings

HERE = Address("127.0.0.1", 1)


class Child:
    """Stands for a process that is started: it says that it is up, and answers one question."""

    def __init__(self, supervisor: _Supervisor, answer: str) -> None:
        self.supervisor = supervisor
        self.answer = answer
        self.questions: list[str] = []
        self.signals: list[signal.Signals] = []

    async def start(self, *_: str, stdin: int, **__: object) -> SimpleNamespace:
        """Take the place of asyncio.create_subprocess_exec. A reload comes before it is done."""
        await self.supervisor._reload(Settings(), ())
        ours = socket.socket(fileno=os.dup(stdin))
        self.serving = asyncio.create_task(self.serve(*await asyncio.open_unix_connection(sock=ours)))
        return SimpleNamespace(pid=1, returncode=None, send_signal=self.signals.append)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        writer.write(b"up\n")
        number, question = json.loads(await reader.readline())
        self.questions.append(question)
        writer.write(json.dumps([number, self.answer]).encode() + b"\n")
        await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("answer", "events", "signals"),
    [("", [], []), ("a file is gone", ["child_reload_failed"], [signal.SIGTERM])],
)
async def test_a_process_that_starts_during_a_reload_is_not_left_with_old_settings(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: str,
    events: list[str],
    signals: list[signal.Signals],
) -> None:
    """It reloads as well; where it cannot it ends, and its replacement has the new settings from the start."""
    launch = Launch(source=Source(check=lambda *_: None), settings=Settings(), issuers=())
    supervisor = _Supervisor(launch, SupervisorLimits(), http=HERE, grpc=HERE)
    process = Child(supervisor, answer)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", process.start)
    child = await supervisor._start(1)
    child.channel.close()
    await process.serving
    assert process.questions == ["reload"]
    assert (events_logged(caplog), process.signals) == (events, signals)

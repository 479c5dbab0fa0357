"""A supervisor and its serving processes at a reload: what those that come later are to serve."""

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

    def __init__(self, answer: str, reloaded_by: _Supervisor | None = None) -> None:
        self.answer = answer
        self.reloaded_by = reloaded_by
        self.questions: list[str] = []
        self.signals: list[signal.Signals] = []

    async def start(self, *_: str, stdin: int, **__: object) -> SimpleNamespace:
        """Take the place of asyncio.create_subprocess_exec. A reload of `reloaded_by` comes before it is done."""
        if self.reloaded_by is not None:
            await self.reloaded_by._reload(Settings(), ())
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


def supervisor_here() -> _Supervisor:
    launch = Launch(source=Source(check=lambda *_: None), settings=Settings(), issuers=())
    return _Supervisor(launch, SupervisorLimits(), http=HERE, grpc=HERE)


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
    supervisor = supervisor_here()
    process = Child(answer, reloaded_by=supervisor)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", process.start)
    child = await supervisor._start(1)
    child.channel.close()
    await process.serving
    assert process.questions == ["reload"]
    assert (events_logged(caplog), process.signals) == (events, signals)


async def test_what_every_process_refuses_is_not_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files have changed between the supervisor's check and the processes' own."""
    supervisor, process = supervisor_here(), Child("a file is gone")
    monkeypatch.setattr(asyncio, "create_subprocess_exec", process.start)
    child = await supervisor._start(1)
    before = supervisor._in_use
    with pytest.raises(OSError, match=r"^serving process 1: a file is gone"):
        await supervisor._reload(Settings(log_level="error"), ())
    assert supervisor._in_use == before
    child.channel.close()
    await process.serving


async def test_what_they_take_into_use_is_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, process = supervisor_here(), Child("")
    monkeypatch.setattr(asyncio, "create_subprocess_exec", process.start)
    child = await supervisor._start(1)
    assert await supervisor._reload(Settings(log_level="error"), ()) == []
    assert supervisor._in_use[0].log_level == "error"
    child.channel.close()
    await process.serving


async def test_a_process_that_cannot_take_what_another_took_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The files were replaced between the two reads, and all processes must serve the same."""
    supervisor, processes = supervisor_here(), [Child(""), Child("a file is gone")]
    children = []
    for number, process in enumerate(processes, 1):
        monkeypatch.setattr(asyncio, "create_subprocess_exec", process.start)
        children.append(await supervisor._start(number))
    assert await supervisor._reload(Settings(log_level="error"), ()) == []
    assert supervisor._in_use[0].log_level == "error"
    assert events_logged(caplog) == ["child_reload_failed"]
    assert [process.signals for process in processes] == [[], [signal.SIGTERM]]
    for child, process in zip(children, processes, strict=True):
        child.channel.close()
        await process.serving

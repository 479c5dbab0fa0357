"""The console on a supervisor's port: any child answers, and the figures of all count."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from harness.logged import events_logged
from harness.waiting import until
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import UNAVAILABLE, Answer, Question, Watch, document
from jobstatus.processes.child import ChildProcess
from jobstatus.processes.child_channel import ChildChannel
from jobstatus.processes.child_console import ChildConsole

QUESTION = Question("session", ("Bearer x",), {"job_id": "j"}, "10.0.0.1")


class Told:
    """The far end of a channel: it notes what it is asked, and answers."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    async def serve(self, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(b"up\n")
        with suppress(ConnectionError):  # the other end may be closed while it is answered
            while line := await reader.readline():
                number, question, argument = json.loads(line)
                self.asked.append((question, argument))
                writer.write(json.dumps([number, self.answers[question]]).encode() + b"\n")
        writer.close()


@asynccontextmanager
async def child(told: Told, number: int = 1) -> AsyncIterator[ChildProcess]:
    channel, theirs = await ChildChannel.opened()
    ours = socket.socket(fileno=os.dup(theirs.fileno()))
    theirs.close()
    serving = asyncio.create_task(told.serve(ours))
    assert await channel.wait_until_up()
    process = cast("Any", SimpleNamespace(pid=number, returncode=None))
    yield ChildProcess(number=number, process=process, channel=channel, started_at=0, is_up=True)
    channel.close()
    await serving


async def test_another_child_answers_for_one_that_is_gone() -> None:
    """Each is asked until one answers; where none does, the page is told to come again."""
    expected = document({"actions": False})
    told = Told({"console": expected.to_text()})
    async with child(told, 2) as alive:
        async with child(Told({})) as gone:
            pass
        console = ChildConsole(lambda: [gone, alive], None)
        assert await console._ask(QUESTION) == expected
        assert Question.from_text(told.asked[0][1]) == QUESTION._replace(authorization=["Bearer x"])
    assert await ChildConsole(list, None)._ask(QUESTION) == UNAVAILABLE


async def test_figures_are_those_of_all_children() -> None:
    """One of them counts the store where none of this machine leads."""
    async with AsyncExitStack() as stack:
        told = [Told({"console_figures": f'"{number}"'}) for number in range(3)]
        children = [await stack.enter_async_context(child(each, number)) for number, each in enumerate(told)]
        console = ChildConsole(lambda: children, None)
        assert await console._figures(Watch(is_open=True, is_alone=True)) == ['"0"', '"1"', '"2"']
        watches = [Watch.from_text(each.asked[0][1]) for each in told]
        assert watches == [Watch(is_open=True, is_alone=number == 0) for number in range(3)]


async def test_a_bug_of_the_console_does_not_end_the_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    """Figures that cannot be read are logged, and collected again."""
    async with child(Told({"console_figures": "no figures"})) as confused:
        console = ChildConsole(lambda: [confused], None, ConsoleLimits(pulse_seconds=0, sample_seconds=0))
        running = asyncio.create_task(console.run())
        await until(lambda: events_logged(caplog) == ["console_figures_failed"])
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(("path", "status"), [("/console/", 200), ("/console/api/session", 503), ("/console/x", 404)])
async def test_requests_are_answered_without_children(path: str, status: int) -> None:
    """The page is served by the supervisor itself; data is not there."""
    console = ChildConsole(list, None, ConsoleLimits())
    response = await console.handle(cast("web.BaseRequest", make_mocked_request("GET", path)))
    assert response.status == status


def test_answers_and_questions_survive_the_way() -> None:
    answer = Answer(404, '{"message":"ü"}', "ü")
    assert Answer.from_text(answer.to_text()) == answer
    assert Question.from_text(QUESTION.to_text()).arguments == QUESTION.arguments

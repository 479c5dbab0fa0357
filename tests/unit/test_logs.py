"""The log: stable names of events, one JSON object a line, and a readable line on a terminal."""

import ast
import json
import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jobstatus
import pytest
from jobstatus.telemetry import logs

PACKAGE: Final = Path(jobstatus.__file__).parent
DOCUMENT: Final = Path(__file__).parents[2] / "docs/operators.md"
METHODS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
LOGGERS: Final = frozenset({"_log", "_logger", "log", "logger"})
LEVELS: Final = {"exception": "error"}
"""The level of a method that is not called like its level."""


@cache
def calls() -> tuple[tuple[str, ast.Call], ...]:
    """Each call of a logger's method in the package, and where it is."""
    return tuple(_find_calls())


def _find_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                owner = node.func.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in LOGGERS:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def event_of(call: ast.Call) -> str:
    """The name of the event that the call gives as a literal; empty when it gives none."""
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if not isinstance(extra, ast.Dict):
        return ""
    named = [
        value.value
        for key, value in zip(extra.keys, extra.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant)
    ]
    return str(named[0]) if len(named) == 1 else ""


def level_of(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)
    return LEVELS.get(call.func.attr, call.func.attr)


@pytest.fixture(autouse=True)
def root_logger_restored() -> Iterator[None]:
    """Put back what `configure` replaces for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if isinstance(handler, logs.LineHandler):
            handler.close()
    root.handlers[:], root.level = handlers, level


def written(captured: pytest.CaptureFixture[str]) -> str:
    """What is on standard error when the log has been written."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return captured.readouterr().err


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- every line has a name ---


def test_the_package_logs() -> None:
    """The search below finds what it is to check."""
    assert len(calls()) > 30


def test_every_call_names_its_event() -> None:
    """The name is a literal in snake_case, so that a search finds it and an alert can rest on it."""
    nameless = [where for where, call in calls() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event_of(call))]
    assert nameless == []


def test_the_operators_document_lists_every_event_with_its_levels() -> None:
    """The table has the events of the package and of libraries, and no others."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("### Log events\n")[2].partition("\n#")[0]
    listed = {
        name: set(levels.split(", ")) for name, levels in re.findall(r"(?m)^\| `(\w+)` \| ([a-z, ]+?) \| ", section)
    }
    logged: dict[str, set[str]] = {logs.LIBRARY_EVENT: {"any"}}
    for _, call in calls():
        logged.setdefault(event_of(call), set()).add(level_of(call))
    assert listed == logged


# --- how a line is written ---


def test_a_line_has_a_name_and_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """The name comes first, where scripts look for it; what the call adds stands beside it."""
    logs.configure(level="info", log_format="json")
    logging.getLogger("jobstatus.test").error(
        "A serving process exited and is replaced.", extra={"event": "child_exited", "ended": "SIGKILL"}
    )
    text = written(capfd)
    assert text.startswith('{"event": "child_exited", ')
    (line,) = lines_of(text)
    assert line.pop("timestamp")
    assert line == {
        "event": "child_exited",
        "message": "A serving process exited and is replaced.",
        "level": "error",
        "logger": "jobstatus.test",
        "ended": "SIGKILL",
    }


def test_a_line_of_a_library_keeps_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    """Its event is one for all libraries, and its arguments are in its message."""
    logs.configure(level="info", log_format="json")
    logging.getLogger("some.library").warning("%d connections in the %s", 3, "pool")
    (line,) = lines_of(written(capfd))
    assert (line["event"], line["message"]) == (logs.LIBRARY_EVENT, "3 connections in the pool")


def test_a_child_signs_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """A line about another child keeps that one's number."""
    logs.configure(level="info", log_format="json", child=2)
    logging.getLogger("jobstatus.test").info("The process has stopped.", extra={"event": "stopped"})
    logging.getLogger("jobstatus.test").info("Another one.", extra={"event": "child_exited", "child": 1})
    assert [line["child"] for line in lines_of(written(capfd))] == [2, 1]


def test_a_traceback_is_in_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", log_format="json")
    try:
        int("no number")
    except ValueError:
        logging.getLogger("jobstatus.test").exception("It failed.", extra={"event": "poll_failed"})
    (line,) = lines_of(written(capfd))
    assert "ValueError: invalid literal" in line["exception"]


def test_a_person_reads_the_sentence_and_the_name(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", log_format="pretty")
    logging.getLogger("jobstatus.test").warning("The store is slow.", extra={"event": "store_slow"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written(capfd))
    assert "The store is slow." in plain
    assert "event=store_slow" in plain
    assert plain.index("The store is slow.") < plain.index("event=store_slow")


def test_a_program_that_keeps_what_we_say_gets_the_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no file, lines are written to what is in its place."""
    logs.configure(level="info", log_format="json")
    logging.getLogger("jobstatus.test").info("It runs.", extra={"event": "stopped"})
    assert [line["event"] for line in lines_of(written(capsys))] == ["stopped"]


# --- a reader who does not read ---


def test_a_reader_who_stalls_stops_nobody_and_hears_how_much_is_missing() -> None:
    """Lines wait for the reader as far as there is room; the others are counted."""
    reader, writer = os.pipe()
    handler, log = logs.LineHandler(writer, max_lines=10), logging.getLogger("jobstatus.test")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    longer_than_a_pipe = 100_000 * "x"
    for _ in range(20):
        log.warning(longer_than_a_pipe)
    dropped = handler.dropped
    assert 9 <= dropped <= 10
    assert logs.dropped_lines() == dropped
    with os.fdopen(reader, encoding="utf-8") as lines, os.fdopen(writer, "wb"):
        for _ in range(20 - dropped):
            assert next(lines) == longer_than_a_pipe + "\n"
        log.warning("It goes on.")
        assert [next(lines), next(lines)] == ["It goes on.\n", "Nobody read the log; lines were dropped.\n"]
        log.warning("Said once.")
        assert next(lines) == "Said once.\n"
        handler.close()


def test_a_reader_who_has_gone_stops_nobody() -> None:
    """What nobody can read any more is counted as dropped."""
    reader, writer = os.pipe()
    handler = logs.LineHandler(writer)
    os.close(reader)
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "It stops."}))
    handler.flush()
    handler.close()
    os.close(writer)
    assert handler.dropped == 3


def test_a_descriptor_that_does_not_block_loses_no_line() -> None:
    """Another program that shares the terminal or the pipe, as Node.js does, may have made it non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = logs.LineHandler(writer)
    longer_than_a_pipe = 100_000 * "x"
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": longer_than_a_pipe}))
    handler.close()
    with os.fdopen(reader, encoding="utf-8") as lines, os.fdopen(writer, "wb"):
        assert [next(lines) for _ in range(3)] == 3 * [longer_than_a_pipe + "\n"]
    assert handler.dropped == 0

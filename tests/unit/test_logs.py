"""The log: stable names of events, one JSON object a line, and a readable line on a terminal."""

import ast
import json
import logging
import re
from collections.abc import Iterator
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


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a logger's method in the package, and where it is."""
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
    root.handlers[:], root.level = handlers, level


def lines_of(written: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.splitlines()]


# --- every line has a name ---


def test_the_package_logs() -> None:
    """The search below finds what it is to check."""
    assert len(list(calls())) > 30


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


def test_a_line_has_a_name_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """The name comes first, where scripts look for it; what the call adds stands beside it."""
    logs.configure(level="info", log_format="json")
    logging.getLogger("jobstatus.test").error(
        "A serving process exited and is replaced.", extra={"event": "child_exited", "ended": "SIGKILL"}
    )
    written = capsys.readouterr().err
    assert written.startswith('{"event": "child_exited", ')
    (line,) = lines_of(written)
    assert line.pop("timestamp")
    assert line == {
        "event": "child_exited",
        "message": "A serving process exited and is replaced.",
        "level": "error",
        "logger": "jobstatus.test",
        "ended": "SIGKILL",
    }


def test_a_line_of_a_library_keeps_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Its event is one for all libraries, and its arguments are in its message."""
    logs.configure(level="info", log_format="json")
    logging.getLogger("some.library").warning("%d connections in the %s", 3, "pool")
    (line,) = lines_of(capsys.readouterr().err)
    assert (line["event"], line["message"]) == (logs.LIBRARY_EVENT, "3 connections in the pool")


def test_a_child_signs_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line about another child keeps that one's number."""
    logs.configure(level="info", log_format="json", child=2)
    logging.getLogger("jobstatus.test").info("The process has stopped.", extra={"event": "stopped"})
    logging.getLogger("jobstatus.test").info("Another one.", extra={"event": "child_exited", "child": 1})
    assert [line["child"] for line in lines_of(capsys.readouterr().err)] == [2, 1]


def test_a_traceback_is_in_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", log_format="json")
    try:
        int("no number")
    except ValueError:
        logging.getLogger("jobstatus.test").exception("It failed.", extra={"event": "poll_failed"})
    (line,) = lines_of(capsys.readouterr().err)
    assert "ValueError: invalid literal" in line["exception"]


def test_a_person_reads_the_sentence_and_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", log_format="pretty")
    logging.getLogger("jobstatus.test").warning("The store is slow.", extra={"event": "store_slow"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert "The store is slow." in plain
    assert "event=store_slow" in plain
    assert plain.index("The store is slow.") < plain.index("event=store_slow")

"""Parameter types that commands share: spans and times as people write them, and the order of subcommands."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from jobstatus.core.job import RequestType

REQUEST_TYPE: Final = click.Choice([request_type.value for request_type in RequestType])

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_span_pattern: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


class Span(click.ParamType[timedelta]):
    """A span of time such as 30s, 15m, 1h or 7d."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = _span_pattern.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a span like 30s, 15m, 1h or 7d", param, ctx)
        try:
            return timedelta(**{_UNITS[match[2]]: float(match[1])})
        except OverflowError:
            self.fail(f"{value!r} is too long", param, ctx)


class Time(click.ParamType[datetime]):
    """A time in RFC 3339 (UTC where it names no zone), or a span that lies that far back."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if _span_pattern.fullmatch(value):
                return datetime.now(UTC) - SPAN.convert(value, param, ctx)
            time = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a time like 2026-01-31T12:00:00Z nor a span like 1h", param, ctx)
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


class InputFile(click.File):
    """A file to read; - is standard input, unless that is closed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed", param, ctx)
        return super().convert(value, param, ctx)


SPAN: Final = Span()
TIME: Final = Time()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")


class GroupInOrder(click.Group):
    """A group that lists its subcommands in the order of their definition, which is that of a job's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(self.commands)

"""The group of subcommands, and how one command line runs.

Each subcommand is a module of its own, which is imported when the subcommand runs, so that help and completion are
fast. Every error ends the command here, with an exit code and one sentence.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from jobstatus import __version__
from jobstatus.cli.errors import EPILOG, ExitCode, explain
from jobstatus.cli.garbage import collect_from_now_on

_COMMANDS: Final = {
    "serve": ("serve", "Serve REST and gRPC until Ctrl-C or SIGTERM."),
    "edge": ("edge", "Serve REST only, from a service behind it, until Ctrl-C or SIGTERM."),
    "jobs": ("jobs", "Write and read jobs over gRPC, as a worker does."),
    "keys": ("keys", "Manage virtual keys and their sk-bf- keys over gRPC."),
    "migrate": ("migrate", "Copy jobs and virtual keys from one store to another."),
    "token": ("tokens", "Mint a JWT for polling."),
    "poll": ("poll", "Poll a job over REST until it ends."),
}

_IMPORT_MORE: Final = frozenset({"serve", "edge", "jobs", "keys"})
"""The commands that import more when they run, and begin to collect garbage by themselves."""

_LIBRARIES: Final = {
    "GRPC_VERBOSITY": "NONE",  # errors are ours to say, in a sentence
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # to find plugins it would read the metadata of every installed package
}
"""Settings of libraries, which read them when they are imported. A serving child inherits them."""


class _Commands(click.Group):
    """The subcommands by name. Listing them imports none of their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (the same)
        if cmd_name not in _COMMANDS:
            return None
        for name, value in _LIBRARIES.items():
            os.environ.setdefault(name, value)
        command = import_module(f"jobstatus.cli.{_COMMANDS[cmd_name][0]}").command
        if cmd_name not in _IMPORT_MORE:
            collect_from_now_on()
        assert isinstance(command, click.Command)  # noqa: S101 (for the type checker)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (the same)
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, prog_name="jobstatus", message="%(prog)s %(version)s")
def _root() -> None:
    """Track asynchronous inference jobs: workers write their status over gRPC, clients poll it over REST.

    \b
    To try it, run each line in a shell of its own:
      jobstatus serve --dev
      jobstatus jobs create transcription --job-id demo
      jobstatus poll demo --token "$(jobstatus token admin)"
      echo '{"text": "hello"}' | jobstatus jobs complete demo
    """


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Raises what `explain` does not know."""
    try:
        code = _root.main(list(arguments), prog_name="jobstatus", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 (explain raises what it does not know)
        code, sentence = explain(error)
        click.echo(f"jobstatus: {sentence}", err=True)
    return code if isinstance(code, int) else ExitCode.FINE

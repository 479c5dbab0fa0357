"""The command `jobstatus`: serve, and what a worker, an operator or a client would do, from a shell.

Each subcommand is a module of its own, imported when it is asked for, so that help and completion are fast. Whatever
goes wrong leaves through `run`, as an exit code and one sentence.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from jobstatus import __version__
from jobstatus.cli.errors import EPILOG, ExitCode, explain

_COMMANDS: Final = {
    "serve": ("serve", "Serve REST and gRPC until Ctrl-C or SIGTERM."),
    "edge": ("edge", "Serve REST alone, from a service inside, until Ctrl-C or SIGTERM."),
    "jobs": ("jobs", "Write and read jobs over gRPC, as a worker would."),
    "keys": ("keys", "Manage virtual keys and their sk-bf- keys over gRPC."),
    "migrate": ("migrate", "Copy jobs and virtual keys from one store to another."),
    "token": ("tokens", "Mint a JWT for polling."),
    "poll": ("poll", "Poll a job over REST until it ends."),
}


class _Commands(click.Group):
    """The subcommands by name; a module is imported when its command is needed, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (the same)
        if cmd_name not in _COMMANDS:
            return None
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read on import: errors are ours to say, in a sentence
        command = import_module(f"jobstatus.cli.{_COMMANDS[cmd_name][0]}").command
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
def root() -> None:
    """Is it done? The status of asynchronous inference jobs, written over gRPC and polled over REST.

    \b
    A first look, each line in a shell of its own:
      jobstatus serve --dev
      jobstatus jobs create transcription --job-id demo
      jobstatus poll demo --token "$(jobstatus token admin)"
      echo '{"text": "hello"}' | jobstatus jobs complete demo
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    try:
        code = root.main(list(arguments), prog_name="jobstatus", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 (explain raises what it does not know)
        code, sentence = explain(error)
        click.echo(f"jobstatus: {sentence}", err=True)
    return code if isinstance(code, int) else ExitCode.FINE


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))

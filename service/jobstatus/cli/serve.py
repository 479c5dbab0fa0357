"""`jobstatus serve`: the service itself, whose life `jobstatus.process` leads."""

import click

from jobstatus.cli.errors import EPILOG


@click.command(name="serve", epilog=EPILOG)
@click.option(
    "--dev", is_flag=True, help="For development: accept tokens of an issuer whose secret is made below var/."
)
def command(*, dev: bool) -> int:
    """Serve REST and gRPC until Ctrl-C or SIGTERM.

    Settings come from JOBSTATUS_* variables and from the TOML file that JOBSTATUS_CONFIG names: JOBSTATUS_HTTP,
    JOBSTATUS_GRPC and JOBSTATUS_ADMIN say where to listen, JOBSTATUS_STORE where jobs are kept.

    \b
    Example, with nothing set up before:
      jobstatus serve --dev
    """
    from jobstatus.process import run  # noqa: PLC0415 (the whole service: not for --help)

    return run(dev=dev)

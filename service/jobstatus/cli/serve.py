"""`jobstatus serve`: the service itself, whose life `jobstatus.processes.process` leads."""

import click

from jobstatus.cli.errors import EPILOG


@click.command(name="serve", epilog=EPILOG)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    show_default="JOBSTATUS_WORKERS, or 1",
    help="How many processes serve, on the same ports and the same store.",
)
@click.option(
    "--dev", is_flag=True, help="For development: accept tokens of an issuer whose secret is made below var/."
)
def command(*, dev: bool, workers: int | None) -> int:
    """Serve REST and gRPC until Ctrl-C or SIGTERM.

    Settings come from JOBSTATUS_* variables and from the TOML file that JOBSTATUS_CONFIG names: JOBSTATUS_HTTP,
    JOBSTATUS_GRPC and JOBSTATUS_ADMIN say where to listen, JOBSTATUS_STORE where jobs are kept.

    \b
    Example, with nothing set up before:
      jobstatus serve --dev

    With --workers N the process that you start looks after N others: it replaces one that dies, passes signals on, and
    serves health and the metrics of all.
    """
    from jobstatus.processes.start import run  # noqa: PLC0415 (the whole service: not for --help)

    return run(dev=dev, workers=workers)

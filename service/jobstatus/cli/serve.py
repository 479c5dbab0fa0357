"""`jobstatus serve`: the service itself. `jobstatus.processes` runs it."""

import gc

import click

from jobstatus.cli.errors import EPILOG


@click.command(name="serve", epilog=EPILOG)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    show_default="JOBSTATUS_WORKERS, or 1",
    help="The number of serving processes, which share the ports and the store.",
)
@click.option(
    "--dev", is_flag=True, help="For development: accept tokens of a local issuer, whose secret is kept in var/."
)
def command(*, dev: bool, workers: int | None) -> int:
    """Serve REST and gRPC until Ctrl-C or SIGTERM.

    Settings come from JOBSTATUS_* variables and from the TOML file that JOBSTATUS_CONFIG names: JOBSTATUS_HTTP,
    JOBSTATUS_GRPC and JOBSTATUS_ADMIN are the addresses to listen on, JOBSTATUS_STORE is where jobs are stored.

    \b
    Example, which needs no settings:
      jobstatus serve --dev

    With --workers N, N serving processes are started. The process that you start supervises them: it replaces one that
    exits, forwards signals, and serves health and the metrics of all.
    """
    gc.disable()  # until the start is over (see launch.end_start): nearly all that it makes is here to stay
    from jobstatus.processes.start import run  # noqa: PLC0415 (the whole service: not for --help)

    return run(dev=dev, workers=workers)

"""`jobstatus serve`: the service itself. `jobstatus.processes` runs it."""

import gc
from collections.abc import Mapping

import click

from jobstatus.cli.errors import EPILOG
from jobstatus.cli.serving_options import check_option, setting_options


@click.command(name="serve", epilog=EPILOG)
@setting_options("http", "grpc", "admin", "store", "workers", "config")
@click.option(
    "--dev", is_flag=True, help="For development: accept tokens of a local issuer, whose secret is kept in var/."
)
@check_option
def command(*, dev: bool, check: bool, options: Mapping[str, str]) -> int:
    """Serve REST and gRPC until Ctrl-C or SIGTERM.

    Settings come from the options here, from JOBSTATUS_* variables, and from the TOML file that --config or
    JOBSTATUS_CONFIG names, in this order. SIGHUP has the service read them again, and take into use what it can without
    a restart: certificates, secrets, issuers, allowed clients and the level of the log.

    \b
    Example, which needs no settings:
      jobstatus serve --dev

    With --workers N, N serving processes are started. The process that you start supervises them: it replaces one that
    exits, forwards signals, and serves health and the metrics of all.
    """
    if check:
        from jobstatus.app.check import check_service  # noqa: PLC0415 (the whole service: not for --help)
        from jobstatus.cli.check import check as run_check  # noqa: PLC0415 (as above)
        from jobstatus.processes.launch import Source  # noqa: PLC0415 (as above)
        from jobstatus.settings import check_servable  # noqa: PLC0415 (as above)

        return run_check(Source(check=check_servable, dev=dev, options=options), check_service)
    gc.disable()  # until the start is over (see launch.end_start): nearly all that it makes is here to stay
    from jobstatus.processes.hangup import EarlyHangUps  # noqa: PLC0415 (as below)

    EarlyHangUps.expect()
    from jobstatus.processes.quick_import import import_aiohttp  # noqa: PLC0415 (as below)

    import_aiohttp()
    from jobstatus.processes.start import run  # noqa: PLC0415 (the whole service: not for --help)

    return run(dev=dev, options=options)

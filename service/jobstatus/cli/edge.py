"""`jobstatus edge`: REST only, for a zone that must not reach the store."""

import gc
from collections.abc import Mapping

import click

from jobstatus.cli.errors import EPILOG
from jobstatus.cli.serving_options import check_option, setting_options


@click.command(name="edge", epilog=EPILOG)
@setting_options("upstream", "http", "admin", "config")
@click.option("--dev", is_flag=True, help="For development: accept tokens of the issuer that `serve --dev` made.")
@check_option
def command(*, dev: bool, check: bool, options: Mapping[str, str]) -> int:
    """Serve REST only, from a service behind it, until Ctrl-C or SIGTERM.

    The edge answers polls with the same bytes as the service. It needs only a gRPC connection to it, no store and no
    database credentials. Settings are read as `serve` reads them, at SIGHUP too.

    \b
    If the service is on another machine, the connection needs TLS, with three PEM files:
      JOBSTATUS_UPSTREAM_TLS_CA    the authority of the service's certificate
      JOBSTATUS_UPSTREAM_TLS_CERT  the client certificate
      JOBSTATUS_UPSTREAM_TLS_KEY   the private key of the client certificate

    \b
    Example, beside a `jobstatus serve --dev`:
      jobstatus edge --dev --upstream 127.0.0.1:50051 --http 127.0.0.1:8081 --admin 127.0.0.1:9091
    """
    if check:
        from jobstatus.app.check import check_edge_start  # noqa: PLC0415 (the whole edge: not for --help)
        from jobstatus.cli.check import check as run_check  # noqa: PLC0415 (as above)
        from jobstatus.processes.launch import Source  # noqa: PLC0415 (as above)
        from jobstatus.settings import check_edge  # noqa: PLC0415 (as above)

        return run_check(Source(check=check_edge, dev=dev, options=options), check_edge_start)
    gc.disable()  # until the start is over (see launch.end_start): nearly all that it makes is here to stay
    from jobstatus.processes.hangup import EarlyHangUps  # noqa: PLC0415 (as below)

    EarlyHangUps.expect()
    from jobstatus.processes.quick_import import import_aiohttp  # noqa: PLC0415 (as below)

    import_aiohttp()
    from jobstatus.processes.start import run_edge  # noqa: PLC0415 (the whole edge: not for --help)

    return run_edge(dev=dev, options=options)

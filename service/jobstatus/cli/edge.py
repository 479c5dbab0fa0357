"""`jobstatus edge`: REST only, for a zone that must not reach the store."""

import gc

import click

from jobstatus.cli.errors import EPILOG


@click.command(name="edge", epilog=EPILOG)
@click.option(
    "--upstream",
    metavar="HOST:PORT",
    show_default="JOBSTATUS_UPSTREAM",
    help="The address of the service behind the edge, for gRPC.",
)
@click.option("--dev", is_flag=True, help="For development: accept tokens of the issuer that `serve --dev` made.")
def command(*, upstream: str | None, dev: bool) -> int:
    """Serve REST only, from a service behind it, until Ctrl-C or SIGTERM.

    The edge answers polls with the same bytes as the service. It needs only a gRPC connection to it, no store and no
    database credentials. Issuers of tokens are configured as for `serve`.

    \b
    If the service is on another machine, the connection needs TLS, with three PEM files:
      JOBSTATUS_UPSTREAM_TLS_CA    the authority of the service's certificate
      JOBSTATUS_UPSTREAM_TLS_CERT  the client certificate
      JOBSTATUS_UPSTREAM_TLS_KEY   the private key of the client certificate

    \b
    Example, beside a `jobstatus serve --dev`:
      JOBSTATUS_HTTP=127.0.0.1:8081 JOBSTATUS_ADMIN=127.0.0.1:9091 jobstatus edge --dev --upstream 127.0.0.1:50051
    """
    gc.disable()  # until the start is over (see launch.end_start): nearly all that it makes is here to stay
    from jobstatus.processes.start import run_edge  # noqa: PLC0415 (the whole edge: not for --help)

    return run_edge(dev=dev, upstream=upstream)

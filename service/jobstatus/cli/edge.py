"""`jobstatus edge`: REST alone, for a zone that must not reach the store."""

import click

from jobstatus.cli.errors import EPILOG


@click.command(name="edge", epilog=EPILOG)
@click.option(
    "--upstream",
    metavar="HOST:PORT",
    show_default="JOBSTATUS_UPSTREAM",
    help="Where the service inside listens for gRPC.",
)
@click.option("--dev", is_flag=True, help="For development: accept tokens of the issuer that `serve --dev` has made.")
def command(*, upstream: str | None, dev: bool) -> int:
    """Serve REST from a JobStatus service inside, until Ctrl-C or SIGTERM.

    Answers polls as the service itself does, byte for byte, with nothing but a gRPC connection to it: no store, no
    credentials of a database. Issuers of tokens are set as for `serve`.

    \b
    On another machine than this one the connection needs TLS, in three PEM files:
      JOBSTATUS_UPSTREAM_TLS_CA    the authority of the service's certificate
      JOBSTATUS_UPSTREAM_TLS_CERT  the certificate to show
      JOBSTATUS_UPSTREAM_TLS_KEY   its private key

    \b
    Example, beside a `jobstatus serve --dev`:
      JOBSTATUS_HTTP=127.0.0.1:8081 JOBSTATUS_ADMIN=127.0.0.1:9091 jobstatus edge --dev --upstream 127.0.0.1:50051
    """
    from jobstatus.processes.start import run_edge  # noqa: PLC0415 (the whole edge: not for --help)

    return run_edge(dev=dev, upstream=upstream)

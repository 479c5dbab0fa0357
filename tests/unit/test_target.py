"""Where a command looks for the service: only an address with a port is one place."""

import click
import pytest
from jobstatus.cli.connect import check_target

CONTEXT = click.Context(click.Command("jobs"))
GRPC = click.Option(["--grpc"])


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:50051", "localhost:1", "[::1]:50051", "jobs.internal:65535", "a:1,b:2,[::1]:3"),
        *("dns:jobs:50051", "dns:///jobs:50051", "dns://8.8.8.8/jobs:50051", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        *("ipv6:[::1]:50051", "unix:/run/jobstatus", "unix:///run/jobstatus", "unix-abstract:jobstatus"),
    ],
)
def test_an_address_with_a_port_is_taken(target: str) -> None:
    assert check_target(CONTEXT, GRPC, target) == target


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1", "localhost", "localhost:", ":50051", "::1", "[::1]", "::1:50051", "jobs:http", "jobs:65536"),
        *("a:1,b", "a:1,", "dns:///jobs", "dns:jobs", "ipv4:10.0.0.1", "http://127.0.0.1:8080", "", "jobs:\uff15"),
    ],
)
def test_any_other_is_refused_with_a_sentence(target: str) -> None:
    with pytest.raises(click.BadParameter, match=r"must be HOST:PORT, such as 127\.0\.0\.1:50051"):
        check_target(CONTEXT, GRPC, target)

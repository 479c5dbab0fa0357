"""The metrics of a service, as a scrape finds them."""

from harness.http import request


def parse(exposition: str) -> dict[str, float]:
    """Every sample by its name and labels, as they stand there."""
    pairs = (line.rpartition(" ") for line in exposition.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def figures(admin_port: int) -> dict[str, float]:
    """The samples of this service or edge now."""
    return parse((await request(admin_port, "/metrics")).body.decode())

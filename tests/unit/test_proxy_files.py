"""The page about proxies shows the files that `make proxies` tries, and those name nothing that it does not put in."""

import re
from pathlib import Path

import pytest
from harness.proxies import FILES, PROXIES, Ports, Proxy, filled_in

PAGE = (FILES.parent / "proxies.md").read_text()
PORTS = Ports(http=1001, grpc=1002, admin=1003, rest=1004, rpc=1005)


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_the_page_shows_the_file(file: Path) -> None:
    """To the letter, and `make proxies` tries it."""
    assert f"\n{file.read_text()}```\n" in PAGE
    assert file.name in {proxy.file for proxy in PROXIES}


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
def test_everything_in_a_file_gets_its_place(proxy: Proxy) -> None:
    """Both replicas, each port that the proxy uses, and no address besides."""
    text = filled_in((FILES / proxy.file).read_text(), PORTS)
    assert {"127.0.0.1", "127.0.0.2"} == set(re.findall(r"\d+\.\d+\.\d+\.\d+", text))
    assert not re.search(r"replica-\d", text)
    used = set(map(int, re.findall(r"\b100[1-5]\b", text)))
    assert {PORTS.http} <= used
    assert (PORTS.grpc in used) == (PORTS.rpc in used) == proxy.speaks_grpc

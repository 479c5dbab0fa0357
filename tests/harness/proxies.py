"""The proxies of docs/proxies: each one that is installed can be started in front of two replicas, with its file.

The files name the replicas `replica-1` and `replica-2` and the service's default ports. Here the two have different
loopback addresses and the same ports, so that nothing but names and ports has to be put in place.
"""

import asyncio
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.waiting import until

FILES: Final = Path(__file__).resolve().parents[2] / "docs/proxies"
HOSTS: Final = {"replica-1": "127.0.0.1", "replica-2": "127.0.0.2"}
START_SECONDS: Final = 20.0
_MODULE_FOLDERS: Final = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
_MODULES: Final = (
    *("mpm_event", "authz_core", "unixd", "env", "setenvif"),
    *("proxy", "proxy_http", "proxy_balancer", "lbmethod_bybusyness", "slotmem_shm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """`http`, `grpc` and `admin` are those of both replicas, `rest` and `rpc` those of the proxy."""

    http: int
    grpc: int
    admin: int
    rest: int
    rpc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A kind of proxy: the names of its program, its file, and how to start the one with the other."""

    name: str
    programs: tuple[str, ...]
    version: str
    """The option that prints it."""
    file: str
    speaks_grpc: bool
    command: Callable[[str, Path, Ports], list[str]]
    """Of the program, the folder with its file, and the ports; it writes the other files that are needed."""

    @property
    def program(self) -> str | None:
        """The first of its programs on PATH."""
        return next(filter(None, map(shutil.which, self.programs)), None)

    def described(self) -> str:
        """Its name, and its version if it tells it: a Caddy made by `go install` does not."""
        assert self.program is not None
        told = subprocess.run([self.program, self.version], capture_output=True, text=True, check=True)
        numbers = re.findall(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        return " ".join([self.name, *numbers[:1]])


def _nginx(program: str, folder: Path, _: Ports) -> list[str]:
    user = pwd.getpwuid(os.getuid()).pw_name
    temporary = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "main.conf").write_text(
        f"user {user}; daemon off; pid nginx.pid; worker_processes 1; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} include nginx.conf; }}\n"
    )
    return [program, "-p", str(folder), "-c", "main.conf", "-e", "stderr"]


def _haproxy(program: str, folder: Path, _: Ports) -> list[str]:
    return [program, "-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(program: str, folder: Path, _: Ports) -> list[str]:
    file = folder / "Caddyfile"
    text = file.read_text().replace("{\n", "{\n\tadmin off\n", 1)
    file.write_text(text)
    adapted = subprocess.run([program, "adapt", "--config", file], capture_output=True, text=True, check=False)
    if "read_body_idle" in adapted.stderr:  # older ones have no such limit, and refuse the option
        file.write_text(re.sub(r"\n\t\ttimeouts {[^}]*}", "", text))
    return [program, "run", "--config", str(file), "--adapter", "caddyfile"]


def _apache(program: str, folder: Path, _: Ports) -> list[str]:
    modules = next(filter(os.path.isdir, _MODULE_FOLDERS))
    loaded = "".join(
        f"<IfModule !{name}_module>\nLoadModule {name}_module {modules}/mod_{name}.so\n</IfModule>\n"
        for name in _MODULES
    )
    nobody = pwd.getpwnam("nobody")
    (folder / "main.conf").write_text(
        f"ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile httpd.pid\nErrorLog /dev/stderr\n"
        f"ServerName localhost\n{loaded}User #{nobody.pw_uid}\nGroup #{nobody.pw_gid}\nInclude apache.conf\n"
    )
    return [program, "-DFOREGROUND", "-f", str(folder / "main.conf")]


def _varnish(program: str, folder: Path, ports: Ports) -> list[str]:
    where = ("-j", "none", "-n", str(folder / "varnish"), "-s", "malloc,64m")
    return [program, *where, "-F", "-f", str(folder / "varnish.vcl"), "-a", f"127.0.0.1:{ports.rest}"]


PROXIES: Final = (
    Proxy(name="nginx", programs=("nginx",), version="-v", file="nginx.conf", speaks_grpc=True, command=_nginx),
    Proxy(name="HAProxy", programs=("haproxy",), version="-v", file="haproxy.cfg", speaks_grpc=True, command=_haproxy),
    Proxy(name="Caddy", programs=("caddy",), version="version", file="Caddyfile", speaks_grpc=True, command=_caddy),
    Proxy(
        name="Apache httpd",
        programs=("apache2", "httpd"),
        version="-v",
        file="apache.conf",
        speaks_grpc=False,
        command=_apache,
    ),
    Proxy(
        name="Varnish", programs=("varnishd",), version="-V", file="varnish.vcl", speaks_grpc=False, command=_varnish
    ),
)


def filled_in(text: str, ports: Ports) -> str:
    """The file's text with the hosts and ports of a try in the place of those that it names."""
    numbers = {8080: ports.http, 50051: ports.grpc, 9090: ports.admin, 8000: ports.rest, 8001: ports.rpc}
    values = HOSTS | {str(known): str(number) for known, number in numbers.items()}
    return re.sub("|".join(rf"\b{name}\b" for name in values), lambda found: values[found[0]], text)


@asynccontextmanager
async def running(
    proxy: Proxy, folder: Path, ports: Ports, change: Callable[[str], str] = lambda text: text
) -> AsyncIterator[None]:
    """The proxy, listening, with a folder of its own; what it prints is in `log` there. `change` alters its file."""
    command = _prepared(proxy, folder, ports, change)
    with (folder / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=_environment(folder), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        await until(lambda: _listens(child, folder, ports.rest), START_SECONDS)
        yield
    finally:
        await _end(child)


def _prepared(proxy: Proxy, folder: Path, ports: Ports, change: Callable[[str], str]) -> list[str]:
    """The command, with its files in the new folder."""
    folder.mkdir()
    (folder / proxy.file).write_text(change(filled_in((FILES / proxy.file).read_text(), ports)))
    assert proxy.program is not None
    return proxy.command(proxy.program, folder, ports)


def _environment(folder: Path) -> Mapping[str, str]:
    """Caddy keeps what it likes below these."""
    return {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}


async def _listens(child: asyncio.subprocess.Process, folder: Path, port: int) -> bool:
    assert child.returncode is None, (folder / "log").read_text()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()

"""The steps of deploy/Containerfile in an empty root, without a container engine: does what they make serve and stop?

    python tests/soak/image.py [--base FOLDER]

Needs root and debootstrap. Each FROM is a copy of an empty Debian with Python, made by debootstrap in the place of the
base image (`--base` names one that is there already), and each instruction is done in it by chroot. The result is then
started as the container would be: its root read-only, /tmp and the volume in memory, the user a number without a name,
every shell removed. Prints what it says and does, its size, and how long a stop takes. Exits with 0 when all is well.
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import psutil
from harness import ports
from harness.http import request
from harness.jobs import complete, create
from harness.service import stubs
from harness.tokens import AUDIENCE, ISSUER, SECRET, admin_token, bearer
from harness.verdict import verdict
from harness.waiting import until
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
CONTAINERFILE: Final = ROOT / "deploy" / "Containerfile"
SUITE: Final = "bookworm"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
SHELLS: Final = ("bin/sh", "bin/bash", "bin/dash", "bin/rbash")
STOP_SECONDS: Final = 20.0
"""After a stop delay of none, this is when `docker stop --time 20` would kill."""


@dataclass(slots=True)
class Stage:
    """What a FROM begins: a root, and what later instructions have set."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    folder: str = "/"
    user: str = ""
    labels: int = 0
    health: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def run(*command: str | Path) -> None:
    """Run a command that has to succeed; print what it said if it does not."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))}:\n{ended.stdout}{ended.stderr}")


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Containerfile, each as its word and the rest of its lines in one."""
    lines = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    whole = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole)]


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Mount what programs expect below a root, and what pip needs to reach a package index, meanwhile."""
    (root / "proc").mkdir(exist_ok=True)
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--bind", "/dev", root / "dev")
    kept = {path: root / path[1:] for path in NETWORK_FILES if Path(path).exists()}
    before = {target: target.read_bytes() if target.exists() else None for target in kept.values()}
    for path, target in kept.items():
        shutil.copyfile(path, target)
    try:
        yield
    finally:
        run("umount", "-l", root / "dev")
        run("umount", "-l", root / "proc")
        for target, content in before.items():
            target.unlink() if content is None else target.write_bytes(content)


def build(base: Path, folder: Path) -> Stage:
    """Do what the Containerfile says, and return its last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    for word, rest in instructions(CONTAINERFILE.read_text()):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            run("cp", "-a", base, folder / name)
            stage = stages[name] = Stage(folder / name)
        elif word == "COPY":
            copy(stages, stage, shlex.split(rest))
        elif word == "RUN":
            run_inside(stage, rest)
        elif word in SETS:
            SETS[word](stage, rest)
        elif word not in {"ARG", "VOLUME", "EXPOSE", "STOPSIGNAL"}:
            raise SystemExit(f"{word} is not known here")
    return stage


def run_inside(stage: Stage, text: str) -> None:
    """Run a line of shell in the stage's root, where pip reaches a package index as it does outside."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    given = [f"{name}={value}" for name, value in {**own, **stage.environment}.items()]
    with mounted(stage.root):
        shell = ("/bin/sh", "-c", f"cd {stage.folder} && {text}")
        run("chroot", stage.root, "/usr/bin/env", "-i", *given, *shell)


def set_environment(stage: Stage, rest: str) -> None:
    """Do what ENV says."""
    stage.environment |= dict(part.split("=", 1) for part in shlex.split(rest))


def set_folder(stage: Stage, rest: str) -> None:
    """Do what WORKDIR says."""
    stage.folder = rest
    (stage.root / rest[1:]).mkdir(parents=True, exist_ok=True)


SETS: Final[Mapping[str, Callable[[Stage, str], None]]] = {
    "ENV": set_environment,
    "WORKDIR": set_folder,
    "USER": lambda stage, rest: setattr(stage, "user", rest),
    "LABEL": lambda stage, rest: setattr(stage, "labels", len(shlex.split(rest))),
    "HEALTHCHECK": lambda stage, rest: setattr(stage, "health", json.loads(rest.partition("CMD ")[2])),
    "ENTRYPOINT": lambda stage, rest: setattr(stage, "entry", json.loads(rest)),
    "CMD": lambda stage, rest: setattr(stage, "command", json.loads(rest)),
}
"""What the instructions do that change nothing in the root."""


def copy(stages: Mapping[str, Stage], stage: Stage, words: list[str]) -> None:
    """Copy from the checkout or from another stage."""
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    *sources, target = (word for word in words if not word.startswith("--"))
    origin = stages[options["from"]].root if "from" in options else ROOT
    to = stage.root / (target[1:] if target.startswith("/") else f"{stage.folder[1:]}/{target}")
    for source in sources:
        path = origin / source.removeprefix("/")
        goal = to / path.name if target.endswith("/") else to
        goal.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, goal, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, goal)
        if "chown" in options:
            run("chown", "-R", options["chown"], goal)


def megabytes(folder: Path) -> float:
    """Return what the files below a folder take."""
    told = subprocess.run(["du", "-sx", "--block-size=1000", folder], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[0]) / 1000


def compressed_megabytes(folder: Path) -> float:
    """Return what a layer of this folder would take in a registry."""
    archive = subprocess.run(["tar", "-C", folder.parent, "-czf", "-", folder.name], capture_output=True, check=True)
    return len(archive.stdout) / 1e6


def confined(stage: Stage, command: list[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command as a container would run it: read-only, in a mount namespace of its own."""
    inside = shlex.join(["-i", *(f"{name}={value}" for name, value in environment.items()), *command])
    root, (user, group) = shlex.quote(str(stage.root)), stage.user.split(":")
    steps = [
        f"mount --bind {root} {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --bind /dev {root}/dev",
        f"mount -t tmpfs -o size=16m,mode=1777 tmpfs {root}/tmp",
        f"mount -t tmpfs -o size=64m,uid={user},gid={group} tmpfs {root}{stage.folder}",
        f"mount -o remount,bind,ro {root}",
        f"exec chroot --userspec={user}:{group} --groups={group} {root} /usr/bin/env -C {stage.folder} {inside}",
    ]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join(steps)]


async def try_it(stage: Stage, table: Table) -> list[str]:
    """Start it, use it, check it and stop it. Return what is not as it should be."""
    http, grpc, admin = (ports.reserve() for _ in range(3))
    settings = {
        "HTTP": f"127.0.0.1:{http}",
        "GRPC": f"127.0.0.1:{grpc}",
        "ADMIN": f"127.0.0.1:{admin}",
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_ALGORITHM": "HS256",
        "JWT_SECRET": SECRET,
    }
    environment = {**stage.environment, **{f"JOBSTATUS_{name}": value for name, value in settings.items()}}
    log = stage.root.parent / "log"
    names = (stage.root / "etc/passwd").read_text()
    problems: list[str] = []

    def note(what: str, said: str, *, is_well: bool) -> None:
        table.add_row(what, said)
        if not is_well:
            problems.append(f"{what}: {said}")

    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *confined(stage, [*stage.entry, *stage.command], environment), stdout=file, stderr=file
        )
    try:
        began = time.monotonic()
        await until(lambda: answers(admin, process, log))
        note("ready after", f"{time.monotonic() - began:.1f} s", is_well=True)
        uid = str(psutil.Process(process.pid).uids().effective)
        is_well = uid == stage.user.split(":")[0] and f":{uid}:" not in names
        note("user", f"{uid}, without a name", is_well=is_well)
        root = next(line for line in mounts_of(process.pid) if line[4] == "/")
        note("root", root[5].split(",")[0], is_well=root[5].startswith("ro"))
        async with stubs(http, grpc, admin) as service:
            await create(service, "job")
            await complete(service, "job")
            answer = await service.poll("job", bearer(admin_token()))
            note("a job, created, completed and polled", str(answer.status), is_well=answer.status == 200)
        health = [word.replace("9090", str(admin)) for word in stage.health]
        checked = await asyncio.create_subprocess_exec(*confined(stage, health, environment))
        code = await checked.wait()
        note("health check", f"exit code {code}", is_well=code == 0)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), STOP_SECONDS)
        note("stop", f"exit code {code} after {time.monotonic() - began:.1f} s", is_well=code == 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return problems


async def answers(port: int, process: asyncio.subprocess.Process, log: Path) -> bool:
    """Return whether it is ready. Raise AssertionError with its log if it ended instead."""
    assert process.returncode is None, f"it ended: {log}"
    try:
        return (await request(port, "/readyz")).status == 200
    except OSError:
        return False


def mounts_of(process_id: int) -> list[list[str]]:
    """Return the mounts that a process sees, each in its fields."""
    return [line.split() for line in Path(f"/proc/{process_id}/mountinfo").read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a root that debootstrap has made, with Python")
    given: Any = parser.parse_args()
    console = Console()
    if os.geteuid() != 0 or (given.base is None and shutil.which("debootstrap") is None):
        console.print("Not run: this needs root and debootstrap.")
        return 1
    table = Table("what", "found")
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the user without a name enters it
        base = given.base or folder / "base"
        if given.base is None:
            with console.status("debootstrap"):
                run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, base)
        if not (base / "usr/local/bin/python").exists():
            (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        with console.status("the steps of the Containerfile"):
            stage = build(base, folder)
        for shell in SHELLS:
            (stage.root / "usr" / shell).unlink(missing_ok=True)
        layer = stage.root / "opt" / "jobstatus"
        table.add_row("labels", str(stage.labels))
        table.add_row("size of the layers on top of the base", f"{megabytes(layer):.0f} MB")
        table.add_row("the same, compressed", f"{compressed_megabytes(layer):.0f} MB")
        table.add_row("size with this base", f"{megabytes(stage.root):.0f} MB")
        try:
            problems = asyncio.run(try_it(stage, table))
        except AssertionError:
            console.print((folder / "log").read_text(), markup=False)
            raise
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())

"""Clients that others' generators make of /openapi.json poll a running service; prints a table.

Each generator is installed in a pinned version into a temporary folder by the usual client of its registry. A program
of tests/soak/clients, written against what the generator makes, then polls a job in each state, one that ends during a
wait, and one that does not exist. Two linters judge the document besides. What cannot be installed is named; whatever
else fails makes the exit code 1.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.fronts import waiting
from harness.http import request
from harness.jobs import complete, create, fail, job_error, start
from harness.service import Process, Service
from harness.tokens import virtual_key_token
from jobstatus.v1 import job_status_pb2 as pb

PROGRAMS: Final = Path(__file__).with_name("clients")
STEP_SECONDS: Final = 600
"""Some download and compile for minutes on a slow machine."""
GENERATOR: Final = "7.26.0"
NODE_PACKAGES: Final = ("typescript@5.9.3", "esbuild@0.28.2", "@types/node@20")
JOBS: Final = ("pending", "processing", "completed", "failed", "waits", "unknown")
WANTED: Final = [
    ["pending", 202, "pending", None, None],
    ["processing", 202, "processing", None, None],
    ["completed", 200, "completed", "hello", None],
    ["failed", 200, "failed", None, "The recording is empty."],
    ["waits", 200, "completed", "late", None],
    ["unknown", 404, None, None, "Job not found or expired"],
]
"""Of each job: the answer's code, the status, the result's text and the error's message."""


class NotInstalled(Exception):
    """A tool could not be installed; the message says why."""


class Failed(Exception):
    """A step after the installation went wrong; the message says which and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A folder for one tool, with the document."""

    folder: Path
    document: Path

    def install(self, *command: str) -> None:
        """Run a step of the installation."""
        try:
            self.run(*command)
        except Failed as error:
            raise NotInstalled(str(error)) from None

    def run(self, *command: str) -> str:
        """Return what a command prints; raise Failed with its first errors when it fails."""
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, timeout=STEP_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"{command[0]}: {error}") from None
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
            told = [line for line in lines if "error" in line.lower()] or lines[-1:]
            raise Failed(f"{Path(command[0]).name} ended with {done.returncode}: {' '.join(told[:3])[:300]}")
        return done.stdout

    def pip(self, *packages: str) -> str:
        """Return the Python of a virtual environment with these packages."""
        python = str(self.folder / "venv/bin/python")
        self.install(sys.executable, "-m", "venv", "venv")
        self.install(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        return python

    def npm(self, *packages: str) -> Path:
        """Return the folder with the commands of these packages."""
        self.install("npm", "install", "--silent", "--no-audit", "--no-fund", *packages)
        return self.folder / "node_modules/.bin"

    def openapi_generator(self, language: str, *options: str) -> None:
        """Generate the folder `client` with openapi-generator, which needs Java."""
        tool = self.pip(f"openapi-generator-cli=={GENERATOR}")
        jar = next(Path(tool).parents[1].glob("lib/*/site-packages/openapi_generator_cli/*.jar"))
        generate = ("generate", "-i", str(self.document), "-g", language, "-o", "client", *options)
        self.run("java", "-jar", str(jar), *generate)

    def program(self, name: str, to: str = "") -> str:
        """Put a program of ours into the folder."""
        target = self.folder / (to or name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROGRAMS / name, target)
        return str(target)

    def go(self, name: str, *requirements: str) -> list[str]:
        """Return the command that polls in Go; the generated package is in `jobstatus`."""
        self.program(name, "main.go")
        if not (self.folder / "go.mod").exists():
            self.run("go", "mod", "init", "clients")
        for requirement in requirements:
            self.install("go", "get", requirement)
        self.install("go", "mod", "tidy")
        self.run("go", "build", "-o", "poll", ".")
        return ["./poll"]

    def typescript(self, name: str) -> list[str]:
        """Return the command that polls in TypeScript, after the types were checked."""
        program, bin_folder = self.program(name), self.folder / "node_modules/.bin"
        strict = ("--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "esnext")
        self.run(str(bin_folder / "tsc"), *strict, "--moduleResolution", "bundler", program)
        self.run(str(bin_folder / "esbuild"), program, "--bundle", "--platform=node", "--outfile=poll.cjs")
        return ["node", "poll.cjs"]


def og_python(place: Workplace) -> list[str]:
    place.openapi_generator("python", "--package-name", "jobstatus_client")
    return [place.pip("./client"), place.program("openapi_generator.py")]


def og_go(place: Workplace) -> list[str]:
    place.openapi_generator("go", "--package-name", "jobstatus", "--additional-properties=withGoMod=false")
    (place.folder / "jobstatus").mkdir()
    for source in (place.folder / "client").glob("*.go"):
        shutil.move(source, place.folder / "jobstatus")
    shutil.rmtree(place.folder / "client")  # its tests would need a published module
    return place.go("openapi_generator.go")


def og_java(place: Workplace) -> list[str]:
    place.openapi_generator("java", "--additional-properties=library=native,openApiNullable=false")
    place.program("Poll.java", "client/src/main/java/Poll.java")
    maven = ("mvn", "--quiet", "--batch-mode", "--file", "client/pom.xml")
    place.install(*maven, "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    place.run(*maven, "-Dmaven.test.skip=true", "compile")
    classpath = (place.folder / "client/classpath").read_text().strip()
    return ["java", "-cp", f"client/target/classes:{classpath}", "Poll"]


def og_typescript(place: Workplace) -> list[str]:
    place.npm(*NODE_PACKAGES)
    place.openapi_generator("typescript-fetch")
    return place.typescript("openapi_generator.ts")


def oapi_codegen(place: Workplace) -> list[str]:
    place.run("go", "mod", "init", "clients")
    place.install("go", "get", "-tool", "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2")
    (place.folder / "jobstatus").mkdir()
    options = ("-generate", "types,client", "-package", "jobstatus", "-o", "jobstatus/client.go")
    place.run("go", "tool", "oapi-codegen", *options, str(place.document))
    return place.go("oapi_codegen.go", "github.com/oapi-codegen/runtime@v1.9.0")


def openapi_python_client(place: Workplace) -> list[str]:
    python = place.pip("openapi-python-client==0.29.1")
    tool = str(Path(python).with_name("openapi-python-client"))
    place.run(tool, "generate", "--path", str(place.document), "--output-path", "client", "--fail-on-warning")
    return [place.pip("./client"), place.program("openapi_python_client.py")]


def openapi_typescript(place: Workplace) -> list[str]:
    commands = place.npm(*NODE_PACKAGES, "openapi-typescript@7.13.0", "openapi-fetch@0.17.0")
    place.run(str(commands / "openapi-typescript"), str(place.document), "-o", "client.d.ts")
    return place.typescript("openapi_typescript.ts")


def hey_api(place: Workplace) -> list[str]:
    commands = place.npm(*NODE_PACKAGES, "@hey-api/openapi-ts@0.95.0")
    place.run(str(commands / "openapi-ts"), "-i", str(place.document), "-o", "client")
    return place.typescript("hey_api.ts")


def redocly(place: Workplace) -> None:
    commands = place.npm("@redocly/cli@2.77.0")
    place.run(str(commands / "redocly"), "lint", str(place.document))


def spectral(place: Workplace) -> None:
    commands = place.npm("@stoplight/spectral-cli@6.16.3")
    (place.folder / "rules.yaml").write_text('extends: ["spectral:oas"]\n')
    place.run(str(commands / "spectral"), "lint", "--ruleset", "rules.yaml", str(place.document))


GENERATORS: Final[dict[str, Callable[[Workplace], list[str]]]] = {
    f"openapi-generator {GENERATOR}, python": og_python,
    f"openapi-generator {GENERATOR}, go": og_go,
    f"openapi-generator {GENERATOR}, java": og_java,
    f"openapi-generator {GENERATOR}, typescript-fetch": og_typescript,
    "oapi-codegen 2.8.2": oapi_codegen,
    "openapi-python-client 0.29.1": openapi_python_client,
    "openapi-typescript 7.13.0": openapi_typescript,
    "@hey-api/openapi-ts 0.95.0": hey_api,
}
LINTERS: Final[dict[str, Callable[[Workplace], None]]] = {
    "redocly 2.77.0": redocly,
    "spectral 6.16.3": spectral,
}


async def furnish(service: Service) -> None:
    """Make a job in each state."""
    for job_id in ("pending", "processing", "completed", "failed"):
        await create(service, job_id)
    await start(service, "processing")
    await complete(service, "completed")
    await fail(service, "failed", job_error())


async def poll(service: Service, command: list[str], folder: Path) -> str:
    """Return what the client's polls show that is wrong; an empty string when nothing is."""
    await create(service, "waits")
    arguments = (f"http://127.0.0.1:{service.http_port}", virtual_key_token("vk-1"), *JOBS)
    child = await asyncio.create_subprocess_exec(
        *command, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    ending = asyncio.create_task(end_the_wait(service))
    try:
        async with asyncio.timeout(STEP_SECONDS):
            output, errors = await child.communicate()
    finally:
        ending.cancel()
        if child.returncode is None:
            child.kill()
        await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="waits"))
    if child.returncode:
        return f"ended with {child.returncode}: {errors.decode().strip()[-300:]}"
    shown: list[Any] = [json.loads(line) for line in output.splitlines()]
    wrong = [f"{got}, not {wanted}" for got, wanted in zip(shown, WANTED, strict=False) if got != wanted]
    return "; ".join(wrong) or ("" if len(shown) == len(WANTED) else f"{len(shown)} answers")


async def end_the_wait(service: Service) -> None:
    await waiting(service, 1)
    await complete(service, "waits", b'{"text": "late"}')


async def outcome(service: Service, name: str, root: Path) -> tuple[str, bool]:
    """Return what to print of a tool, and whether it is a failure."""
    folder = root / name.replace("/", "_").replace(" ", "_").replace(",", "")
    folder.mkdir()
    document = root / "openapi.json"
    place = Workplace(folder=folder, document=document)
    try:
        if name in LINTERS:
            await asyncio.to_thread(LINTERS[name], place)
            return "no errors", False
        command = await asyncio.to_thread(GENERATORS[name], place)
    except NotInstalled as error:
        return f"could not be installed ({error})", False
    except Failed as error:
        return f"FAILED: {error}", True
    wrong = await poll(service, command, folder)
    return (f"FAILED: {wrong}", True) if wrong else (f"{len(JOBS)} of {len(JOBS)} jobs polled as described", False)


async def main() -> int:
    """Print the table; return 1 when something is wrong."""
    chosen = [name for name in (*GENERATORS, *LINTERS) if not sys.argv[1:] or any(map(name.__contains__, sys.argv[1:]))]
    with tempfile.TemporaryDirectory(prefix="jobstatus-clients-") as folder:
        root, failures = Path(folder), 0
        async with Process(root) as process, process.connected() as service:
            (root / "openapi.json").write_bytes((await request(service.http_port, "/openapi.json")).body)
            await furnish(service)
            for name in chosen:
                text, is_failure = await outcome(service, name, root)
                failures += is_failure
                print(f"{name:44} {text}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

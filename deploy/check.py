"""Render and validate everything in deploy/ with the field's own tools.

    python deploy/check.py [--only image chart …]

Installs the tools first, into deploy/tools/bin and deploy/tools/python: the Go programs that deploy/tools/go.mod pins,
built from source, and the Python packages of deploy/tools/requirements.txt, by hash. The first time takes minutes.
Prints what each check found, and what was not run and why. Exits with 1 when a check failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

DEPLOY: Final = Path(__file__).resolve().parent
TOOLS: Final = DEPLOY / "tools"
BIN: Final = TOOLS / "bin"
PYTHON: Final = TOOLS / "python"
CHART: Final = DEPLOY / "helm" / "jobstatus"
GO_TOOLS: Final = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "compose-spec": "github.com/compose-spec/compose-go/v2/cmd",
    "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
    "operator-kinds": ".",
}
"""`prometheus` is not for the checks, but for `make alerts` and `make dashboard`."""
MODULES: Final = {"operator-kinds": TOOLS / "operator"}
"""Where a program's go.mod is that does not share the others'."""
TAGS: Final = "remove_all_sd,netgo"
"""Prometheus without the service discovery of clouds, which would take most of the build."""
KUBERNETES: Final = ("1.27.0", "1.37.0")
"""The oldest release that the chart admits, and the newest whose schemas are there."""
KINDS: Final = (
    "configmap-v1",
    "deployment-apps-v1",
    "horizontalpodautoscaler-autoscaling-v2",
    "networkpolicy-networking-v1",
    "persistentvolumeclaim-v1",
    "poddisruptionbudget-policy-v1",
    "secret-v1",
    "service-v1",
)
"""What the chart renders, as the schemas' files are called."""
OPERATOR_KINDS: Final = "ServiceMonitor,PrometheusRule"
TIMEOUT_SECONDS: Final = 3600


class NotRunError(Exception):
    """A check cannot run here; the message says why."""


class FailedError(Exception):
    """A check failed; the message is what its tool says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the report: `run` returns what was found, or raises one of the errors above."""

    name: str
    tool: str
    run: Callable[[], str]


def run(*command: str | Path, cwd: Path = DEPLOY, given: str | None = None) -> str:
    """Return what the command prints, `given` this to read. Raise FailedError when it fails."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    if ended.returncode:
        raise FailedError((ended.stdout + ended.stderr).strip() or f"exit code {ended.returncode}")
    return ended.stdout


def tool(name: str) -> Path:
    """Return a tool that was installed. Raise NotRunError if it was not."""
    path = next((folder / name for folder in (BIN, PYTHON / "bin") if (folder / name).exists()), None)
    if path is None:
        raise NotRunError(f"{name} could not be installed")
    return path


# --- the tools ---


def install_go_tools() -> str:
    """Build the Go programs that are not there yet; rebuild all when the pins are newer."""
    go = shutil.which("go")
    if go is None:
        raise NotRunError("there is no Go here")
    built = []
    for name, package in GO_TOOLS.items():
        path, module = BIN / name, MODULES.get(name, TOOLS)
        pinned_at = (module / "go.sum").stat().st_mtime
        if path.exists() and path.stat().st_mtime >= pinned_at:
            continue
        options = ("-mod=readonly", "-buildvcs=false", "-tags", TAGS, "-ldflags", "-s -w")
        run(go, "build", *options, "-o", path, package, cwd=module)
        path.touch()
        built.append(name)
    return f"built {', '.join(built)}" if built else "already there"


def install_python_tools() -> str:
    """Install the Python packages, without what they depend on and the checks do not use."""
    wanted = TOOLS / "requirements.txt"
    stamp = PYTHON / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
        return "already there"
    run(sys.executable, "-m", "venv", "--clear", PYTHON)
    quiet = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:")
    run(PYTHON / "bin" / "python", "-m", "pip", "install", *quiet, "-r", wanted)
    stamp.touch()
    return "installed"


# --- the image ---


def check_containerfile() -> str:
    """Lint the Containerfile."""
    run(tool("hadolint"), "--failure-threshold", "style", DEPLOY / "Containerfile")
    return "no remark"


def check_build() -> str:
    """Tell what stands instead of a build of the image."""
    raise NotRunError("a build needs a container engine; `make image` runs the same steps without one")


# --- the chart ---


def check_values() -> str:
    """Lint the chart with each of its sets of values, and see that wrong ones are refused."""
    sets = sorted((CHART / "ci").glob("*.yaml"))
    for values in sets:
        run(tool("helm"), "lint", "--strict", CHART, "-f", values)
    wrong = {"replicas": "many", "store": "floppy", "grpc.insecure": "false", "nonsense": "1"}
    for name, value in wrong.items():
        try:
            run(tool("helm"), "lint", CHART, "-f", sets[0], "--set-string", f"{name}={value}")
        except FailedError:
            continue
        raise FailedError(f"{name}={value} is not refused by values.schema.json")
    return f"{len(sets)} sets of values, {len(wrong)} wrong values refused"


def rendered(values: Path) -> str:
    """Return the chart's resources with these values."""
    return run(
        *(tool("helm"), "template", "release", CHART, "--namespace", "apps", "-f", values),
        *("--kube-version", KUBERNETES[-1]),
    )


def check_resources() -> str:
    """Validate what the chart renders against the schemas of Kubernetes, strictly."""
    count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for values in sorted((CHART / "ci").glob("*.yaml")):
            manifest = folder / values.name
            manifest.write_text(rendered(values))
            for version in KUBERNETES:
                schemas = write_schemas(folder / version, version)
                options = ("-strict", "-output", "json", "-summary", "-skip", OPERATOR_KINDS)
                location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
                told = run(
                    *(tool("kubeconform"), *options, "-kubernetes-version", version, "-schema-location", location),
                    manifest,
                )
                count += json.loads(told)["summary"]["valid"]
    return f"{count} resources valid for Kubernetes {' and '.join(KUBERNETES)}"


def write_schemas(folder: Path, version: str) -> Path:
    """Write the schemas of the kinds that the chart has, each in one file, as kubeconform reads them."""
    if folder.exists():
        return folder
    found = list(PYTHON.glob(f"lib/python*/site-packages/kubernetes_validate/*/v{version}-local-strict"))
    if not found:
        raise NotRunError("the schemas of Kubernetes could not be installed")
    folder.mkdir()
    shared = json.loads((found[0] / "_definitions.json").read_text())["$defs"]
    for kind in KINDS:
        text = (found[0] / f"{kind}.json").read_text().replace("/api/_definitions.json#", "#")
        schema = {name: value for name, value in json.loads(text).items() if name != "$id"}
        (folder / f"{kind}.json").write_text(json.dumps(schema | {"$defs": shared}))
    return folder


def check_operator_kinds() -> str:
    """Decode the resources of the Prometheus operator into its own types, strictly."""
    count = sum(int(run(tool("operator-kinds"), given=rendered(path))) for path in (CHART / "ci").glob("*.yaml"))
    if not count:
        raise FailedError(f"the chart renders none of {OPERATOR_KINDS}")
    return f"{count} resources ({OPERATOR_KINDS})"


def check_edge_secrets() -> str:
    """See that edges get none of the Secret's files but those that issuers name."""
    found = [given for path in (CHART / "ci").glob("*.yaml") for given in edge_secrets(rendered(path))]
    if None in found or "store" in found:
        raise FailedError("an edge gets the URL of the store")
    return f"{len(found)} files, none of them the store's URL"


def edge_secrets(resources: str) -> Iterator[str | None]:
    """Yield the files of the service's Secret that the edges' pods get; None stands for all."""
    for resource in yaml.safe_load_all(resources):
        if not resource or resource["kind"] != "Deployment" or not resource["metadata"]["name"].endswith("-edge"):
            continue
        for volume in resource["spec"]["template"]["spec"]["volumes"]:
            if volume["name"] == "secrets":
                items = volume["secret"].get("items")
                yield from (item["key"] for item in items) if items else (None,)


# --- the rest ---


def check_compose() -> str:
    """Load compose.yaml as Compose does; the secrets need not exist for that."""
    model = json.loads(run(tool("compose-spec"), "-format", "json", DEPLOY / "compose.yaml"))
    return f"{len(model['services'])} services"


def check_prometheus() -> str:
    """Check the configuration of Prometheus and the rules it names."""
    told = run(tool("promtool"), "check", "config", "--lint=all", "--lint-fatal", "prometheus/prometheus.yaml")
    return _last(told).removeprefix("SUCCESS: ")


def check_rule_tests() -> str:
    """Run the unit tests of the rules."""
    run(tool("promtool"), "test", "rules", "prometheus/tests.yaml")
    tests = yaml.safe_load((DEPLOY / "prometheus" / "tests.yaml").read_text())["tests"]
    return f"{len(tests)} tests"


def check_dashboard() -> str:
    """Parse each query of the dashboard with Prometheus' own parser."""
    queries = list(dashboard_queries())
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "queries.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        run(tool("promtool"), "check", "rules", path)
    return f"{len(queries)} queries"


def dashboard_queries() -> Iterator[str]:
    """Yield the queries of the dashboard as Prometheus gets them, with Grafana's variables filled in."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def check_unit() -> str:
    """Verify the systemd units."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        raise NotRunError("there is no systemd-analyze here")
    units = sorted((DEPLOY / "systemd").glob("*.service"))
    with tempfile.TemporaryDirectory() as name:
        for unit in units:
            text = unit.read_text().replace("/opt/jobstatus/.venv/bin/jobstatus", sys.executable)
            text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("User=", "Group=")))
            copy = Path(name) / unit.name
            copy.write_text(text)
            told = run(analyze, "verify", "--man=no", "--recursive-errors=no", copy)
            if told:
                raise FailedError(told)
    return f"{len(units)} units"


def check_metrics() -> str:
    """Run the tests that compare rules, dashboard, chart and compose file with the service itself."""
    test = DEPLOY.parent / "tests" / "integration" / "test_deploy_files.py"
    return _last(run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test, cwd=DEPLOY.parent)).strip(
        "= "
    )


def _last(text: str) -> str:
    return text.strip().splitlines()[-1].strip()


CHECKS: Final = (
    Check(name="tools", tool="go build", run=install_go_tools),
    Check(name="tools", tool="pip install", run=install_python_tools),
    Check(name="image", tool="hadolint", run=check_containerfile),
    Check(name="image", tool="a container engine", run=check_build),
    Check(name="chart", tool="helm lint", run=check_values),
    Check(name="chart", tool="helm template, kubeconform", run=check_resources),
    Check(name="chart", tool="the operator's Go types", run=check_operator_kinds),
    Check(name="chart", tool="helm template, the edge's secrets", run=check_edge_secrets),
    Check(name="compose", tool="compose-spec", run=check_compose),
    Check(name="prometheus", tool="promtool check", run=check_prometheus),
    Check(name="prometheus", tool="promtool test rules", run=check_rule_tests),
    Check(name="dashboard", tool="promtool check rules", run=check_dashboard),
    Check(name="systemd", tool="systemd-analyze verify", run=check_unit),
    Check(name="names", tool="pytest, a running service", run=check_metrics),
)


def row(check: Check) -> tuple[str, str]:
    """Run a check and return its row's word and text."""
    try:
        return "passed", check.run()
    except NotRunError as reason:
        return "not run", str(reason)
    except FailedError as error:
        return "FAILED", str(error)


def main() -> int:
    names = sorted({check.name for check in CHECKS})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    given: Any = parser.parse_args()
    console = Console()
    table = Table("what", "with", "result", "")
    failures = {}
    for check in CHECKS:
        if check.name not in given.only:
            continue
        with console.status(f"{check.name}: {check.tool}"):
            word, text = row(check)
        if word == "FAILED":
            failures[check.tool] = text
        table.add_row(check.name, check.tool, word, "see below" if word == "FAILED" else text)
    console.print(table)
    for failed, text in failures.items():
        console.print(f"\n{failed}:\n{text}", markup=False)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())

"""Make service/jobstatus/v1 from the protos, or say with --check whether it is up to date."""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
COMMITTED = ROOT / "service"


def generate(target: Path) -> None:
    """Write messages, services and their type stubs below `target`."""
    names = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "jobstatus").rglob("*.proto"))
    plugins = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"),
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        *(f"--python_out={target}", f"--grpc_python_out={target}"),
        *(f"--mypy_out={target}", f"--mypy_grpc_out=only_async:{target}"),
    ]
    subprocess.run([*command, *names], check=True, capture_output=True)


def drift(fresh: Path) -> list[str]:
    """Name the generated files that differ from the committed ones, are missing there, or are left over."""
    folder = Path("jobstatus", "v1")
    wanted, present = ({path.name for path in (root / folder).glob("*_pb2*")} for root in (fresh, COMMITTED))
    _, different, _ = filecmp.cmpfiles(fresh / folder, COMMITTED / folder, wanted & present, shallow=False)
    return sorted({*different, *(wanted ^ present)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the committed code is stale")
    if not parser.parse_args().check:
        generate(COMMITTED)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = drift(Path(folder))
    if stale:
        print(f"generated code is stale ({', '.join(stale)}): run `make generate` and commit", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())

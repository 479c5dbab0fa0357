"""Make service/jobstatus/rest/openapi.json from docs/openapi.yaml, or say with --check whether it is up to date."""

import argparse
import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "openapi.yaml"
COMMITTED = ROOT / "service" / "jobstatus" / "rest" / "openapi.json"


def generate() -> bytes:
    """The description as the service hands it out: compact JSON, keys in the source's order."""
    document = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the committed file is stale")
    if not parser.parse_args().check:
        COMMITTED.write_bytes(generate())
        return 0
    if not COMMITTED.exists() or COMMITTED.read_bytes() != generate():
        sys.exit(f"{COMMITTED.relative_to(ROOT)} is stale: run `python docs/openapi.py` and commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())

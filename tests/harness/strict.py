"""The bodies of REST answers, judged to the letter; the published description says less, for generators of clients."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator

SCHEMAS: Final[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("strict_schemas.yaml").read_text(encoding="utf-8")
)["components"]["schemas"]


def validator(schema: object, schemas: dict[str, Any]) -> Draft202012Validator:
    """Judges by a schema whose $refs are to these components; formats count."""
    assert isinstance(schema, dict)
    whole = {**schema, "components": {"schemas": schemas}}
    Draft202012Validator.check_schema(whole)
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


@cache
def judge(name: str) -> Draft202012Validator:
    """Judges by the strict schema of this name."""
    return validator({"$ref": f"#/components/schemas/{name}"}, SCHEMAS)

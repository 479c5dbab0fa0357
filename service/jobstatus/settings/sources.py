"""Where the values of settings come from: a TOML file, JOBSTATUS_* variables, options of the command, files of secrets.

An option wins over a variable, and a variable over the file. They are read here, because pydantic-settings takes longer
to import than pydantic. Nothing here knows what a setting means.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from jobstatus.settings.errors import SettingsError

PREFIX: Final = "JOBSTATUS_"
CONFIG: Final = "config"
"""The one option and variable that is no setting: it names the TOML file."""
SECRETS: Final[Mapping[str, str]] = {"store": "store_file", "jwt_secret": "jwt_secret_file"}
"""Settings that hold a secret, and those that name a file which holds it instead."""
_MAX_SECRET_BYTES: Final = 64 * 1024


def variable(name: str) -> str:
    """Return the variable of a setting."""
    return PREFIX + name.upper()


def read_values(
    environment: Mapping[str, str], options: Mapping[str, str], names: Collection[str]
) -> Mapping[str, Any]:
    """Return the values of these settings, not checked yet. Raises SettingsError.

    A source that sets a secret or names its file replaces both of the sources below it.
    """
    variables = {name.upper(): value for name, value in environment.items() if value}
    given = {name: variables[variable(name)] for name in names if variable(name) in variables}
    if "issuers" in given:
        given["issuers"] = _parse_issuers(given["issuers"])
    values: dict[str, Any] = {}
    chosen = {name: value for name, value in options.items() if name != CONFIG}
    for source in (_read_config(variables, options), given, chosen):
        values = {name: value for name, value in values.items() if not _replaces(source, name)} | source
    return values


def overridden(environment: Mapping[str, str], options: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that says the same as this one with these options."""
    kept = {
        name: value
        for name, value in environment.items()
        if not (name.upper().startswith(PREFIX) and _replaces(options, name.upper().removeprefix(PREFIX).lower()))
    }
    return kept | {variable(name): value for name, value in options.items()}


def read_secret(path: Path, name: str) -> str:
    """Return the text of a file without the newline at its end. Raises SettingsError, which never quotes the text."""
    if problem := problem_with(path):
        raise SettingsError(f"{name} {problem}")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise SettingsError(f"{name} names a file that cannot be read ({path}: {error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} names a file that is not text in UTF-8 ({path})") from None
    if len(data) > _MAX_SECRET_BYTES:
        raise SettingsError(f"{name} names a file of more than {_MAX_SECRET_BYTES} bytes ({path})")
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise SettingsError(f"{name} names an empty file ({path})")
    return secret


def problem_with(path: Path) -> str:
    """Return why the path is not that of a file, to follow the setting's name; an empty string if it is one."""
    try:
        return "" if path.is_file() else f"names no file ({path})"
    except OSError as error:  # a folder above it may not be entered
        return f"names a file that cannot be read ({path}: {error.strerror})"


def _replaces(source: Mapping[str, Any], name: str) -> bool:
    """Return whether the source sets this setting, or the one that stands for the same secret."""
    pair = next((pair for pair in SECRETS.items() if name in pair), (name,))
    return not source.keys().isdisjoint(pair)


def _read_config(variables: Mapping[str, str], options: Mapping[str, str]) -> dict[str, Any]:
    name, path = variable(CONFIG), variables.get(variable(CONFIG))
    if CONFIG in options:
        name, path = f"--{CONFIG}", options[CONFIG]
    if path is None:
        return {}
    if problem := problem_with(Path(path)):
        raise SettingsError(f"{name} {problem}")
    import tomllib  # noqa: PLC0415  # most settings come from variables

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{name} names a file that cannot be read ({path}: {error.strerror})") from None
    except ValueError as error:
        raise SettingsError(f"{name}={path} is not valid TOML: {error}") from None


def _parse_issuers(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{variable('issuers')} is not valid JSON: {error}") from None

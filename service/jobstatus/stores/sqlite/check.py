"""Look into the file without changing it, and say what a start would do with it."""

import os
from pathlib import Path
from urllib.parse import quote

import apsw

from jobstatus.stores import StoreConfigError
from jobstatus.stores.sqlite import schema


def describe(path: Path) -> str:
    """Return what a start would open or make. Blocks. Raise StoreConfigError where a start would."""
    path = Path(os.path.realpath(path))
    with schema.refusals(path):
        if not path.exists():
            _check_folder(path)
            return f"the SQLite file {path}, which would be created"
        version = _read_version(path)
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
        raise StoreConfigError(f"cannot write {path}: check the rights of the file and its folder")
    if version < len(schema.MIGRATIONS):
        change = f"migrated from schema {version} to {len(schema.MIGRATIONS)}" if version else "given its tables"
        return f"the SQLite file {path}, which would be {change}"
    return f"the SQLite file {path} (schema {version})"


def _check_folder(path: Path) -> None:
    """Raise StoreConfigError if the file could not be made: the folders that are missing would be made too."""
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir():
        raise StoreConfigError(f"cannot use {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreConfigError(f"cannot use {path}: Permission denied")


def _read_version(path: Path) -> int:
    """Return the version of a file that is sound.

    SQLite makes the files of the log even for a reader. Without a log nobody has the file open, so it is opened as one
    that does not change, which makes none.
    """
    has_log = Path(f"{path}-wal").exists()
    uri = f"file:{quote(str(path))}?{'mode=ro' if has_log else 'immutable=1'}"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        connection.set_busy_timeout(schema.READER_BUSY_TIMEOUT_MS)
        version = schema.version_of(connection, path)
        schema.check_whole(connection, path)
    finally:
        connection.close()
    return version

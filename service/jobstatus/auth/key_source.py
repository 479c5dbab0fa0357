"""Load an issuer's keys, and reload them when their file changes.

An unusable key at start is an error. When a file changes later, the previous keys stay in use until the file is valid,
because a file that is incomplete or missing for a moment must not lock out all clients.
"""

import hashlib
import logging
from pathlib import Path
from typing import Final, TypeAlias

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.issuer_config import IssuerConfig
from jobstatus.auth.jwks import parse_jwks
from jobstatus.auth.keys import KeyRefused, KeySet, parse_public_pem, parse_secret

logger: Final = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1024 * 1024
_Stamp: TypeAlias = tuple[int, int, int, int]


class KeySource:
    """The keys of one issuer. `keys` is replaced as a whole, so any thread may read it while another reloads."""

    def __init__(self, config: IssuerConfig) -> None:
        self.config = config
        path = config.key_file
        self._stamp = None if path is None else _read_stamp(path)
        self._digest, self.keys = self._load(path)
        self._reported: str | None = None

    @property
    def changed_at(self) -> float | None:
        """When the file that the keys came from was changed, in seconds since the epoch; None without a file."""
        return None if self._stamp is None else self._stamp[0] / 1e9

    def reload(self) -> bool:
        """Read the key file again if it has changed, and return whether the keys changed.

        Blocks. An invalid file is logged once and tried again at each call; the previous keys stay in use.
        """
        path = self.config.key_file
        if path is None:
            return False
        stamp = _read_stamp(path)  # before the content: a change in between is then seen the next time
        if stamp == self._stamp:
            self._reported = None
            return False
        try:
            digest, keys = self._load(path)
        except KeyConfigError as error:
            self._report(str(error))
            return False
        has_changed = digest != self._digest
        self._stamp, self._digest, self.keys, self._reported = stamp, digest, keys, None
        return has_changed

    def _report(self, problem: str) -> None:
        if problem != self._reported:
            self._reported = problem
            logger.warning(
                "The keys cannot be reloaded, so the keys from before stay in use.",
                extra={"event": "keys_not_reloaded", "problem": problem},
            )

    def _load(self, path: Path | None) -> tuple[bytes, KeySet]:
        """Return the SHA-256 of the file, and the keys; raise KeyConfigError."""
        try:
            data = b"" if path is None else _read_file(path)
            return hashlib.sha256(data).digest(), self._parse(data)
        except KeyRefused as refused:
            raise KeyConfigError(self.config.issuer, str(refused)) from None
        except OSError as error:
            problem = f"the key file {path} cannot be read ({error.strerror})"
            raise KeyConfigError(self.config.issuer, problem) from None

    def _parse(self, data: bytes) -> KeySet:
        config = self.config
        if config.jwks_file is not None:
            return parse_jwks(config.algorithm, data, issuer=config.issuer)
        key = parse_secret(config.secret) if config.secret is not None else parse_public_pem(config.algorithm, data)
        return KeySet({} if config.key_id is None else {config.key_id: key}, key)


def _read_stamp(path: Path) -> _Stamp | None:
    """Return what identifies a version of the file without reading it; None when there is no access."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise KeyRefused(f"the key file {path} is larger than {MAX_FILE_BYTES} bytes")
    return data

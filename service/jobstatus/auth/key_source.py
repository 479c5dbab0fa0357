"""Where an issuer's keys come from, and the keys as they were last read.

At the start a key that cannot be used ends the start. Later, when a file changes under a running service, the keys that
worked stay until the file is good again: half a file, or none for a moment, must not lock everybody out.
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
    """The keys of one issuer. `keys` is replaced as a whole, so that any thread may read it while another reloads."""

    def __init__(self, config: IssuerConfig) -> None:
        self.config = config
        path = config.key_file
        self._stamp = None if path is None else _read_stamp(path)
        self._digest, self.keys = self._load(path)
        self._reported: str | None = None

    def reload(self) -> bool:
        """Read the key file again if it is another one than before; whether the keys changed.

        Blocks. A bad file is named in the log once and tried again each time; what was known before stays in use.
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
        """The keys, and the SHA-256 of what they were read from; raises KeyConfigError."""
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
    """What tells one file from the next without reading it; None when it cannot be seen."""
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

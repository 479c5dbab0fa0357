"""Read the PEM files of one side of a TLS connection, and prove that they can be used together.

gRPC would tell of a wrong file only with each handshake that fails.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pem:
    """The content of the files."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The authorities that the other side's certificate must come from, our certificate chain, and its private key."""

    ca: Path
    certificate: Path
    key: Path

    def read(self, what: str) -> Pem:
        """Return the content, checked. Raise OSError, whose message says what the files are for."""
        names = f"{self.certificate}, {self.key} or {self.ca}"
        try:
            for _ in range(_TRIES):
                pem = self._read()
                self._check()
                if pem == self._read():  # else they were replaced meanwhile, and the check was of others
                    return pem
        except ssl.SSLError as error:
            problem = error.reason or str(error)
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            problem = "they change while they are read"
        raise OSError(f"the TLS files for {what} cannot be used ({names}): {problem}")

    def _read(self) -> Pem:
        return Pem(ca=self.ca.read_bytes(), certificate=self.certificate.read_bytes(), key=self.key.read_bytes())

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key, password="")  # else a key with one asks at the terminal
        context.load_verify_locations(self.ca)

"""What the metrics tell of the TLS files that a process uses: when certificates end, and how old private keys are."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateDates:
    """By path, in seconds since the epoch: the first end of a certificate in a file, and when a key was changed."""

    ends_at: Mapping[str, float] = field(default_factory=dict)
    changed_at: Mapping[str, float] = field(default_factory=dict)


def read_dates(certificates: Iterable[Path | None], keys: Iterable[Path | None]) -> CertificateDates:
    """Read these files, without those that are None. Call it when the files are read to be used.

    Raises OSError. A certificate that OpenSSL uses and this cannot read is logged and left out.
    """
    ends_at = {str(path): _first_end(path) for path in certificates if path is not None}
    return CertificateDates(
        ends_at={path: end for path, end in ends_at.items() if end is not None},
        changed_at={str(path): path.stat().st_mtime for path in keys if path is not None},
    )


def _first_end(path: Path) -> float | None:
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415  # most have no TLS files

    try:
        certificates = load_pem_x509_certificates(path.read_bytes())
        return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
    except ValueError as error:
        _log.warning(
            "The end of a certificate is unknown, so the metrics do not have it.",
            extra={"event": "certificate_end_unknown", "file": str(path), "problem": str(error)},
        )
        return None

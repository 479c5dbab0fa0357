"""Certificates for tests of mutual TLS: a CA of our own, one of a stranger, and what they issue."""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from harness.forging import private_pem


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CA that the service trusts, and one that it does not."""

    ours: trustme.CA = field(default_factory=trustme.CA)
    strangers: trustme.CA = field(default_factory=trustme.CA)

    def settings(self, folder: Path, *, name: str = "127.0.0.1", of_stranger: bool = False) -> dict[str, Any]:
        """The service's settings; its certificate is for this name."""
        pair = (self.strangers if of_stranger else self.ours).issue_cert(name)
        paths = {name: folder / f"{name}.pem" for name in ("grpc_tls_cert", "grpc_tls_key", "grpc_tls_client_ca")}
        paths["grpc_tls_cert"].write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        paths["grpc_tls_key"].write_bytes(pair.private_key_pem.bytes())
        self.ours.cert_pem.write_to_path(str(paths["grpc_tls_client_ca"]))
        return dict(paths)

    def upstream_settings(self, folder: Path, *names: str, of_stranger: bool = False) -> dict[str, Any]:
        """The settings of an edge whose certificate has these names."""
        pair = (self.strangers if of_stranger else self.ours).issue_cert(*names)
        paths = {name: folder / f"{name}.pem" for name in ("upstream_tls_cert", "upstream_tls_key", "upstream_tls_ca")}
        paths["upstream_tls_cert"].write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        paths["upstream_tls_key"].write_bytes(pair.private_key_pem.bytes())
        self.ours.cert_pem.write_to_path(str(paths["upstream_tls_ca"]))
        return dict(paths)

    async def certificate_of(self, port: int) -> bytes:
        """The certificate that a client with one of ours is shown on a new connection to this port."""
        context = ssl.create_default_context(cadata=self.ours.cert_pem.bytes().decode())
        self.ours.issue_cert("prober").configure_cert(context)
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return bytes(shown)

    def server(self, name: str) -> ssl.SSLContext:
        """What a server of this name speaks TLS with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ours.issue_cert(name).configure_cert(context)
        return context

    def nobody(self) -> grpc.ChannelCredentials:
        """A client without a certificate."""
        return grpc.ssl_channel_credentials(self.ours.cert_pem.bytes())

    def client(self, *names: str, of_stranger: bool = False, has_expired: bool = False) -> grpc.ChannelCredentials:
        """A client whose certificate has these names."""
        issuer = self.strangers if of_stranger else self.ours
        not_after = datetime.now(UTC) - timedelta(days=1) if has_expired else None
        pair = issuer.issue_cert(*names, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=not_after)
        return self._credentials(pair.private_key_pem.bytes(), b"".join(blob.bytes() for blob in pair.cert_chain_pems))

    def nameless_client(self) -> grpc.ChannelCredentials:
        """A client whose certificate is of our CA and has neither a common name nor other names."""
        key = ec.generate_private_key(ec.SECP256R1())
        ca_key: Any = load_pem_private_key(self.ours.private_key_pem.bytes(), None)
        issuer = x509.load_pem_x509_certificate(self.ours.cert_pem.bytes()).subject
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "somebody")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(ca_key, SHA256())
        )
        return self._credentials(private_pem(key), certificate.public_bytes(Encoding.PEM))

    def _credentials(self, key: bytes, chain: bytes) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ours.cert_pem.bytes(), key, chain)

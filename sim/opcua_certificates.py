"""The certificates of the bench's OPC UA servers: their own, made at the start, and those of trusted clients."""

import datetime
from pathlib import Path
from typing import Final

import msgspec
from asyncua import ua
from asyncua.common.utils import ServiceError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEY_BITS: Final = 2048
_DAY: Final = datetime.timedelta(days=1)
_VALID_DAYS: Final = 365


class Identity(msgspec.Struct, frozen=True):
    """Who a server is: its certificate (DER) and private key (PEM)."""

    certificate: Path
    key: Path


def make_identity(folder: Path, uri: str, host: str, now: datetime.datetime) -> Identity:
    """Return a server's identity, making it if it is not there yet.

    Args:
        folder: made if missing.
        uri: application URI, which the certificate names (OPC 10000-6, 6.2.2).
        host: DNS name or address that the certificate names.
        now: it is valid from the day before on, for a year.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity(folder / "server.der", folder / "server.key.pem")
    if not identity.key.exists() or not identity.certificate.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        identity.key.touch(mode=0o600)
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate = _certificate(key, uri, host, now)
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    return identity


def _certificate(key: rsa.RSAPrivateKey, uri: str, host: str, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Pumping station")])
    names = [x509.UniformResourceIdentifier(uri), x509.DNSName(host)]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _VALID_DAYS * _DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


class TrustedClients:
    """Which clients a server lets in: those whose certificates lie in a folder, or all while none lies there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def judge(self, certificate: x509.Certificate, client: ua.ApplicationDescription) -> None:
        """Let a client in.

        Raises:
            ServiceError: BadCertificateUntrusted or BadCertificateUriInvalid.
        """
        trusted = [path.read_bytes() for path in self._folder.glob("*.der")]
        if trusted and certificate.public_bytes(serialization.Encoding.DER) not in trusted:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if client.ApplicationUri not in names.get_values_for_type(x509.UniformResourceIdentifier):
            raise ServiceError(ua.StatusCodes.BadCertificateUriInvalid)

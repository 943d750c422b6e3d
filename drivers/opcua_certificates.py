"""Application certificates for OPC UA: making this cabinet's own, and judging a server's.

Trust is by the certificate itself: a server is trusted if its very certificate lies in the trusted folder. Who signed
it is not asked; there is no authority in a cabinet that could be asked without the centre.

**Dates and a clock that was never set.** Certificates have dates, and a cabinet may come up in 1970, with no network
to learn the time from. Refusing every server then would blind the cabinet after each long power cut, for a check that
says nothing about who the server is. So dates are judged only by a clock that can be right: one that was set, and
that is not before this software was written. Otherwise a pinned certificate is believed without, which is logged.
Some servers refuse a client whose requests are stamped far off (BadInvalidTimestamp); that is then the line's reason.
"""

import datetime
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drivers.errors import LineDownError
from protocols.clock import ClockQuality, Instant
from protocols.errors import LocalProtocolError
from protocols.model.ids import CabinetId

CERTIFICATE: Final = "certificate.der"
KEY: Final = "key.pem"
TRUSTED: Final = "trusted"
REJECTED: Final = "rejected"
KEY_BITS: Final = 3072
"""Basic256Sha256 and its successors take RSA keys of 2048 to 4096 bits (OPC 10000-7, their profiles)."""
MIN_KEY_BITS: Final = 2048
MAX_KEY_BITS: Final = 4096
VALID_DAYS: Final = 1826
"""Five years: a cabinet is visited more often than that."""
MAX_CERTIFICATE: Final = 65_536
"""Bytes of one certificate file."""
MAX_FILES: Final = 256
"""Certificates in the trusted folder that are looked at."""
MAX_REJECTED: Final = 32
"""Refused certificates that are kept: whoever is on the network can bring new ones for ever."""
MAX_PASSWORD: Final = 1024
EARLIEST_PLAUSIBLE_MS: Final = 1_767_225_600_000
"""2026-01-01: before this software was written, so a clock that says so was never set."""

_DAY: Final = datetime.timedelta(days=1)


class Identity(msgspec.Struct, frozen=True):
    """Who this cabinet is to an OPC UA server.

    Attributes:
        certificate: its application certificate.
        key: the private key to it.
        uri: the application URI that the certificate names.
        file: where the certificate lies, for messages.
    """

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    uri: str
    file: Path


class Made(msgspec.Struct, frozen=True):
    """A certificate that was just made."""

    certificate: Path
    key: Path
    uri: str
    valid_until: datetime.datetime


def application_uri(cabinet: CabinetId) -> str:
    """Return what a cabinet is called among OPC UA applications."""
    return f"urn:luciole:cabinet:{cabinet}"


def make_certificate(folder: Path, cabinet: CabinetId, now: Instant, *, bits: int = KEY_BITS) -> Made:
    """Make this cabinet's application certificate and key, and the folders for those of servers.

    Args:
        folder: made if missing; gets `certificate.der`, `key.pem` (0600), `trusted` and `rejected`.
        cabinet: named in the certificate.
        now: it is valid from the day before on.
        bits: of the RSA key.

    Raises:
        LocalProtocolError: if there is a certificate or a key already, the clock cannot be right, or `bits` is
            nothing that a security policy takes.
        OSError: if the folder cannot be written.
    """
    if not MIN_KEY_BITS <= bits <= MAX_KEY_BITS:
        raise LocalProtocolError(f"a key has {MIN_KEY_BITS} to {MAX_KEY_BITS} bits, not {bits}")
    if now.utc_ms < EARLIEST_PLAUSIBLE_MS:
        raise LocalProtocolError(
            "this machine's clock was never set; a certificate made now would have wrong dates"
        )
    made = Made(
        folder / CERTIFICATE,
        folder / KEY,
        application_uri(cabinet),
        _utc(now) + VALID_DAYS * _DAY,
    )
    for path in (made.certificate, made.key):
        if path.exists():
            raise LocalProtocolError(
                f"{path} is there already; servers trust it. Move it away to make another"
            )
    for part in (folder, folder / TRUSTED, folder / REJECTED):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    _write_new(made.key, _key_bytes(key), 0o600)
    certificate = _build(key, made.uri, cabinet, _utc(now) - _DAY, made.valid_until)
    _write_new(made.certificate, certificate.public_bytes(serialization.Encoding.DER), 0o644)
    return made


def _key_bytes(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _build(
    key: rsa.RSAPrivateKey,
    uri: str,
    cabinet: CabinetId,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.Certificate:
    """Return a self-signed application instance certificate (OPC 10000-6, 6.2.2)."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Luciole"),
            x509.NameAttribute(NameOID.COMMON_NAME, cabinet),
        ]
    )
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
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName(cabinet)]), False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


# --- this cabinet's own ---


def load_identity(certificate: Path, key: Path, uri: str, now: Instant) -> Identity:
    """Read this cabinet's certificate and key. Blocks for as long as the disk does.

    Args:
        certificate: DER or PEM.
        key: PEM.
        uri: what the certificate must name; "" for whatever it names.
        now: judges its dates.

    Raises:
        LineDownError: with what is wrong, for a person.
    """
    own = _parse(_read(certificate, MAX_CERTIFICATE, "certificate"), f"{certificate}")
    private = _private_key(key)
    if own.public_key() != private.public_key():
        raise LineDownError(f"{key} is not the key to {certificate}")
    named = uris(own)
    if not named:
        raise LineDownError(f"{certificate} names no application URI")
    if uri and uri not in named:
        raise LineDownError(f"{certificate} names {', '.join(named)}, not application_uri {uri}")
    _check_dates(own, "this cabinet's certificate", now)
    return Identity(own, private, uri or named[0], certificate)


def _private_key(path: Path) -> rsa.RSAPrivateKey:
    content = read_secret(path, MAX_CERTIFICATE, "key")
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise LineDownError(f"{path} is no private key without a password") from fault
    if not isinstance(key, rsa.RSAPrivateKey):
        raise LineDownError(f"{path} is no RSA key")
    return key


def read_secret(path: Path, bound: int, what: str) -> bytes:
    """Return what a file for its owner alone holds.

    Raises:
        LineDownError: if it cannot be read, others can read it too, or it is larger than `bound` bytes.
    """
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        raise LineDownError(f"{what} {path} cannot be read: {fault.strerror}") from fault
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LineDownError(f"{what} {path} can be read by others: chmod 600 {path}")
    return _read(path, bound, what)


def read_password(path: Path) -> str:
    """Return the password that a file holds, without the line's end.

    Raises:
        LineDownError: as `read_secret`; the message never holds what was read.
    """
    content = read_secret(path, MAX_PASSWORD, "password file")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise LineDownError(f"password file {path} is no text") from None


def _read(path: Path, bound: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(bound + 1)
    except OSError as fault:
        raise LineDownError(f"{what} {path} cannot be read: {fault.strerror}") from fault
    if len(content) > bound:
        raise LineDownError(f"{what} {path} is larger than {bound} bytes")
    return content


# --- a server's ---


def leading_certificate(chain: bytes | None) -> bytes:
    """Return the first certificate of what a server sends, which may be followed by those of its issuers.

    Source: OPC 10000-6, 6.2.6: certificates in DER one after another; each is a SEQUENCE with its own length.

    Raises:
        LineDownError: if it begins with no certificate.
    """
    if not chain or len(chain) > MAX_CERTIFICATE:
        raise LineDownError(
            "the server sends no certificate" if not chain else "the server's certificate is huge"
        )
    if chain[:2] != b"\x30\x82" or 4 + int.from_bytes(chain[2:4], "big") > len(chain):
        raise LineDownError("what the server sends for a certificate is none")
    return chain[: 4 + int.from_bytes(chain[2:4], "big")]


def judge_server(der: bytes, uri: str, trusted: Path, now: Instant) -> x509.Certificate:
    """Return a server's certificate if it can be believed (OPC 10000-4, 6.1.3). Blocks for as long as the disk does.

    Args:
        der: the certificate.
        uri: what the server says that it is.
        trusted: folder of certificates that are trusted; what is refused goes into `rejected` beside.
        now: judges its dates.

    Raises:
        LineDownError: with what is wrong and what to do, for a person.
    """
    certificate = _parse(der, "what the server sends for a certificate")
    if der not in _trusted(trusted):
        raise LineDownError(_reject(certificate, der, trusted))
    _check_dates(certificate, "the server's certificate", now)
    if uri not in (named := uris(certificate)):
        said = ", ".join(named) or "none"
        raise LineDownError(f"the server says that it is {uri[:200]}, its certificate names {said[:200]}")
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS:
        raise LineDownError(f"the server's key is no RSA key of {MIN_KEY_BITS} to {MAX_KEY_BITS} bits")
    return certificate


def _trusted(folder: Path) -> set[bytes]:
    """Return the trusted certificates; files that are none are passed over."""
    found: set[bytes] = set()
    for path in sorted((*folder.glob("*.der"), *folder.glob("*.pem"), *folder.glob("*.crt")))[:MAX_FILES]:
        try:
            certificate = _parse(_read(path, MAX_CERTIFICATE, "certificate"), str(path))
        except LineDownError:
            continue
        found.add(certificate.public_bytes(serialization.Encoding.DER))
    return found


def _reject(certificate: x509.Certificate, der: bytes, trusted: Path) -> str:
    """Put a certificate aside for a technician to look at, and return what to do with it."""
    mark = hashlib.sha1(der, usedforsecurity=False).hexdigest()  # the thumbprint that every OPC UA tool shows
    who = certificate.subject.rfc4514_string()[:100]
    rejected = trusted.parent / REJECTED
    path = rejected / f"{mark}.der"
    said = f"the server's certificate is not trusted: {who}, thumbprint {mark}"
    try:
        rejected.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            if sum(1 for _ in rejected.iterdir()) >= MAX_REJECTED:
                return f"{said}. {rejected} is full; empty it to have this one put there"
            path.write_bytes(der)
    except OSError as fault:
        return f"{said}. It could not be put into {rejected}: {fault.strerror}"
    return f"{said}. If it is the right one: mv {path} {trusted}/"


# --- both ---


def can_judge_dates(now: Instant) -> bool:
    """Tell whether a clock can be right."""
    return now.quality is not ClockQuality.UNSYNCHRONISED and now.utc_ms >= EARLIEST_PLAUSIBLE_MS


def _check_dates(certificate: x509.Certificate, whose: str, now: Instant) -> None:
    if not can_judge_dates(now):
        return
    moment = _utc(now)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if moment < begin:
        raise LineDownError(
            f"{whose} is valid only from {begin:%Y-%m-%d %H:%M} UTC on; here it is {moment:%F %H:%M}"
        )
    if moment > end:
        raise LineDownError(f"{whose} has expired on {end:%Y-%m-%d}; here it is {moment:%F}")


def _utc(now: Instant) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now.utc_ms / 1000, datetime.UTC)


def _parse(content: bytes, what: str) -> x509.Certificate:
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise LineDownError(f"{what} is no certificate") from fault


def uris(certificate: x509.Certificate) -> list[str]:
    """Return the application URIs that a certificate names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return []

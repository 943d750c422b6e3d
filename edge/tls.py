"""TLS to the broker, also for a cabinet that does not know the time.

OpenSSL judges a certificate's dates by the system's clock. One that starts in 1970 finds every certificate not valid
yet, and a cabinet that learns the time through the network would never get there. While nothing has disciplined the
clock, OpenSSL is therefore told to leave the dates alone, and the end of each certificate of the verified chain is
compared with the last known good time, after the handshake and before a byte of MQTT is sent. What had expired by
then has expired. When one begins cannot be judged: it may have been made since.
Everything else (chain, name, key usage, TLS 1.3) is verified as always.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from edge.config import BackhaulSettings

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME. Source: X509_VERIFY_PARAM_set_flags(3); Python has no name for it."""
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: until somebody says what time it is, nothing is valid."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DatedContext(ssl.SSLContext):
    """A client's context that judges dates by a time that it is given.

    Attributes:
        known_ms: UTC milliseconds before which it cannot be.
    """

    known_ms: int


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho lets go of it without a word."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            self._judge()
        except Exception:
            self.close()
            raise

    def _judge(self) -> None:
        """Refuse, once the handshake is over, a chain that had expired, if it is for us to say."""
        if isinstance(self.context, DatedContext):
            refuse_expired(_verified_chain(self), self.context.known_ms)


def context(settings: BackhaulSettings, base: Path) -> ssl.SSLContext:
    """Return a context that lets OpenSSL judge everything, dates by the system's clock.

    Raises:
        OSError: if a file cannot be read or is none.
    """
    plain = ssl.create_default_context(cafile=str(base / settings.ca) if settings.ca else None)
    _with_files(plain, settings, base)
    return plain


def dated_context(settings: BackhaulSettings, base: Path) -> DatedContext:
    """Return a context that judges dates by the last known good time; whoever uses it sets that.

    Raises:
        OSError: if a file cannot be read or is none.
    """
    dated = DatedContext(ssl.PROTOCOL_TLS_CLIENT)
    dated.known_ms = LAST_MS
    flags = ssl.create_default_context().verify_flags
    dated.verify_flags = ssl.VerifyFlags(int(flags) | NO_CHECK_TIME)
    if settings.ca:
        dated.load_verify_locations(str(base / settings.ca))
    else:
        dated.load_default_certs(ssl.Purpose.SERVER_AUTH)
    _with_files(dated, settings, base)
    return dated


def refuse_expired(chain: list[bytes], known_ms: int) -> None:
    """Refuse a chain of which a certificate ended before a time that is over for certain.

    Raises:
        ssl.SSLCertVerificationError: if one did, or if there is no chain to judge.
    """
    if not chain:
        raise ssl.SSLCertVerificationError(
            "the broker's certificates cannot be judged by the last known good time"
        )
    known = _EPOCH + timedelta(milliseconds=known_ms)
    for one in map(x509.load_der_x509_certificate, chain):
        if one.not_valid_after_utc < known:
            subject = one.subject.rfc4514_string()
            raise ssl.SSLCertVerificationError(
                f"certificate {subject} expired {one.not_valid_after_utc:%Y-%m-%d}; it is {known:%Y-%m-%d} or later"
            )


def _verified_chain(connection: Any) -> list[bytes]:  # noqa: ANN401  before Python 3.13 it has no public name
    if hasattr(connection, "get_verified_chain"):
        return list(connection.get_verified_chain())
    chain = connection._sslobj.get_verified_chain()  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain or ()]


def _with_files(made: ssl.SSLContext, settings: BackhaulSettings, base: Path) -> None:
    made.sslsocket_class = _Socket
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if settings.certificate:
        made.load_cert_chain(base / settings.certificate, base / settings.key)

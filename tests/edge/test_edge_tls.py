"""The broker's certificates, judged by a cabinet that does not know the time.

No test sets the machine's clock. A certificate that begins in 2090 is to this machine what one of today is to a
cabinet in 1970: not valid yet.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge import tls
from edge.config import BackhaulSettings
from edge.mqtt import MqttLink, Will
from tests.edge.bench import until
from tests.edge.broker import Broker


def year(number: int) -> datetime:
    return datetime(number, 1, 1, tzinfo=UTC)


def ms(number: int) -> int:
    return round(year(number).timestamp() * 1000)


class Made:
    """A certificate with its key, and whoever signed it."""

    def __init__(
        self, name: str, begin: int, end: int, issuer: "Made | None" = None, *, ca: bool = False
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        public = self.key.public_key()
        usage = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        none = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
            False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(year(begin))
            .not_valid_after(year(end))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
            )
            .add_extension(x509.KeyUsage(**usage, **none, decipher_only=False), critical=True)
        )
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Secured:
    """A broker with a certificate of the far future, and a cabinet's link to it."""

    def __init__(self, folder: Path, leaf_end: int = 2095, middle_end: int = 2099) -> None:
        root = Made("root", 2090, 2099, ca=True)
        middle = Made("middle", 2090, middle_end, root, ca=True)
        leaf = Made("broker", 2090, leaf_end, middle)
        (folder / "ca.pem").write_bytes(root.pem())
        (folder / "chain.pem").write_bytes(leaf.pem() + middle.pem())
        (folder / "key.pem").write_bytes(leaf.key_pem())
        self.broker = Broker(folder, f"certfile {folder / 'chain.pem'}\nkeyfile {folder / 'key.pem'}\n")
        self.settings = BackhaulSettings(self.broker.url.replace("mqtt://", "mqtts://"), ca="ca.pem")
        self._folder = folder

    async def connects(self, known_ms: int | None, *, ca: str = "ca.pem", host: str = "127.0.0.1") -> str:
        """Try to connect with a clock in doubt; return "" if that succeeds, else why not."""
        settings = msgspec.structs.replace(
            self.settings, ca=ca, url=self.settings.url.replace("127.0.0.1", host)
        )
        link = MqttLink(settings, self._folder, "cabinet", Will("w", b""))
        link.doubted_ms = lambda: known_ms
        told: list[str] = []
        link.on_up = lambda: told.append("")
        running = asyncio.create_task(link.run())
        await until(lambda: bool(told) or link.reason not in {"", "not connected yet"})
        reason = "" if told else link.reason
        await link.leave()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return reason


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    one = Secured(tmp_path)
    with one.broker:
        yield one


async def test_a_clock_that_is_believed_judges_as_openssl_does(secured: Secured) -> None:
    assert "not yet valid" in await secured.connects(None)


async def test_a_cabinet_in_1970_refuses_no_certificate_for_its_own_clock(secured: Secured) -> None:
    assert await secured.connects(ms(2091)) == ""


async def test_a_certificate_that_was_renewed_while_the_cabinet_was_off_is_accepted(secured: Secured) -> None:
    assert await secured.connects(ms(2026)) == ""


async def test_what_had_expired_by_the_last_known_good_time_is_refused(secured: Secured) -> None:
    assert "expired" in await secured.connects(ms(2096))


async def test_every_certificate_of_the_chain_is_judged(tmp_path: Path) -> None:
    one = Secured(tmp_path, leaf_end=2099, middle_end=2095)
    with one.broker:
        assert await one.connects(ms(2094)) == ""
        assert "CN=middle expired" in await one.connects(ms(2096))


async def test_who_signed_and_whom_it_names_is_verified_all_the_same(
    secured: Secured, tmp_path: Path
) -> None:
    (tmp_path / "other.pem").write_bytes(Made("root", 2090, 2099, ca=True).pem())
    assert "verify failed" in await secured.connects(ms(2091), ca="other.pem")
    assert "mismatch" in await secured.connects(ms(2091), host="localhost")


def test_without_a_chain_or_a_time_nothing_is_valid() -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="cannot be judged"):
        tls.refuse_expired([], 0)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        tls.refuse_expired([Made("x", 2000, 2099).der()], tls.LAST_MS)

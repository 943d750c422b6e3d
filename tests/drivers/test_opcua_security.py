"""Security of an OPC UA line: certificates made and judged, policies, users; each refusal has its own reason."""

import datetime
import re
import shutil
import stat
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from drivers.base import LineState
from drivers.checks import check
from drivers.errors import LineDownError
from drivers.opcua_certificates import (
    EARLIEST_PLAUSIBLE_MS,
    MAX_REJECTED,
    judge_server,
    leading_certificate,
    load_identity,
    make_certificate,
    read_password,
)
from protocols.clock import ClockQuality, Instant
from protocols.errors import LocalProtocolError
from protocols.model.ids import CabinetId
from sim.opcua_certificates import make_identity
from tests.drivers.opcua_line import (
    OpcUaLine,
    bench,
    copy_keys,
    make_keys,
    now_ms,
    trust_server,
    until,
)

CABINET = CabinetId("cabinet-1")
URI = "urn:luciole:bench:pumps"
NOW = Instant(0, now_ms())
YEAR = 366 * 86_400_000
POLICY = "Basic256Sha256"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("cabinet") / "opcua")


@pytest.fixture(scope="session")
def server_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a server's certificate, valid since yesterday and for a year."""
    folder = tmp_path_factory.mktemp("server")
    make_identity(folder, URI, "127.0.0.1", datetime.datetime.fromtimestamp(NOW.utc_ms / 1000, datetime.UTC))
    return folder


@pytest.fixture
def folder(tmp_path: Path, keys: Path, server_keys: Path) -> Path:
    """Return a cabinet's directory with its keys, beside a bench whose server has keys already."""
    copy_keys(keys, tmp_path)
    shutil.copytree(server_keys, tmp_path / "pumps-pki")
    return tmp_path


async def until_down(line: OpcUaLine, said: str) -> None:
    await until(lambda: line.driver.health().state is LineState.DOWN)
    assert said in line.reason()


# --- at the wire ---


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"])
async def test_every_policy_carries_values_and_commands_both_ways(folder: Path, policy: str) -> None:
    async with bench(folder, security=policy) as server:
        trust_server(server)
        for mode in ("sign_and_encrypt", "sign"):
            line = server.connect(server.settings(mode=mode))
            await line.until_up()
            server.station().well.temperature_c += 1.0
            await line.until_told("water_temperature", server.station().well.temperature_c)
            await line.stop()


async def test_an_unknown_server_is_refused_put_aside_and_let_in_once_a_technician_moves_it(
    folder: Path,
) -> None:
    async with bench(folder, security=POLICY) as server:
        line = server.connect()
        await until_down(line, "the server's certificate is not trusted: CN=Pumping station, thumbprint ")
        found = re.search(r"mv (\S+) (\S+)/$", line.reason())
        assert found is not None
        source, target = map(Path, found.groups())
        assert source.read_bytes() == (folder / "pumps-pki" / "server.der").read_bytes()
        assert (source.parent, target) == (folder / "opcua" / "rejected", folder / "opcua" / "trusted")
        assert await values(line) == (None,)
        shutil.move(source, target)
        await line.until_up()


async def values(line: OpcUaLine) -> tuple[object, ...]:
    return (await line.read("level")).values


async def test_a_server_with_another_key_under_the_same_name_is_refused(folder: Path) -> None:
    async with bench(folder, security=POLICY) as server:
        trust_server(server)
        line = server.connect()
        await line.until_up()
        await line.stop()
    shutil.rmtree(folder / "pumps-pki")
    async with bench(folder, security=POLICY) as server:
        line = server.connect()
        await until_down(line, "is not trusted")


@pytest.mark.parametrize(
    ("offered", "asked", "said"),
    [
        ("none", POLICY, "does not offer Basic256Sha256 with sign_and_encrypt; it offers None with None_"),
        ("Aes256Sha256RsaPss", POLICY, "it offers Aes256_Sha256_RsaPss with Sign"),
        (POLICY, "none", "the server does not offer security 'none'"),
    ],
)
async def test_a_policy_that_is_not_offered_is_never_replaced_by_a_lesser_one(
    folder: Path, offered: str, asked: str, said: str
) -> None:
    async with bench(folder, security=offered) as server:
        line = server.connect(server.settings(security=asked))
        await until_down(line, said)


async def test_a_server_that_does_not_trust_this_cabinet_is_named_so(folder: Path, server_keys: Path) -> None:
    (folder / "pumps-pki" / "trusted").mkdir()
    shutil.copy(server_keys / "server.der", folder / "pumps-pki" / "trusted")
    async with bench(folder, security=POLICY) as server:
        trust_server(server)
        line = server.connect()
        await until_down(
            line, "the server refuses this cabinet's certificate (BadCertificateUntrusted): trust "
        )
        shutil.copy(folder / "opcua" / "certificate.der", folder / "pumps-pki" / "trusted" / "cabinet.der")
        await line.until_up()


async def with_server_of(folder: Path, begin_ms: int) -> None:
    """Give the bench's server a certificate that is valid for a year from then on."""
    shutil.rmtree(folder / "pumps-pki")
    begin = datetime.datetime.fromtimestamp(begin_ms / 1000, datetime.UTC)
    make_identity(folder / "pumps-pki", URI, "127.0.0.1", begin)


@pytest.mark.parametrize(
    ("years", "said"), [(-2, "certificate has expired on "), (2, "certificate is valid only from ")]
)
async def test_dates_are_judged_by_a_clock_that_can_be_right_and_only_by_such_a_one(
    folder: Path, years: int, said: str
) -> None:
    await with_server_of(folder, NOW.utc_ms + years * YEAR)
    async with bench(folder, security=POLICY) as server:
        trust_server(server)
        line = server.connect()
        await until_down(line, said)
        await line.stop()
        with structlog.testing.capture_logs() as logs:
            server.clock.quality = ClockQuality.UNSYNCHRONISED
            line = server.connect()
            await line.until_up()
            await line.stop()
            server.clock.quality = ClockQuality.SYNCHRONISED
            server.clock.utc_ms = 0
            line = server.connect()
            await line.until_up()
    warned = [entry["event"] for entry in logs if "clock" in entry["event"]]
    assert warned == ["certificates' dates are not judged: this cabinet's clock was never set"] * 2


async def test_a_user_logs_in_with_a_password_that_nobody_gets_to_see(folder: Path) -> None:
    secret = folder / "password"
    secret.write_text("correct horse\n", encoding="utf-8")
    secret.chmod(0o600)
    async with bench(folder, security=POLICY, user="cabinet", password="correct horse") as server:  # noqa: S106
        trust_server(server)
        with structlog.testing.capture_logs() as logs:
            line = server.connect(server.settings(user="cabinet", password_file="password"))  # noqa: S106
            await line.until_up()
            await line.stop()
            secret.write_text("wrong horse", encoding="utf-8")
            line = server.connect(server.settings(user="cabinet", password_file="password"))  # noqa: S106
            await until_down(line, "the server refuses cabinet (BadUserAccessDenied)")
            nobody = server.connect()
            await until_down(nobody, "the server refuses")
        assert "horse" not in f"{logs}{line.reason()}{nobody.reason()}"


async def test_a_password_never_goes_in_the_clear(folder: Path) -> None:
    secret = folder / "password"
    secret.write_text("secret", encoding="utf-8")
    secret.chmod(0o600)
    async with bench(folder, user="cabinet", password="secret") as server:  # noqa: S106
        settings = server.settings(user="cabinet", password_file="password")  # noqa: S106
        assert "a password would go in the clear" in check([settings], [])[0].expected
        insecure = server.settings(user="cabinet", password_file="password", insecure=True)  # noqa: S106
        line = server.connect(insecure)
        await line.until_up()


async def test_a_server_that_wants_the_password_in_the_clear_does_not_get_it(folder: Path) -> None:
    secret = folder / "password"
    secret.write_text("secret", encoding="utf-8")
    secret.chmod(0o600)
    async with bench(folder, security=POLICY, user="cabinet", password="secret") as server:  # noqa: S106
        trust_server(server)
        assert server.server.server is not None
        for endpoint in server.server.server.server.iserver.endpoints:
            for token in endpoint.UserIdentityTokens:
                token.SecurityPolicyUri = "http://opcfoundation.org/UA/SecurityPolicy#None"
        settings = server.settings(mode="sign", user="cabinet", password_file="password")  # noqa: S106
        await until_down(server.connect(settings), "wants the password in the clear")
        encrypted = server.settings(user="cabinet", password_file="password")  # noqa: S106
        await server.connect(encrypted).until_up()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: (f / "opcua" / "certificate.der").unlink(),
            "certificate.der cannot be read: No such file",
        ),
        (lambda f: (f / "opcua" / "key.pem").unlink(), "key.pem cannot be read: No such file"),
        (lambda f: (f / "opcua" / "key.pem").chmod(0o640), "can be read by others: chmod 600"),
        (lambda f: (f / "opcua" / "key.pem").write_text("x"), "is no private key without a password"),
        (lambda f: (f / "opcua" / "certificate.der").write_text("x"), "is no certificate"),
        (
            lambda f: shutil.copy(f / "pumps-pki" / "server.der", f / "opcua" / "certificate.der"),
            "not the key to",
        ),
    ],
)
async def test_what_is_wrong_with_this_cabinets_own_keys_is_said(
    folder: Path, spoil: object, said: str
) -> None:
    spoil(folder)  # type: ignore[operator]
    async with bench(folder, security=POLICY) as server:
        await until_down(server.connect(), said)


# --- making ---


def test_a_made_certificate_names_its_cabinet_and_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "opcua", CABINET, NOW, bits=2048)
    identity = load_identity(made.certificate, made.key, made.uri, NOW)
    assert (identity.uri, made.uri) == ("urn:luciole:cabinet:cabinet-1",) * 2
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "opcua" / "trusted").stat().st_mode) == 0o700
    assert identity.certificate.not_valid_before_utc.timestamp() * 1000 < NOW.utc_ms
    assert identity.certificate.not_valid_after_utc == made.valid_until.replace(microsecond=0)
    assert identity.key.key_size == 2048


def test_a_certificate_that_is_there_is_never_overwritten(keys: Path, tmp_path: Path) -> None:
    copy_keys(keys, tmp_path)
    for name in ("certificate.der", "key.pem"):
        before = (tmp_path / "opcua" / name).read_bytes()
        with pytest.raises(LocalProtocolError, match="is there already"):
            make_certificate(tmp_path / "opcua", CABINET, NOW)
        assert (tmp_path / "opcua" / name).read_bytes() == before
    (tmp_path / "opcua" / "certificate.der").unlink()
    with pytest.raises(LocalProtocolError, match=r"key\.pem is there already"):
        make_certificate(tmp_path / "opcua", CABINET, NOW)


def test_a_clock_that_was_never_set_makes_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="clock was never set"):
        make_certificate(tmp_path, CABINET, Instant(0, EARLIEST_PLAUSIBLE_MS - 1))
    for bits in (1024, 8192):
        with pytest.raises(LocalProtocolError, match="2048 to 4096"):
            make_certificate(tmp_path, CABINET, NOW, bits=bits)
    assert list(tmp_path.iterdir()) == []


# --- judging ---


def certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, uri: str | None = URI, begin_ms: int = NOW.utc_ms
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
    begin = datetime.datetime.fromtimestamp(begin_ms / 1000, datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin)
    builder = builder.not_valid_after(begin + datetime.timedelta(days=30))
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="session")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def trusting(folder: Path, *ders: bytes) -> Path:
    trusted = folder / "trusted"
    trusted.mkdir()
    for number, der in enumerate(ders):
        (trusted / f"{number}.der").write_bytes(der)
    return trusted


def judged(der: bytes, trusted: Path, uri: str = URI, now: Instant = NOW) -> str:
    try:
        judge_server(der, uri, trusted, now)
    except LineDownError as fault:
        return str(fault)
    return "good"


def test_each_thing_that_is_wrong_with_a_server_has_its_own_reason(
    tmp_path: Path, key: rsa.RSAPrivateKey
) -> None:
    good, nameless = certificate(key), certificate(key, None)
    weak = certificate(rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505
    curve = certificate(ec.generate_private_key(ec.SECP256R1()))
    trusted = trusting(tmp_path, good, nameless, weak, curve)
    assert judged(good, trusted) == "good"
    assert "its certificate names urn:luciole" in judged(good, trusted, "urn:somebody:else")
    assert "its certificate names none" in judged(nameless, trusted)
    assert "no RSA key of 2048" in judged(weak, trusted)
    assert "no RSA key of 2048" in judged(curve, trusted)
    assert "has expired" in judged(good, trusted, now=Instant(0, NOW.utc_ms + YEAR))
    assert "valid only from" in judged(good, trusted, now=Instant(0, NOW.utc_ms - 10 * 86_400_000))
    assert "is no certificate" in judged(b"\x30\x82\x00\x01\x00", trusted)
    assert not (tmp_path / "rejected").exists()


def test_trust_is_in_the_very_certificate_and_in_pem_as_well(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    der, other = certificate(key), certificate(key, "urn:other")
    trusted = trusting(tmp_path, other)
    (trusted / "junk.der").write_bytes(b"junk")
    (trusted / "huge.pem").write_bytes(b"x" * 70_000)
    assert "not trusted" in judged(der, trusted)
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    (trusted / "server.pem").write_bytes(pem)
    assert judged(der, trusted) == "good"


def test_refused_certificates_are_kept_once_and_only_so_many(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    trusted = trusting(tmp_path)
    der = certificate(key)
    assert judged(der, trusted) == judged(der, trusted)
    rejected = tmp_path / "rejected"
    assert len(list(rejected.iterdir())) == 1
    for number in range(MAX_REJECTED):
        (rejected / f"{number}.der").touch()
    assert "is full; empty it" in judged(certificate(key, "urn:another"), trusted)
    assert len(list(rejected.iterdir())) == MAX_REJECTED + 1


def test_a_disk_that_refuses_is_said_too(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    (tmp_path / "rejected").write_text("a file")
    assert "could not be put into" in judged(certificate(key), trusting(tmp_path))


@pytest.mark.parametrize(
    "chain", [None, b"", b"\x30", b"\x30\x82\x01\x00", b"\x30\x81\x10" + bytes(16), bytes(70_000)]
)
def test_what_begins_with_no_certificate_is_none(chain: bytes | None) -> None:
    with pytest.raises(LineDownError):
        leading_certificate(chain)


def test_the_first_certificate_of_a_chain_is_the_servers(key: rsa.RSAPrivateKey) -> None:
    first, second = certificate(key), certificate(key, "urn:issuer")
    assert leading_certificate(first + second) == first


def test_a_password_file_is_small_text_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes("sésame \n".encode())
    path.chmod(0o600)
    assert read_password(path) == "sésame "
    for content, said in ((b"\xff\xfe", "is no text"), (b"x" * 1025, "larger than")):
        path.write_bytes(content)
        with pytest.raises(LineDownError, match=said):
            read_password(path)
    path.chmod(0o604)
    with pytest.raises(LineDownError, match="chmod 600"):
        read_password(path)

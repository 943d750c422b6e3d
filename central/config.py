"""Where the aggregator listens and whom it talks to, checked once at start, every fault at once."""

import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from central.errors import StartError

DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_BROKER = "127.0.0.1:1883"


class Protocol(StrEnum):
    """Which MQTT is spoken. 3.1.1 is for the embedded broker."""

    MQTT_5 = "5"
    MQTT_311 = "3.1.1"


class Address(msgspec.Struct, frozen=True):
    """A host and a port; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Tls(msgspec.Struct, frozen=True):
    """Whom we believe, and who we are.

    Attributes:
        ca: certificates of the authorities; None for the system's.
        cert: our certificate; None to be nobody.
        key: its private key.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings of a TLS 1.3 connection.

        Raises:
            OSError: if a file is not there or is not what it should be (ssl.SSLError is one).
        """
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


class BrokerSettings(msgspec.Struct, frozen=True):
    """Which broker, and how it is spoken to.

    Attributes:
        address: where it listens.
        protocol: which MQTT.
        tls: None for a plain connection.
        embedded: whether it is ours to start.
    """

    address: Address
    protocol: Protocol
    tls: Tls | None = None
    embedded: bool = False

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{'mqtt' if self.tls is None else 'mqtts'}://{self.address}"


class Faults:
    """Collects what is wrong, so that all of it is said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, option: str, expected: str) -> None:
        """Note one thing that is wrong."""
        self.found.append(f"{option}: {expected}")

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note a `StartError` of the body instead of letting it end the search for others."""
        try:
            yield
        except StartError as fault:
            self.found.append(str(fault))


def read_address(text: str, option: str, faults: Faults) -> Address | None:
    """Return "host:port" taken apart, or note what is wrong with it."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        faults.add(option, f"{text!r}: {error}; expected host:port, such as {DEFAULT_LISTEN}")
        return None
    if not host or port is None or parts.path:
        faults.add(option, f"{text!r} is no address; expected host:port, such as {DEFAULT_LISTEN}")
        return None
    return Address(host, port)


def read_listen(text: str, *, insecure: bool, faults: Faults) -> Address | None:
    """Return where to listen: loopback, unless somebody insists."""
    address = read_address(text, "--listen", faults)
    if address is not None and not address.is_loopback() and not insecure:
        faults.add(
            "--listen",
            f"{address.host} is not a loopback address, and nobody is asked who they are yet; "
            "listen on 127.0.0.1 behind a proxy that asks, or say --insecure",
        )
    return address


def read_broker(
    url: str, protocol: Protocol | None, tls: Tls, *, insecure: bool, faults: Faults
) -> BrokerSettings | None:
    """Return which broker to use, or note what is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"mqtt", "mqtts"}:
        faults.add("--broker", f"{url!r}: expected mqtt://host:port or mqtts://host:port")
        return None
    default_port = "8883" if scheme == "mqtts" else "1883"
    host_port = rest.rstrip("/")
    if not host_port.rpartition("]")[2].count(":"):
        host_port = f"{host_port}:{default_port}"
    address = read_address(host_port, "--broker", faults)
    if address is None:
        return None
    _check_broker(address, scheme, tls, insecure=insecure, faults=faults)
    return BrokerSettings(address, protocol or Protocol.MQTT_5, tls if scheme == "mqtts" else None)


def read_embedded(text: str, protocol: Protocol | None, tls: Tls, *, faults: Faults) -> BrokerSettings | None:
    """Return the embedded broker, or note what speaks against it."""
    if protocol is Protocol.MQTT_5:
        faults.add("--mqtt", "the embedded broker speaks 3.1.1 only; give a --broker that speaks 5")
    if tls != Tls():
        faults.add("--ca, --cert, --key-file", "are for a --broker mqtts://…; none is given")
    address = read_address(text, "--embedded", faults)
    if address is None:
        return None
    if not address.is_loopback():
        faults.add("--embedded", "the embedded broker takes nobody from the network; use mosquitto for that")
    return BrokerSettings(address, Protocol.MQTT_311, None, embedded=True)


def _check_broker(address: Address, scheme: str, tls: Tls, *, insecure: bool, faults: Faults) -> None:
    if scheme == "mqtt" and tls != Tls():
        faults.add("--ca, --cert, --key-file", "are for mqtts://; the broker given is mqtt://")
    if scheme == "mqtt" and not address.is_loopback() and not insecure:
        faults.add(
            "--broker",
            f"mqtt://{address} would cross the network in clear; use mqtts://, or say --insecure",
        )
    if tls.key is not None and tls.cert is None:
        faults.add("--key-file", "is of no use without --cert")
    if scheme == "mqtts":
        try:
            tls.context()
        except OSError as error:
            faults.add("--ca, --cert, --key-file", str(error))

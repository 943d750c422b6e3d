"""Lines and devices as a technician writes them in the cabinet's file.

Decoded strictly: an unknown key is a fault. What one value cannot know of another (an unknown line, two
devices on one address) is checked by `drivers.registry.check`.
"""

from typing import Annotated, Literal

import msgspec

from protocols.errors import LocalProtocolError
from protocols.model.device import Kind, Report, StreamClass
from protocols.model.ids import ID_META, DeviceId, LineId

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Silence = Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)]
"""Seconds: some sensors speak once a day; one that may be silent for more than a week is not watched."""
Port = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
StreamName = Literal["events", "critical", "ordinary", "bulk"]
LineIdText = Annotated[LineId, ID_META]
DeviceIdText = Annotated[DeviceId, ID_META]


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="driver"):
    """What every line has.

    Attributes:
        id: the line's name.
        silent_after: unanswered questions in a row after which a device is asked less often.
        probe_s: seconds to the first probe of such a device; doubled at each further silence.
        probe_bound_s: the longest time between two probes.
        reconnect_s: seconds to the first attempt to bring a lost line back; doubled at each failure.
        reconnect_bound_s: the longest time between two attempts.
    """

    id: LineIdText
    silent_after: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    probe_s: Seconds = 5.0
    probe_bound_s: Seconds = 120.0
    reconnect_s: Seconds = 0.2
    reconnect_bound_s: Seconds = 10.0


class DaliLuba(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dali-luba"):
    """A DALI line behind a LUBA serial interface.

    Attributes:
        port: the serial port's path.
        bus_supply: whether the interface's own bus supply is ours to switch on. If not, it is never touched.
        answer_timeout_s: how long after a query was sent its answer may come; the bus needs 20 ms, the rest
            is for serial adapters and a busy gateway.
        worst_delay_s: the longest that a late answer may come after its query. After an answer that did not
            come nothing is sent until the line has been silent for so long.
        confirm_timeout_s: how long the interface may take to send a frame on a busy bus.
    """

    port: Port
    bus_supply: bool = False
    answer_timeout_s: Seconds = 0.1
    worst_delay_s: Seconds = 0.2
    confirm_timeout_s: Seconds = 1.0

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return self.port


class ModbusTcp(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="modbus-tcp"):
    """A Modbus TCP server: one device, or a gateway with several units.

    Attributes:
        host: name or address.
        port: TCP port.
        timeout_s: how long a device may take to answer; after it the connection is made anew.
        connect_timeout_s: how long a connection may take.
    """

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 502
    timeout_s: Seconds = 1.0
    connect_timeout_s: Seconds = 3.0

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return f"{self.host}:{self.port}"


class ModbusRtu(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="modbus-rtu"):
    """A Modbus RTU line on a serial port.

    Attributes:
        port: the serial port's path.
        baudrate: bit/s.
        parity: none, even or odd.
        stopbits: 1 or 2.
        timeout_s: how long a device may take to answer.
        worst_delay_s: the longest that a late answer may come after its question. After a time-out nobody is
            asked until the line has been silent for so long, because an RTU answer does not say which
            question it answers.
    """

    port: Port
    baudrate: Annotated[int, msgspec.Meta(ge=300, le=4_000_000)] = 19200
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1
    timeout_s: Seconds = 0.5
    worst_delay_s: Seconds = 1.0

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return self.port


class OpcUa(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opcua"):
    """An OPC UA server. Relative paths start at the cabinet's directory.

    Attributes:
        url: "opc.tcp://host:port/path".
        security: the security policy that is asked for, and no lesser one; "none" goes to this machine only.
        mode: whether messages are signed alone or encrypted too.
        certificate: DER or PEM file with this cabinet's application certificate.
        key: PEM file with its private key, for its owner alone.
        trusted: folder of server certificates that are trusted. One that is not there is refused, and its file put
            into `rejected` beside, from where a technician moves it.
        user: who logs in; "" for nobody.
        password_file: file with the password, for its owner alone.
        application_uri: what the certificate must say that this cabinet is; "" for whatever it says.
        insecure: allow security "none" beyond this machine: benches only.
        period_ms: how often the server looks for changes and tells of them.
        timeout_s: how long the server may take to answer.
        keepalive_s: how often the server says that there is nothing to say. After one and a half times that, and
            `timeout_s`, with nothing published, the line is made anew.
        session_timeout_s: after how long a silence of ours the server forgets us.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    security: Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "none"] = (
        "Basic256Sha256"
    )
    mode: Literal["sign_and_encrypt", "sign"] = "sign_and_encrypt"
    certificate: Port = "opcua/certificate.der"
    key: Port = "opcua/key.pem"
    trusted: Port = "opcua/trusted"
    user: Annotated[str, msgspec.Meta(max_length=64)] = ""
    password_file: Annotated[str, msgspec.Meta(max_length=255)] = ""
    application_uri: Annotated[str, msgspec.Meta(max_length=255)] = ""
    insecure: bool = False
    period_ms: Annotated[float, msgspec.Meta(ge=20, le=3_600_000)] = 1000.0
    timeout_s: Seconds = 4.0
    keepalive_s: Seconds = 5.0
    session_timeout_s: Annotated[float, msgspec.Meta(ge=10, le=3600)] = 60.0

    @property
    def where(self) -> str:
        """Return where the line is, for a person; a secret in it is a fault, and is not told again."""
        return self.url.rpartition("@")[2]


class Ble(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ble"):
    """Bluetooth sensors that are heard by an adapter of this machine.

    Attributes:
        adapter: as BlueZ names it.
        scanning: "active" asks devices for more, "passive" only listens and needs BlueZ's --experimental.
        watchdog_s: with no advert of any device for so long the scan is begun anew, then the adapter is reset.
        silence_s: how long a device may be silent before it is `no_answer`, unless it has its own.
        search_s: how long a search listens.
        patience_s: how long the adapter may take to begin or end a scan.
    """

    adapter: Annotated[str, msgspec.Meta(pattern=r"^hci[0-9]{1,3}\Z", description='such as "hci0"')] = "hci0"
    scanning: Literal["active", "passive"] = "active"
    watchdog_s: Seconds = 300.0
    silence_s: Silence = 3600.0
    search_s: Seconds = 10.0
    patience_s: Seconds = 10.0

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return self.adapter


Eui = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9A-Fa-f]{16}$(?!\n)", description="an EUI of 16 hexadecimal digits"),
]


class LoraUdp(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lorawan-udp"):
    """LoRaWAN 1.0.x devices, heard by gateways that run Semtech's UDP packet forwarder.

    The forwarders' protocol knows no passwords, so it stays on this machine unless somebody insists.

    Attributes:
        host: the address at which forwarders reach us.
        port: UDP port.
        insecure: allow an address beyond this machine: behind a tunnel, or on a bench.
        region: whose channels, data rates and duty cycles hold.
        net_id: 24 bits; 0 and 1 are for private networks.
        gateways: the EUIs of the gateways that are listened to; none given means any.
        gateway_timeout_s: seconds without PULL_DATA after which a gateway cannot be reached; forwarders send
            one every 5 to 25 s.
        dedup_s: how long the same frame is waited for from further antennas.
        rx1_delay_s: seconds from the end of an uplink to the first receive window, for devices that join.
        lead_s: seconds by which a downlink must be at the gateway before its window opens.
        power_dbm: the most that a gateway puts out, before its antenna.
        antenna_gain_db: of the gateways' antennas, so that the radiated power stays within the sub-band's.
        silence_s: how long a device may be silent before it is `no_answer`, unless it has its own.
        write_timeout_s: how long a downlink may wait for the device to speak and to acknowledge.
        counter_gap: the most frames of a device that may be lost in a row before it has to join again.
        device_status_s: seconds between two questions for a device's battery; 0 for never.
        adr: whether devices that allow it are told their data rate and power.
    """

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1700
    insecure: bool = False
    region: Literal["EU868"] = "EU868"
    net_id: Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)] = 0
    gateways: tuple[Eui, ...] = ()
    gateway_timeout_s: Seconds = 60.0
    dedup_s: Annotated[float, msgspec.Meta(gt=0, le=5)] = 0.2
    rx1_delay_s: Annotated[int, msgspec.Meta(ge=1, le=15)] = 1
    lead_s: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.1
    power_dbm: Annotated[int, msgspec.Meta(ge=0, le=27)] = 14
    antenna_gain_db: Annotated[float, msgspec.Meta(ge=-10, le=15)] = 2.0
    silence_s: Silence = 90_000.0
    write_timeout_s: Seconds = 3600.0
    counter_gap: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 16_384
    device_status_s: Annotated[float, msgspec.Meta(ge=0, le=2_592_000)] = 86_400.0
    adr: bool = True

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return f"{self.host}:{self.port}/udp"


class Rsmp(_Line, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rsmp"):
    """A signal controller that speaks RSMP: it connects to us, we are its supervisor.

    Attributes:
        host: the address to listen on.
        port: TCP port to listen on.
        insecure: listen beyond this machine, without encryption: for a controller in the same cabinet.
        site: the id of the site that may connect.
        versions: of the core that may be spoken; the highest that both know is.
        sxl: the version of the traffic-light list that the controller must have.
        security_code: the controller's code of level 2, without which its time plan cannot be set; never logged.
        connect_timeout_s: how long the controller may take to connect before the line counts as down.
        handshake_timeout_s: how long the Version exchange may take.
        ack_timeout_s: after so long without an acknowledgement the connection is given up.
        response_timeout_s: how long the answer to a request may take after its acknowledgement.
        watchdog_s: between two watchdogs.
        update_s: whole seconds after which a status is told again although it has not changed; one that is not
            told for two and a half times as long is a silent one.
    """

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 12111
    insecure: bool = False
    site: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    versions: Annotated[
        tuple[Literal["3.1.2", "3.1.3", "3.1.4", "3.1.5", "3.2.0", "3.2.1", "3.2.2"], ...],
        msgspec.Meta(min_length=1, max_length=7),
    ] = ("3.1.2", "3.1.3", "3.1.4", "3.1.5", "3.2.0", "3.2.1", "3.2.2")
    sxl: Literal["1.1.0", "1.2.0", "1.2.1"] = "1.2.1"
    security_code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    connect_timeout_s: Seconds = 30.0
    handshake_timeout_s: Seconds = 10.0
    ack_timeout_s: Seconds = 30.0
    response_timeout_s: Seconds = 10.0
    watchdog_s: Seconds = 60.0
    update_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60

    def __repr__(self) -> str:
        """Return what may stand in a log: everything but the security code."""
        return f"Rsmp(id={self.id!r}, host={self.host!r}, port={self.port}, site={self.site!r})"

    @property
    def where(self) -> str:
        """Return where the line is, for a person."""
        return f"{self.host}:{self.port}"


LineSettings = DaliLuba | ModbusTcp | ModbusRtu | Rsmp | OpcUa | LoraUdp | Ble


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device behind a line.

    Attributes:
        id: unique within the city.
        kind: what it is to the city.
        line: the line that it hangs on.
        address: where it is, in its line's terms: DALI short address 0–63, Modbus unit 1–247 (TCP: 0–255), OPC UA
            object as a browse path from Objects, or by namespace and identifier ("nsu=urn:x;s=station-1"), LoRaWAN
            DevEUI of 16 hexadecimal digits, Bluetooth address, RSMP component id.
        map: what its values mean: the name of its register map, node map, payload codec or profile; "" for a lamp.
        groups: the groups that it belongs to.
        commune: INSEE code, or "".
        stream: the class of its readings.
        poll_s: seconds between two readings of each of its points, in place of the driver's.
        report: when a reading is worth keeping, in place of the driver's.
        dead_band: in place of the driver's.
        heartbeat_s: in place of the driver's.
        silence_s: how long a device that is heard and never asked may be silent, in place of its line's.
    """

    id: DeviceIdText
    kind: Kind
    line: LineIdText
    address: (
        Annotated[int, msgspec.Meta(ge=0, le=255)] | Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    )
    map: str = ""
    groups: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=63)], ...] = ()
    commune: Annotated[str, msgspec.Meta(max_length=16)] = ""
    stream: StreamName = "ordinary"
    poll_s: Annotated[float, msgspec.Meta(ge=0.05, le=86400)] | None = None
    report: Report | None = None
    dead_band: Annotated[float, msgspec.Meta(ge=0)] | None = None
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None
    silence_s: Silence | None = None

    @property
    def number(self) -> int:
        """Return the address of a device on a line that numbers its devices; the registry has checked it.

        Raises:
            LocalProtocolError: if it is no number.
        """
        if not isinstance(self.address, int):
            raise LocalProtocolError(f"{self.id}: address {self.address!r} is no number")
        return self.address

    @property
    def stream_class(self) -> StreamClass:
        """Return the class of its readings."""
        return StreamClass[self.stream.upper()]

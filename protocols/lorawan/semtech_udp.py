"""What a packet forwarder and its server say to each other: Semtech's UDP protocol, the server's side.

Source: Lora-net packet_forwarder, PROTOCOL.TXT 1.4, and sx1302_hal, PROTOCOL.md 1.6.

    byte 0 version 2   bytes 1–2 token   byte 3 identifier   [gateway EUI 8]   [JSON]

Nobody is authenticated, and nothing is sent again. Real forwarders pad base64 or do not, use either alphabet,
and end the JSON with a zero byte; all of that is taken. One bad reception does not spoil its neighbours.
"""

import binascii
import re
from enum import IntEnum, StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.airtime import Fsk, Lora, Modulation
from protocols.lorawan.frame import MAX_PHY_PAYLOAD

VERSION: Final = 2
MAX_DATAGRAM: Final = 65_507
"""What UDP can carry over IPv4."""
MAX_RECEPTIONS: Final = 255
"""Of one datagram: NB_PKT_MAX of sx1302_hal."""
_HEADER: Final = 4
_EUI: Final = 8
_LORA: Final = re.compile(r"SF(7|8|9|10|11|12)BW(125|250|500)")
_MAX_BASE64: Final = 4 * -(-MAX_PHY_PAYLOAD // 3)
_FSK_DEVIATION_HZ: Final = 25_000


class Identifier(IntEnum):
    """Byte 3."""

    PUSH_DATA = 0
    PUSH_ACK = 1
    PULL_DATA = 2
    PULL_RESP = 3
    PULL_ACK = 4
    TX_ACK = 5


class Spoiled(StrEnum):
    """Why a reception is not passed on."""

    BAD_CRC = "bad_crc"
    """`stat` is not 1: the frame was not received whole, or nobody checked."""
    MALFORMED = "malformed"
    MODULATION = "modulation"
    """LR-FHSS and whatever else is not LoRa or FSK."""
    SIZE = "size"
    """`data` has another length than `size`, or more than a radio can send."""
    TOO_MANY = "too_many"


class Reception(msgspec.Struct, frozen=True):
    """One frame as one gateway heard it.

    Attributes:
        payload: the PHYPayload.
        tmst: the gateway's own clock at the end of the frame, microseconds modulo 2³².
        frequency_hz: where.
        modulation: how.
        rssi_dbm: how strong.
        snr_db: how far above the noise; 0 for FSK, which has none.
    """

    payload: bytes
    tmst: int
    frequency_hz: int
    modulation: Modulation
    rssi_dbm: float
    snr_db: float


class PushData(msgspec.Struct, frozen=True):
    """A gateway tells what it heard, and how it is.

    Attributes:
        token: for the acknowledgement.
        gateway: its EUI.
        receptions: what can be passed on.
        spoiled: why the others cannot.
    """

    token: int
    gateway: int
    receptions: tuple[Reception, ...]
    spoiled: tuple[Spoiled, ...] = ()


class PullData(msgspec.Struct, frozen=True):
    """A gateway says where downlinks reach it."""

    token: int
    gateway: int


class TxAck(msgspec.Struct, frozen=True):
    """What a gateway says to a downlink: `error` "" when it will be sent; `warning` when it will, but otherwise."""

    token: int
    gateway: int
    error: str = ""
    warning: str = ""


Datagram: TypeAlias = PushData | PullData | TxAck


class Transmission(msgspec.Struct, frozen=True):
    """A downlink to be sent at a moment of the gateway's own clock.

    Attributes:
        payload: the PHYPayload.
        tmst: microseconds modulo 2³².
        frequency_hz: where.
        modulation: how.
        power_dbm: out of the transmitter, before the antenna.
    """

    payload: bytes
    tmst: int
    frequency_hz: int
    modulation: Modulation
    power_dbm: int


def later(tmst: int, delay_s: int) -> int:
    """Return the moment `delay_s` after `tmst` on a gateway's clock, which wraps every 71.6 minutes."""
    return (tmst + delay_s * 1_000_000) & 0xFFFFFFFF


_Decibel = Annotated[float, msgspec.Meta(ge=-250, le=250)]


class _Signal(msgspec.Struct):
    rssic: _Decibel = -250.0
    lsnr: _Decibel = 0.0


class _Rxpk(msgspec.Struct):
    """An element of `rxpk`; version 2 of the format has its levels for each antenna in `rsig`."""

    tmst: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    freq: Annotated[float, msgspec.Meta(gt=0, le=10_000)]
    datr: str | float
    data: str
    stat: int = 0
    modu: str = "LORA"
    rssi: _Decibel | None = None
    lsnr: _Decibel = 0.0
    size: int | None = None
    rsig: list[_Signal] = []


class _Pushed(msgspec.Struct):
    rxpk: list[msgspec.Raw] = []


class _TxpkAck(msgspec.Struct, frozen=True):
    error: str = ""
    warn: str = ""


class _Acked(msgspec.Struct):
    txpk_ack: _TxpkAck = _TxpkAck()


_PUSHED: Final = msgspec.json.Decoder(_Pushed)
_RXPK: Final = msgspec.json.Decoder(_Rxpk)
_ACKED: Final = msgspec.json.Decoder(_Acked)
_WORD: Final = re.compile("[A-Z_]{1,32}")


def read_datagram(datagram: bytes) -> Datagram:
    """Return what a forwarder says.

    Raises:
        RemoteProtocolError: if it is nothing that a forwarder says.
    """
    if len(datagram) < _HEADER + _EUI or len(datagram) > MAX_DATAGRAM:
        raise RemoteProtocolError(f"a forwarder's datagram has 12 bytes at least, not {len(datagram)}")
    if datagram[0] != VERSION:
        raise RemoteProtocolError(f"protocol version {datagram[0]} is not {VERSION}")
    token = int.from_bytes(datagram[1:3], "big")
    gateway = int.from_bytes(datagram[_HEADER : _HEADER + _EUI], "big")
    match datagram[3]:
        case Identifier.PUSH_DATA:
            return _push_data(token, gateway, datagram[_HEADER + _EUI :])
        case Identifier.PULL_DATA:
            return PullData(token, gateway)
        case Identifier.TX_ACK:
            return _tx_ack(token, gateway, datagram[_HEADER + _EUI :])
        case other:
            raise RemoteProtocolError(f"identifier {other} is nothing that a forwarder says")


def _push_data(token: int, gateway: int, text: bytes) -> PushData:
    try:
        elements = _PUSHED.decode(text.rstrip(b"\x00 \r\n")).rxpk
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError("PUSH_DATA without JSON that can be read") from error
    receptions: list[Reception] = []
    spoiled: list[Spoiled] = []
    for element in elements[:MAX_RECEPTIONS]:
        one = _reception(element)
        if isinstance(one, Reception):
            receptions.append(one)
        else:
            spoiled.append(one)
    spoiled += [Spoiled.TOO_MANY] * len(elements[MAX_RECEPTIONS:])
    return PushData(token, gateway, tuple(receptions), tuple(spoiled))


def _reception(element: msgspec.Raw) -> Reception | Spoiled:
    try:
        rxpk = _RXPK.decode(element)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Spoiled.MALFORMED
    if rxpk.stat != 1:
        return Spoiled.BAD_CRC
    modulation = _modulation(rxpk)
    if modulation is None:
        return Spoiled.MODULATION
    try:
        payload = _base64(rxpk.data)
    except ValueError:
        return Spoiled.MALFORMED
    if not payload or len(payload) > MAX_PHY_PAYLOAD or rxpk.size not in {None, len(payload)}:
        return Spoiled.SIZE
    rssi, snr = _levels(rxpk)
    return Reception(payload, rxpk.tmst, round(rxpk.freq * 1e6), modulation, rssi, snr)


def _modulation(rxpk: _Rxpk) -> Modulation | None:
    if rxpk.modu == "LORA" and isinstance(rxpk.datr, str):
        found = _LORA.fullmatch(rxpk.datr)
        return Lora(int(found[1]), int(found[2]) * 1000) if found else None
    if rxpk.modu == "FSK" and isinstance(rxpk.datr, int | float):
        return Fsk(round(rxpk.datr)) if 0 < rxpk.datr <= 300_000 else None
    return None


def _levels(rxpk: _Rxpk) -> tuple[float, float]:
    if rxpk.rsig and rxpk.rssi is None:
        best = max(rxpk.rsig, key=lambda signal: (signal.lsnr, signal.rssic))
        return best.rssic, best.lsnr
    return (0.0 if rxpk.rssi is None else rxpk.rssi), rxpk.lsnr


def _base64(text: str) -> bytes:
    """Decode either alphabet, padded or not. Raises ValueError."""
    bare = text.rstrip("=")
    if len(bare) > _MAX_BASE64:
        return bytes(MAX_PHY_PAYLOAD + 1)
    if "-" in bare or "_" in bare:
        bare = bare.replace("-", "+").replace("_", "/")
    return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)


def _tx_ack(token: int, gateway: int, text: bytes) -> TxAck:
    """Read an acknowledgement; an empty one, and "NONE", mean that the downlink was taken."""
    bare = text.strip(b"\x00 \r\n")
    if not bare:
        return TxAck(token, gateway)
    try:
        said = _ACKED.decode(bare).txpk_ack
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError("TX_ACK without JSON that can be read") from error
    return TxAck(token, gateway, "" if said.error == "NONE" else _word(said.error), _word(said.warn))


def _word(text: str) -> str:
    """Return one of the protocol's words; what is none comes from a stranger and is not repeated to people."""
    return text if not text or _WORD.fullmatch(text) else "UNREADABLE"


def acknowledgement(datagram: PushData | PullData) -> bytes:
    """Return the PUSH_ACK or PULL_ACK of a datagram."""
    identifier = Identifier.PUSH_ACK if isinstance(datagram, PushData) else Identifier.PULL_ACK
    return bytes((VERSION,)) + datagram.token.to_bytes(2, "big") + bytes((identifier,))


def pull_resp(token: int, transmission: Transmission) -> bytes:
    """Return the PULL_RESP that has a gateway send a downlink, inverted as devices expect it.

    Raises:
        LocalProtocolError: if there is nothing to send, or more than a radio can.
    """
    if not 0 < len(transmission.payload) <= MAX_PHY_PAYLOAD:
        raise LocalProtocolError(f"a downlink has 1 to {MAX_PHY_PAYLOAD} bytes")
    txpk: dict[str, object] = {
        "imme": False,
        "tmst": transmission.tmst,
        "freq": transmission.frequency_hz / 1e6,
        "rfch": 0,
        "powe": transmission.power_dbm,
        "size": len(transmission.payload),
        "data": binascii.b2a_base64(transmission.payload, newline=False).decode("ascii"),
        "ncrc": True,
        **_radio(transmission.modulation),
    }
    header = bytes((VERSION,)) + token.to_bytes(2, "big") + bytes((Identifier.PULL_RESP,))
    return header + msgspec.json.encode({"txpk": txpk})


def _radio(modulation: Modulation) -> dict[str, object]:
    if isinstance(modulation, Fsk):
        return {
            "modu": "FSK",
            "datr": modulation.bit_rate,
            "fdev": _FSK_DEVIATION_HZ,
            "ipol": False,
            "ncrc": False,
        }
    datr = f"SF{modulation.spreading_factor}BW{modulation.bandwidth_hz // 1000}"
    return {"modu": "LORA", "datr": datr, "codr": "4/5", "ipol": True}

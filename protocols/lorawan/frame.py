"""PHYPayloads: what a device sends and is sent, before keys come into it.

Source: LoRaWAN 1.0.3, chapter 4 and 6.2; fields are little endian on the air.

    join request   MHDR 1  JoinEUI 8  DevEUI 8  DevNonce 2  MIC 4
    join accept    MHDR 1  encrypted [AppNonce 3  NetID 3  DevAddr 4  DLSettings 1  RxDelay 1  [CFList 16]  MIC 4]
    data           MHDR 1  DevAddr 4  FCtrl 1  FCnt 2  FOpts 0–15  [FPort 1  FRMPayload]  MIC 4

What `read_frame` returns is not to be believed before `protocols.lorawan.security` has verified it.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, TypeAlias

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.mac import FREQUENCY_STEP_HZ, MAX_OPTIONS

MAX_PHY_PAYLOAD: Final = 255
"""The radio's length field has one byte."""
MIC_BYTES: Final = 4
MAX_PORT: Final = 223
"""The last port of an application; 224 is the test protocol's, what is above is reserved (4.3.2)."""
MAC_PORT: Final = 0
HEADER_BYTES: Final = 7
"""DevAddr, FCtrl and FCnt; a region's maximum payload counts these, the options and the port besides."""

_JOIN_REQUEST: Final = Struct("<BQQH")
_JOIN_REQUEST_BYTES: Final = _JOIN_REQUEST.size + MIC_BYTES
_DATA: Final = Struct("<BIBH")
_MIN_DATA_BYTES: Final = _DATA.size + MIC_BYTES
_ACCEPT_BYTES: Final = 12
_CF_LIST_BYTES: Final = 16
_CF_LIST_CHANNELS: Final = 5
_MAJOR: Final = 0x03
_ADR: Final = 0x80
_ADR_ACK_REQ: Final = 0x40
_ACK: Final = 0x20
_PENDING: Final = 0x10
_OPTIONS_LENGTH: Final = 0x0F


class MType(IntEnum):
    """The kind of a frame: the upper three bits of its first byte (4.2.1)."""

    JOIN_REQUEST = 0
    JOIN_ACCEPT = 1
    UNCONFIRMED_UP = 2
    UNCONFIRMED_DOWN = 3
    CONFIRMED_UP = 4
    CONFIRMED_DOWN = 5
    RFU = 6
    PROPRIETARY = 7


class JoinRequest(msgspec.Struct, frozen=True):
    """A device asks to be let in."""

    join_eui: int
    dev_eui: int
    dev_nonce: int


class JoinAccept(msgspec.Struct, frozen=True):
    """It is let in.

    Attributes:
        app_nonce: 24 bits, never twice with one key.
        net_id: 24 bits.
        dev_addr: by which it is called from now on.
        rx1_offset: 0–7, from the uplink's data rate to that of RX1.
        rx2_data_rate: 0–15.
        rx_delay_s: from the end of an uplink to RX1, 1–15.
        cf_list: frequencies of channels 3 to 7 in Hz, five of them or none; 0 leaves one out.
    """

    app_nonce: int
    net_id: int
    dev_addr: int
    rx1_offset: int = 0
    rx2_data_rate: int = 0
    rx_delay_s: int = 1
    cf_list: tuple[int, ...] = ()


class DataFrame(msgspec.Struct, frozen=True):
    """A data frame; its payload is as it is on the air, encrypted.

    Attributes:
        uplink: from the device to the network.
        confirmed: whether an acknowledgement is asked for.
        dev_addr: whose it claims to be.
        counter: the frame counter's lower 16 bits.
        adr: whether the network may set the data rate.
        adr_ack_req: uplink: the device wants to hear anything at all.
        ack: whether it acknowledges the last confirmed frame of the other side.
        pending: downlink: more waits; uplink: the device listens as class B.
        options: MAC commands in the header.
        port: 0 for MAC commands in the payload; None if there is no payload.
        payload: encrypted.
    """

    uplink: bool
    confirmed: bool
    dev_addr: int
    counter: int
    adr: bool = False
    adr_ack_req: bool = False
    ack: bool = False
    pending: bool = False
    options: bytes = b""
    port: int | None = None
    payload: bytes = b""


Frame: TypeAlias = JoinRequest | DataFrame
_MTYPES: Final = {
    MType.UNCONFIRMED_UP: (True, False),
    MType.UNCONFIRMED_DOWN: (False, False),
    MType.CONFIRMED_UP: (True, True),
    MType.CONFIRMED_DOWN: (False, True),
}


def read_frame(wire: bytes) -> Frame:
    """Return what a PHYPayload says; its MIC is not looked at.

    Raises:
        RemoteProtocolError: if it is no join request and no data frame of LoRaWAN R1.
    """
    if not wire or len(wire) > MAX_PHY_PAYLOAD:
        raise RemoteProtocolError(f"a frame has 1 to {MAX_PHY_PAYLOAD} bytes, not {len(wire)}")
    if wire[0] & _MAJOR:
        raise RemoteProtocolError(f"major version {wire[0] & _MAJOR} is not LoRaWAN R1")
    mtype = MType(wire[0] >> 5)
    if mtype is MType.JOIN_REQUEST:
        return _join_request(wire)
    direction = _MTYPES.get(mtype)
    if direction is None:
        raise RemoteProtocolError(f"{mtype.name.lower()} is no frame that can be read here")
    return _data(wire, *direction)


def _join_request(wire: bytes) -> JoinRequest:
    if len(wire) != _JOIN_REQUEST_BYTES:
        raise RemoteProtocolError(f"a join request has {_JOIN_REQUEST_BYTES} bytes, not {len(wire)}")
    _, join_eui, dev_eui, dev_nonce = _JOIN_REQUEST.unpack_from(wire)
    return JoinRequest(join_eui, dev_eui, dev_nonce)


def _data(wire: bytes, uplink: bool, confirmed: bool) -> DataFrame:
    if len(wire) < _MIN_DATA_BYTES:
        raise RemoteProtocolError(f"a data frame has {_MIN_DATA_BYTES} bytes at least, not {len(wire)}")
    _, dev_addr, control, counter = _DATA.unpack_from(wire)
    options_end = _DATA.size + (control & _OPTIONS_LENGTH)
    end = len(wire) - MIC_BYTES
    if options_end > end:
        raise RemoteProtocolError(f"{control & _OPTIONS_LENGTH} bytes of options do not fit into the frame")
    port = wire[options_end] if options_end < end else None
    if port == MAC_PORT and control & _OPTIONS_LENGTH:
        raise RemoteProtocolError("MAC commands stand in the header or in the payload, not in both (4.3.1.6)")
    return DataFrame(
        uplink=uplink,
        confirmed=confirmed,
        dev_addr=dev_addr,
        counter=counter,
        adr=bool(control & _ADR),
        adr_ack_req=uplink and bool(control & _ADR_ACK_REQ),
        ack=bool(control & _ACK),
        pending=bool(control & _PENDING),
        options=wire[_DATA.size : options_end],
        port=port,
        payload=wire[options_end + 1 : end],
    )


def write_data(frame: DataFrame) -> bytes:
    """Return a data frame's bytes without its MIC.

    Raises:
        LocalProtocolError: if the frame cannot be said.
    """
    _check(frame)
    control = (
        (_ADR if frame.adr else 0)
        | (_ADR_ACK_REQ if frame.adr_ack_req else 0)
        | (_ACK if frame.ack else 0)
        | (_PENDING if frame.pending else 0)
        | len(frame.options)
    )
    confirmed = MType.CONFIRMED_UP if frame.uplink else MType.CONFIRMED_DOWN
    unconfirmed = MType.UNCONFIRMED_UP if frame.uplink else MType.UNCONFIRMED_DOWN
    mtype = confirmed if frame.confirmed else unconfirmed
    header = _DATA.pack(mtype << 5, frame.dev_addr, control, frame.counter & 0xFFFF) + frame.options
    message = header if frame.port is None else header + bytes((frame.port,)) + frame.payload
    if len(message) + MIC_BYTES > MAX_PHY_PAYLOAD:
        raise LocalProtocolError(f"{len(message) + MIC_BYTES} bytes are more than {MAX_PHY_PAYLOAD}")
    return message


def _check(frame: DataFrame) -> None:
    if not 0 <= frame.dev_addr < 1 << 32:
        raise LocalProtocolError(f"a DevAddr has 32 bits, not {frame.dev_addr:#x}")
    if len(frame.options) > MAX_OPTIONS:
        raise LocalProtocolError(f"a header takes {MAX_OPTIONS} bytes of options, not {len(frame.options)}")
    if frame.port is None and frame.payload:
        raise LocalProtocolError("a payload has a port")
    if frame.port is not None and not 0 <= frame.port <= 255:
        raise LocalProtocolError(f"a port is 0 to 255, not {frame.port}")
    if frame.port == MAC_PORT and frame.options:
        raise LocalProtocolError("MAC commands stand in the header or in the payload, not in both")
    if frame.adr_ack_req and not frame.uplink:
        raise LocalProtocolError("only a device asks for an ADR acknowledgement")


def write_join_request(request: JoinRequest) -> bytes:
    """Return a join request's bytes without its MIC."""
    return _JOIN_REQUEST.pack(0, request.join_eui, request.dev_eui, request.dev_nonce)


def write_join_accept(accept: JoinAccept) -> bytes:
    """Return a join accept's body, not encrypted and without its MIC.

    Raises:
        LocalProtocolError: if a number is outside its field.
    """
    if not 0 <= accept.rx1_offset <= 7 or not 0 <= accept.rx2_data_rate <= 15:
        raise LocalProtocolError("DLSettings take an offset of 0 to 7 and a data rate of 0 to 15")
    if not 1 <= accept.rx_delay_s <= 15:
        raise LocalProtocolError(f"RxDelay is 1 to 15 s, not {accept.rx_delay_s}")
    if len(accept.cf_list) not in {0, _CF_LIST_CHANNELS}:
        raise LocalProtocolError(f"a CFList has {_CF_LIST_CHANNELS} frequencies or is not there")
    try:
        return (
            accept.app_nonce.to_bytes(3, "little")
            + accept.net_id.to_bytes(3, "little")
            + accept.dev_addr.to_bytes(4, "little")
            + bytes((accept.rx1_offset << 4 | accept.rx2_data_rate, accept.rx_delay_s))
            + _cf_list(accept.cf_list)
        )
    except OverflowError as error:
        raise LocalProtocolError(f"a join accept cannot say that: {error}") from error


def _cf_list(frequencies: tuple[int, ...]) -> bytes:
    """Write five frequencies in steps of 100 Hz, and the type 0."""
    if not frequencies:
        return b""
    return b"".join((hz // FREQUENCY_STEP_HZ).to_bytes(3, "little") for hz in frequencies) + b"\x00"


def read_join_accept(body: bytes) -> JoinAccept:
    """Return what a join accept says.

    Args:
        body: decrypted, without MHDR and MIC.

    Raises:
        RemoteProtocolError: if it has the wrong length or a list of channels that is none.
    """
    if len(body) not in {_ACCEPT_BYTES, _ACCEPT_BYTES + _CF_LIST_BYTES}:
        raise RemoteProtocolError(f"a join accept's body has 12 or 28 bytes, not {len(body)}")
    listed = body[_ACCEPT_BYTES:]
    if listed and listed[-1]:
        raise RemoteProtocolError(f"CFListType {listed[-1]} is not this region's")
    return JoinAccept(
        app_nonce=int.from_bytes(body[0:3], "little"),
        net_id=int.from_bytes(body[3:6], "little"),
        dev_addr=int.from_bytes(body[6:10], "little"),
        rx1_offset=body[10] >> 4 & 7,
        rx2_data_rate=body[10] & 15,
        rx_delay_s=max(body[11] & 15, 1),
        cf_list=tuple(
            int.from_bytes(listed[at : at + 3], "little") * FREQUENCY_STEP_HZ
            for at in range(0, len(listed) - 1, 3)
        ),
    )

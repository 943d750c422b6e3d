"""A sensor's half of LoRaWAN 1.0.x: join request, join accept, session keys, data frames.

Written for the bench alone, straight from the LoRaWAN 1.0.3 specification, chapters 4 and 6; it shares nothing
with the network server that it talks to, so that neither hides the other's mistakes. All fields are little
endian on the air; EUIs and addresses are integers here.
"""

import struct
from enum import StrEnum

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

JOIN_REQUEST = 0x00
JOIN_ACCEPT = 0x20
DATA_UP = {False: 0x40, True: 0x80}
DATA_DOWN = {0x60: False, 0xA0: True}
MIC_SIZE = 4
_UP, _DOWN = 0, 1


class Refusal(StrEnum):
    """Why a sensor does not take what it has heard."""

    MALFORMED = "malformed"
    NOT_FOR_ME = "not_for_me"
    WRONG_MIC = "wrong_mic"
    OLD_COUNTER = "old_counter"
    UNEXPECTED = "unexpected"
    """Nothing of the kind is awaited now."""


class RefusedError(Exception):
    """What was heard is not taken."""

    def __init__(self, why: Refusal) -> None:
        self.why = why
        super().__init__(why.value)


class Session(msgspec.Struct, frozen=True):
    """What a join gives.

    Attributes:
        dev_addr: the sensor's address in this session.
        network_key: NwkSKey, of MICs and of MAC commands on port 0.
        application_key: AppSKey, of payloads.
    """

    dev_addr: int
    network_key: bytes
    application_key: bytes


class JoinAccept(msgspec.Struct, frozen=True):
    """What a network tells a sensor that it lets in.

    Attributes:
        rx1_offset: how much slower than the uplink RX1 is.
        rx2_data_rate: of RX2.
        rx1_delay_s: seconds from the uplink's end to RX1.
        channels_hz: further channels; 0 where there is none.
    """

    session: Session
    rx1_offset: int
    rx2_data_rate: int
    rx1_delay_s: int
    channels_hz: tuple[int, ...]


class DataUp(msgspec.Struct, frozen=True):
    """An uplink before it is encrypted. The counter has 32 bits, of which 16 go on the air."""

    counter: int
    port: int | None
    payload: bytes
    confirmed: bool = False
    adr: bool = False
    adr_ack_request: bool = False
    ack: bool = False
    options: bytes = b""


class DataDown(msgspec.Struct, frozen=True):
    """A downlink that has been believed."""

    counter: int
    port: int | None
    payload: bytes
    confirmed: bool
    ack: bool
    pending: bool
    options: bytes


def mic(key: bytes, message: bytes) -> bytes:
    """Return the first four bytes of AES-CMAC (RFC 4493)."""
    code = CMAC(algorithms.AES(key))
    code.update(message)
    return code.finalize()[:MIC_SIZE]


def encrypt_blocks(key: bytes, blocks: bytes) -> bytes:
    """Return AES-128-ECB of whole blocks; 6.2.5 prescribes it, each block differs."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(blocks) + encryptor.finalize()


def write_join_request(app_key: bytes, join_eui: int, dev_eui: int, dev_nonce: int) -> bytes:
    """Return a join request (6.2.4)."""
    body = struct.pack("<BQQH", JOIN_REQUEST, join_eui, dev_eui, dev_nonce)
    return body + mic(app_key, body)


def read_join_accept(app_key: bytes, dev_nonce: int, frame: bytes) -> JoinAccept:
    """Open a join accept (6.2.5): the network decrypts, so the sensor encrypts.

    Raises:
        RefusedError: not one, or its MIC is wrong.
    """
    if len(frame) not in {17, 33} or frame[0] != JOIN_ACCEPT:
        raise RefusedError(Refusal.MALFORMED)
    plain = frame[:1] + encrypt_blocks(app_key, frame[1:])
    if mic(app_key, plain[:-MIC_SIZE]) != plain[-MIC_SIZE:]:
        raise RefusedError(Refusal.WRONG_MIC)
    nonces = plain[1:7] + struct.pack("<H", dev_nonce) + bytes(7)
    (dev_addr,) = struct.unpack_from("<I", plain, 7)
    settings, delay = plain[11], plain[12] & 0x0F
    keys = encrypt_blocks(app_key, b"\x01" + nonces + b"\x02" + nonces)
    return JoinAccept(
        session=Session(dev_addr, keys[:16], keys[16:]),
        rx1_offset=settings >> 4 & 0x07,
        rx2_data_rate=settings & 0x0F,
        rx1_delay_s=delay or 1,
        channels_hz=_channels(plain[13:-MIC_SIZE]),
    )


def _channels(cf_list: bytes) -> tuple[int, ...]:
    if len(cf_list) != 16 or cf_list[15] != 0:
        return ()
    return tuple(int.from_bytes(cf_list[at : at + 3], "little") * 100 for at in range(0, 15, 3))


def write_data(session: Session, data: DataUp) -> bytes:
    """Return an uplink: encrypted, with its MIC (4.3, 4.4)."""
    control = data.adr << 7 | data.adr_ack_request << 6 | data.ack << 5 | len(data.options)
    body = struct.pack("<BIBH", DATA_UP[data.confirmed], session.dev_addr, control, data.counter & 0xFFFF)
    body += data.options
    if data.port is not None:
        key = session.application_key if data.port else session.network_key
        body += bytes((data.port,)) + _crypt(key, session.dev_addr, _UP, data.counter, data.payload)
    return body + _data_mic(session, _UP, data.counter, body)


def read_data(session: Session, last_counter: int, frame: bytes) -> DataDown:
    """Open a downlink.

    Args:
        session: the sensor's.
        last_counter: of the last downlink that was taken; -1 if there was none.
        frame: as heard.

    Raises:
        RefusedError: not a downlink, for somebody else, forged, or not newer than the last.
    """
    if len(frame) < 12 or frame[0] not in DATA_DOWN:
        raise RefusedError(Refusal.MALFORMED)
    dev_addr, control, short = struct.unpack_from("<IBH", frame, 1)
    if dev_addr != session.dev_addr:
        raise RefusedError(Refusal.NOT_FOR_ME)
    body, given = frame[:-MIC_SIZE], frame[-MIC_SIZE:]
    end = 8 + (control & 0x0F)
    if end > len(body):
        raise RefusedError(Refusal.MALFORMED)
    counter = _counter(session, last_counter, short, body, given)
    port = body[end] if end < len(body) else None
    key = session.application_key if port else session.network_key
    return DataDown(
        counter=counter,
        port=port,
        payload=_crypt(key, dev_addr, _DOWN, counter, body[end + 1 :]),
        confirmed=DATA_DOWN[frame[0]],
        ack=bool(control & 0x20),
        pending=bool(control & 0x10),
        options=body[8:end],
    )


def _counter(session: Session, last: int, short: int, body: bytes, given: bytes) -> int:
    """Return the 32-bit counter that the MIC proves.

    Raises:
        RefusedError: it proves none, or one that is not newer.
    """
    counter = last + 1 + (short - last - 1) % 0x10000
    if _data_mic(session, _DOWN, counter, body) == given:
        return counter
    older = counter - 0x10000
    if older >= 0 and _data_mic(session, _DOWN, older, body) == given:
        raise RefusedError(Refusal.OLD_COUNTER)
    raise RefusedError(Refusal.WRONG_MIC)


def _data_mic(session: Session, direction: int, counter: int, body: bytes) -> bytes:
    first = struct.pack("<BIBIIBB", 0x49, 0, direction, session.dev_addr, counter, 0, len(body))
    return mic(session.network_key, first + body)


def _crypt(key: bytes, dev_addr: int, direction: int, counter: int, payload: bytes) -> bytes:
    """Encrypt or decrypt a payload (4.3.3); the same either way."""
    count = -(-len(payload) // 16)
    blocks = b"".join(
        struct.pack("<BIBIIBB", 0x01, 0, direction, dev_addr, counter, 0, index)
        for index in range(1, count + 1)
    )
    stream = encrypt_blocks(key, blocks)
    return bytes(one ^ other for one, other in zip(payload, stream, strict=False))

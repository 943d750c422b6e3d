"""Keys and what they do: message integrity codes, session keys, encryption, 32-bit counters.

Source: LoRaWAN 1.0.3, 4.3.3 (encryption), 4.4 (MIC), 6.2.4 and 6.2.5 (join). AES-128 and AES-CMAC (RFC 4493)
are cryptography's. A `Key` never shows itself: not in a repr, not in a log, not in an error.
"""

import hmac
from struct import Struct
from typing import Final, NoReturn

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.frame import (
    MAC_PORT,
    MIC_BYTES,
    DataFrame,
    JoinAccept,
    JoinRequest,
    MType,
    read_join_accept,
    write_data,
    write_join_accept,
    write_join_request,
)

KEY_BYTES: Final = 16
MAX_COUNTER: Final = 0xFFFFFFFF
MAX_COUNTER_GAP: Final = 16384
"""The most frames that may be lost between two that are taken (MAX_FCNT_GAP, 1.0.3, 4.3.1.5)."""
_BLOCK: Final = Struct("<B4xBIIxB")
_JOIN_ACCEPT_HEADER: Final = bytes((MType.JOIN_ACCEPT << 5,))


class Key:
    """An AES-128 key, with what is made of it once.

    Raises:
        LocalProtocolError: if it has not 16 bytes.
    """

    __slots__ = ("_cmac", "_decryptor", "_encryptor", "_raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise LocalProtocolError(f"a key has {KEY_BYTES} bytes, not {len(raw)}")
        cipher = Cipher(AES(raw), ECB())  # noqa: S305  the standard's building block, one fresh block at a time
        self._raw = raw
        self._cmac = CMAC(AES(raw))
        self._encryptor = cipher.encryptor()
        self._decryptor = cipher.decryptor()

    def __repr__(self) -> str:
        """Say that it is a key, and nothing of it."""
        return "Key(hidden)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a key goes nowhere by accident."""
        raise TypeError("a key is not pickled")

    def reveal(self) -> bytes:
        """Return its bytes, for the file that keeps it."""
        return self._raw

    def same_as(self, raw: bytes) -> bool:
        """Tell whether these are its bytes, in constant time."""
        return hmac.compare_digest(self._raw, raw)

    def mic(self, message: bytes) -> bytes:
        """Return the first four bytes of the message's CMAC."""
        cmac = self._cmac.copy()
        cmac.update(message)
        return cmac.finalize()[:MIC_BYTES]

    def encrypt(self, blocks: bytes) -> bytes:
        """Encrypt whole blocks, each by itself."""
        return self._encryptor.update(blocks)

    def decrypt(self, blocks: bytes) -> bytes:
        """Decrypt whole blocks, each by itself."""
        return self._decryptor.update(blocks)


class SessionKeys(msgspec.Struct, frozen=True):
    """The two keys of a session: `network` proves frames and hides commands, `application` hides payloads."""

    network: Key
    application: Key


def session_keys(app_key: Key, app_nonce: int, net_id: int, dev_nonce: int) -> SessionKeys:
    """Derive a session's keys (6.2.5)."""
    seed = (
        app_nonce.to_bytes(3, "little")
        + net_id.to_bytes(3, "little")
        + dev_nonce.to_bytes(2, "little")
        + bytes(7)
    )
    return SessionKeys(Key(app_key.encrypt(b"\x01" + seed)), Key(app_key.encrypt(b"\x02" + seed)))


def _data_mic(key: Key, message: bytes, *, uplink: bool, dev_addr: int, counter: int) -> bytes:
    return key.mic(_BLOCK.pack(0x49, not uplink, dev_addr, counter, len(message)) + message)


def is_genuine(wire: bytes, key: Key, frame: DataFrame, counter: int) -> bool:
    """Tell whether a data frame's MIC is right.

    Args:
        wire: the whole PHYPayload that `frame` was read from.
        key: the network session key.
        frame: for its direction and DevAddr.
        counter: all 32 bits.
    """
    mic = _data_mic(key, wire[:-MIC_BYTES], uplink=frame.uplink, dev_addr=frame.dev_addr, counter=counter)
    return hmac.compare_digest(mic, wire[-MIC_BYTES:])


def crypt(key: Key, payload: bytes, *, uplink: bool, dev_addr: int, counter: int) -> bytes:
    """Encrypt a payload, or decrypt it: both are the same (4.3.3).

    Args:
        key: the application session key; the network's for port 0.
        payload: up to 242 bytes.
        uplink: its direction.
        dev_addr: of the frame.
        counter: all 32 bits.
    """
    size = len(payload)
    blocks = b"".join(
        _BLOCK.pack(0x01, not uplink, dev_addr, counter, i) for i in range(1, (size + 15) // 16 + 1)
    )
    stream = key.encrypt(blocks)[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def open_payload(keys: SessionKeys, frame: DataFrame, counter: int) -> bytes:
    """Return the plain payload of a frame that was found genuine."""
    key = keys.network if frame.port == MAC_PORT else keys.application
    return crypt(key, frame.payload, uplink=frame.uplink, dev_addr=frame.dev_addr, counter=counter)


def seal(keys: SessionKeys, frame: DataFrame, counter: int) -> bytes:
    """Return the PHYPayload of a frame whose payload is plain.

    Args:
        keys: of the session.
        frame: its own counter is put in place of `frame.counter`.
        counter: all 32 bits.

    Raises:
        LocalProtocolError: if the frame cannot be said, or the counter is used up.
    """
    if not 0 <= counter <= MAX_COUNTER:
        raise LocalProtocolError(f"a counter has 32 bits, not {counter:#x}")
    hidden = msgspec.structs.replace(
        frame, counter=counter & 0xFFFF, payload=open_payload(keys, frame, counter)
    )
    message = write_data(hidden)
    mic = _data_mic(keys.network, message, uplink=frame.uplink, dev_addr=frame.dev_addr, counter=counter)
    return message + mic


def full_counter(received: int, following: int) -> int:
    """Return the smallest 32-bit counter, not below `following`, whose lower half is `received`."""
    return following + ((received - following) & 0xFFFF)


def is_repeated(received: int, following: int) -> bool:
    """Tell whether a frame with this lower half may be the last one again."""
    return following > 0 and received == (following - 1) & 0xFFFF


def is_genuine_join(wire: bytes, key: Key) -> bool:
    """Tell whether a join request's MIC is right (6.2.4)."""
    return hmac.compare_digest(key.mic(wire[:-MIC_BYTES]), wire[-MIC_BYTES:])


def seal_join_request(key: Key, request: JoinRequest) -> bytes:
    """Return the PHYPayload of a join request."""
    message = write_join_request(request)
    return message + key.mic(message)


def seal_join_accept(key: Key, accept: JoinAccept) -> bytes:
    """Return the PHYPayload of a join accept: a device can only encrypt, so it is decrypted here (6.2.5).

    Raises:
        LocalProtocolError: if it cannot be said.
    """
    body = write_join_accept(accept)
    return _JOIN_ACCEPT_HEADER + key.decrypt(body + key.mic(_JOIN_ACCEPT_HEADER + body))


def open_join_accept(key: Key, wire: bytes) -> JoinAccept:
    """Return what a join accept says.

    Raises:
        RemoteProtocolError: if it is none, or not one for this key.
    """
    if wire[:1] != _JOIN_ACCEPT_HEADER or len(wire) not in {17, 33}:
        raise RemoteProtocolError("no join accept")
    plain = key.encrypt(wire[1:])
    body, mic = plain[:-MIC_BYTES], plain[-MIC_BYTES:]
    if not hmac.compare_digest(key.mic(_JOIN_ACCEPT_HEADER + body), mic):
        raise RemoteProtocolError("a join accept with a wrong MIC")
    return read_join_accept(body)

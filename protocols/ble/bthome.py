"""BTHome v2: service data of UUID FCD2 to values (bthome.io/format, bthome.io/encryption).

    info byte   bit 0 encrypted, bit 2 trigger-based, bits 5–7 version = 2, the others reserved
    objects     id, value, id, value …; ids ascend; numbers are little-endian
    encrypted   info byte, ciphertext, counter (4), tag (4); AES-CCM with
                nonce = address (6), D2 FC, info byte, counter

Ids ascend so that a receiver which does not know a new one still has all below it. So at an unknown id reading
ends: what came before is good, what follows is counted as `unread`. An id below its predecessor, or an object cut
off, is something else: then nothing in the packet can be trusted, and the whole of it is refused.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from protocols.ble.objects import ABOUT, BUTTON_EVENTS, BY_ID, COMMANDS, EVENTS, Form, ObjectType
from protocols.ble.refusal import Refusal, RefusedError
from protocols.errors import LocalProtocolError
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Value

BTHOME_UUID: Final = 0xFCD2
KEY_BYTES: Final = 16
MAX_SERVICE_DATA: Final = 252
"""Bytes: an AD structure has 255 behind its length, less the type and the UUID (Core 5.4, Vol 3, Part C, 11)."""
_VERSION: Final = 2
_ENCRYPTED: Final = 0x01
_TRIGGER: Final = 0x04
_RESERVED: Final = 0x1A
_COUNTER_BYTES: Final = 4
_TAG_BYTES: Final = 4
_UUID_ON_AIR: Final = BTHOME_UUID.to_bytes(2, "little")
_LENGTH_BITS: Final = 0x1F
_LEFT: Final = 1
_RIGHT: Final = 2
_NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)
_OUT_OF_RANGE: Final = Fault(Quality.BAD, Reason.OUT_OF_RANGE)
_GARBLED: Final = Fault(Quality.BAD, Reason.GARBLED)


class Said(msgspec.Struct, frozen=True):
    """One value of a packet.

    Attributes:
        point: its name; the second of a name in one packet is name_2, and so on.
        value: in the point's unit, or what is wrong with it.
        event: whether it tells of what happened, rather than of what is.
    """

    point: PointName
    value: Value | Fault
    event: bool = False


class Packet(msgspec.Struct, frozen=True):
    """What one packet says.

    Attributes:
        said: its values, in its order; a button to which nothing was done is left out.
        trigger: whether its device speaks only when something happens.
        packet_id: the device's number for it, 0–255; None if it gives none.
        counter: the counter that it was encrypted with; None if it was not.
        unread: bytes from the first unknown object id on.
        device_type: the maker's number for the type of device; None if not said.
        firmware: the device's, such as "6.1.0"; "" if not said.
    """

    said: tuple[Said, ...]
    trigger: bool = False
    packet_id: int | None = None
    counter: int | None = None
    unread: int = 0
    device_type: int | None = None
    firmware: str = ""

    @property
    def eventful(self) -> bool:
        """Tell whether it says that something happened."""
        return any(one.event for one in self.said)


class Sealed(msgspec.Struct, frozen=True):
    """An encrypted packet, not opened yet.

    Attributes:
        info: the info byte, part of the nonce.
        ciphertext: the encrypted objects.
        counter: 0 to 2 ** 32 − 1, to be above that of the packet before.
        tag: what proves that it was made with the key.
    """

    info: int
    ciphertext: bytes
    counter: int
    tag: bytes


def parse(service_data: bytes) -> Packet | Sealed:
    """Read the service data of UUID FCD2, without the UUID.

    Raises:
        RefusedError: if it is no BTHome v2, or not a sound one.
    """
    if not 1 <= len(service_data) <= MAX_SERVICE_DATA:
        raise RefusedError(Refusal.LENGTH, f"{len(service_data)} bytes are no BTHome packet")
    info, body = service_data[0], service_data[1:]
    if info >> 5 != _VERSION:
        raise RefusedError(Refusal.VERSION, f"BTHome version {info >> 5}; only {_VERSION} is read")
    if info & _RESERVED:
        raise RefusedError(Refusal.RESERVED, f"reserved bits are set in the info byte {info:02x}")
    if not info & _ENCRYPTED:
        return _packet(body, trigger=bool(info & _TRIGGER))
    if len(body) < _COUNTER_BYTES + _TAG_BYTES:
        raise RefusedError(Refusal.LENGTH, f"{len(body)} bytes have no room for a counter and a tag")
    end = len(body) - _TAG_BYTES
    counter = int.from_bytes(body[end - _COUNTER_BYTES : end], "little")
    return Sealed(info, body[: end - _COUNTER_BYTES], counter, body[end:])


def unseal(sealed: Sealed, address: bytes, key: bytes) -> Packet:
    """Open an encrypted packet and read it.

    Whether its counter grew is the caller's to judge: the codec remembers nothing.

    Args:
        sealed: as parsed.
        address: six bytes of whoever sent it, in the order in which they are written.
        key: 16 bytes, the device's bind key.

    Raises:
        LocalProtocolError: if key or address are none.
        RefusedError: if it was not made with this key, or does not say anything sound.
    """
    if len(key) != KEY_BYTES or len(address) != 6:
        raise LocalProtocolError("a bind key has 16 bytes and an address 6")
    counter = sealed.counter.to_bytes(_COUNTER_BYTES, "little")
    nonce = address + _UUID_ON_AIR + bytes((sealed.info,)) + counter
    try:
        plain = AESCCM(key, tag_length=_TAG_BYTES).decrypt(nonce, sealed.ciphertext + sealed.tag, None)
    except InvalidTag:
        raise RefusedError(Refusal.FORGED, "its tag does not fit the key") from None
    return _packet(plain, trigger=bool(sealed.info & _TRIGGER), counter=sealed.counter)


def _packet(body: bytes, *, trigger: bool, counter: int | None = None) -> Packet:
    if not body:
        raise RefusedError(Refusal.EMPTY, "a packet without objects")
    objects = list(_objects(body))
    read = sum(size for _, _, size in objects)
    about = {row.form: raw for row, raw, _ in objects}
    packet_id = about.get(Form.PACKET_ID)
    device_type = about.get(Form.DEVICE_TYPE)
    return Packet(
        said=tuple(_said(objects)),
        trigger=trigger,
        packet_id=None if packet_id is None else packet_id[0],
        counter=counter,
        unread=len(body) - read,
        device_type=None if device_type is None else int.from_bytes(device_type, "little"),
        firmware=".".join(str(part) for part in reversed(about.get(Form.FIRMWARE, b""))),
    )


def _objects(body: bytes) -> Iterator[tuple[ObjectType, bytes, int]]:
    """Yield the rows, the value's bytes and the size of each object, up to the first that is not known."""
    at, last = 0, 0
    while at < len(body):
        code = body[at]
        if code < last or (code == last and at and BY_ID[code].form in ABOUT):
            raise RefusedError(Refusal.ORDER, f"object {code:02x} after {last:02x}")
        row = BY_ID.get(code)
        if row is None or _means_more(row, body[at + 1 : at + 2]):
            return
        start, end = _extent(row, body, at + 1)
        if end > len(body):
            raise RefusedError(Refusal.TRUNCATED, f"object {code:02x} is cut off")
        yield row, body[start:end], end - at
        at, last = end, code


def _means_more(row: ObjectType, length: bytes) -> bool:
    """Tell whether the length of a command has bits set that are reserved, so that its end is not known."""
    return row.form is Form.COMMAND and bool(length) and length[0] > _LENGTH_BITS


def _extent(row: ObjectType, body: bytes, at: int) -> tuple[int, int]:
    """Return where an object's value starts and ends, beyond the body if it is cut off."""
    if row.width:
        return at, at + row.width
    if at == len(body):
        return at, at + 1
    operation = 1 if row.form is Form.COMMAND else 0
    return at + 1, at + 1 + operation + body[at]


def _said(objects: list[tuple[ObjectType, bytes, int]]) -> Iterator[Said]:
    numbers: Counter[PointName] = Counter()
    for row, raw, _ in objects:
        if row.form in ABOUT:
            continue
        numbers[row.name] += 1
        number = numbers[row.name]
        value = _READERS[row.form](row, raw)
        if value is not None:
            yield Said(
                PointName(f"{row.name}_{number}") if number > 1 else row.name, value, row.form in EVENTS
            )


def _unsigned(row: ObjectType, raw: bytes) -> Value | Fault:
    return _number(row, int.from_bytes(raw, "little"))


def _signed(row: ObjectType, raw: bytes) -> Value | Fault:
    return _number(row, int.from_bytes(raw, "little", signed=True))


def _number(row: ObjectType, number: int) -> Value | Fault:
    scaled = number * row.step
    value = scaled / 10**row.decimals if row.decimals else scaled
    below = row.minimum is not None and value < row.minimum
    above = row.maximum is not None and value > row.maximum
    return _OUT_OF_RANGE if below or above else value


def _switch(_: ObjectType, raw: bytes) -> Value | Fault:
    return bool(raw[0]) if raw[0] <= 1 else _OUT_OF_RANGE


def _button(_: ObjectType, raw: bytes) -> Value | Fault:
    return BUTTON_EVENTS.get(raw[0], _OUT_OF_RANGE)


def _command(_: ObjectType, raw: bytes) -> Value | Fault:
    return COMMANDS.get(raw[0], _OUT_OF_RANGE)


def _dimmer(_: ObjectType, raw: bytes) -> Value | Fault:
    """Return the steps, to the right if positive."""
    turned, steps = raw
    if turned == 0:
        return None
    if turned not in {_LEFT, _RIGHT}:
        return _OUT_OF_RANGE
    return steps if turned == _RIGHT else -steps


def _text(_: ObjectType, raw: bytes) -> Value | Fault:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _GARBLED
    if not text:
        return _NOT_AVAILABLE
    return text if text.isprintable() else _GARBLED


def _raw(_: ObjectType, raw: bytes) -> Value | Fault:
    return raw.hex() or _NOT_AVAILABLE


_READERS: Final[Mapping[Form, Callable[[ObjectType, bytes], Value | Fault]]] = {
    Form.UNSIGNED: _unsigned,
    Form.SIGNED: _signed,
    Form.SWITCH: _switch,
    Form.BUTTON: _button,
    Form.COMMAND: _command,
    Form.DIMMER: _dimmer,
    Form.TEXT: _text,
    Form.RAW: _raw,
}
"""What an object means, by its form; None if a button, or a dimmer, was left alone."""

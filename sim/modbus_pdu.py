"""Modbus requests to responses: a PDU and a device in, a PDU out. No I/O.

Source: MODBUS Application Protocol V1.1b3, §6. Function codes 1–6, 15, 16; numbers big-endian.
"""

from collections.abc import Callable, Sequence

import msgspec

from sim.registers import ExceptionCode, Refusal, RegisterDevice, Span, Table

MAX_PDU = 253
_COIL_VALUES = {0xFF00: 1, 0x0000: 0}
_READS = {
    1: Table.COILS,
    2: Table.DISCRETE_INPUTS,
    3: Table.HOLDING_REGISTERS,
    4: Table.INPUT_REGISTERS,
}
_MAX_READ_BITS = 2000
_MAX_READ_REGISTERS = 125
_MAX_WRITE_BITS = 1968
_MAX_WRITE_REGISTERS = 123


class Reply(msgspec.Struct, frozen=True):
    """A response and what it must be counted as once it is on the wire."""

    pdu: bytes
    read: tuple[Table, Span] | None = None


def serve(pdu: bytes, device: RegisterDevice) -> Reply:
    """Carry out one request."""
    function = pdu[0] if pdu else 0
    try:
        if function in _READS:
            return _read(pdu, device, _READS[function])
        if function in _WRITES:
            return Reply(_WRITES[function](pdu, device))
    except Refusal as refusal:
        return exception_reply(pdu, refusal.code)
    return exception_reply(pdu, ExceptionCode.ILLEGAL_FUNCTION)


def exception_reply(pdu: bytes, code: int) -> Reply:
    """Return the exception response to a request."""
    function = pdu[0] if pdu else 0
    return Reply(bytes((function | 0x80, code)))


def _read(pdu: bytes, device: RegisterDevice, table: Table) -> Reply:
    span = _span(pdu)
    is_bits = table in (Table.COILS, Table.DISCRETE_INPUTS)
    _check_quantity(span.quantity, _MAX_READ_BITS if is_bits else _MAX_READ_REGISTERS)
    values = device.read(table, span)
    content = _packed_bits(values) if is_bits else _packed_registers(values)
    return Reply(bytes((pdu[0], len(content))) + content, (table, span))


def _write_coil(pdu: bytes, device: RegisterDevice) -> bytes:
    address, value = _two_words(pdu, exactly=True)
    if value not in _COIL_VALUES:
        raise Refusal(ExceptionCode.ILLEGAL_VALUE)
    device.write(Table.COILS, address, [_COIL_VALUES[value]])
    return pdu


def _write_register(pdu: bytes, device: RegisterDevice) -> bytes:
    address, value = _two_words(pdu, exactly=True)
    device.write(Table.HOLDING_REGISTERS, address, [value])
    return pdu


def _write_coils(pdu: bytes, device: RegisterDevice) -> bytes:
    span, content = _many(pdu, _MAX_WRITE_BITS, lambda quantity: (quantity + 7) // 8)
    bits = [content[place // 8] >> place % 8 & 1 for place in range(span.quantity)]
    device.write(Table.COILS, span.first, bits)
    return pdu[:5]


def _write_registers(pdu: bytes, device: RegisterDevice) -> bytes:
    span, content = _many(pdu, _MAX_WRITE_REGISTERS, lambda quantity: 2 * quantity)
    words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2)]
    device.write(Table.HOLDING_REGISTERS, span.first, words)
    return pdu[:5]


_WRITES: dict[int, Callable[[bytes, RegisterDevice], bytes]] = {
    5: _write_coil,
    6: _write_register,
    15: _write_coils,
    16: _write_registers,
}


def _two_words(pdu: bytes, *, exactly: bool) -> tuple[int, int]:
    if len(pdu) < 5 or (exactly and len(pdu) != 5):
        raise Refusal(ExceptionCode.ILLEGAL_VALUE)
    return int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")


def _span(pdu: bytes) -> Span:
    return Span(*_two_words(pdu, exactly=True))


def _many(pdu: bytes, limit: int, size: Callable[[int], int]) -> tuple[Span, bytes]:
    """Take apart a request that writes several: address, quantity, byte count, content."""
    first, quantity = _two_words(pdu, exactly=False)
    _check_quantity(quantity, limit)
    content = pdu[6:]
    if len(content) != size(quantity) or pdu[5] != len(content):
        raise Refusal(ExceptionCode.ILLEGAL_VALUE)
    return Span(first, quantity), content


def _check_quantity(quantity: int, limit: int) -> None:
    if not 1 <= quantity <= limit:
        raise Refusal(ExceptionCode.ILLEGAL_VALUE)


def _packed_bits(values: Sequence[int]) -> bytes:
    """Pack bits into bytes, the first in the lowest place of the first byte."""
    packed = sum((value & 1) << place for place, value in enumerate(values))
    return packed.to_bytes((len(values) + 7) // 8, "little")


def _packed_registers(values: Sequence[int]) -> bytes:
    return b"".join((value & 0xFFFF).to_bytes(2, "big") for value in values)

"""Home Assistant's decoder as a witness: it and ours read the same from packets that nobody chose."""

import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
from bleak.backends.device import BLEDevice
from bthome_ble import BTHomeBluetoothDeviceData
from bthome_ble.const import MEAS_TYPES
from habluetooth import BluetoothServiceInfoBleak
from hypothesis import given
from hypothesis import strategies as st

from protocols.ble.bthome import Packet, Sealed, parse, unseal
from protocols.ble.objects import ABOUT, BY_ID, Form, ObjectType
from protocols.model.reading import Fault, Reason
from tests.protocols.ble.sealing import ADDRESS, KEY, Drawn, drawn, seal

UUID = "0000fcd2-0000-1000-8000-00805f9b34fb"
SECOND_UNITS = {0x07, 0x41, 0x48}
"""Pounds, metres, millilitres: the witness has one name for both units, and loses the first of the two."""
ADDRESS_TEXT = "54:48:E6:8F:80:A5"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the witness not log each packet."""
    logger = logging.getLogger("bthome_ble")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def heard(data: bytes) -> BluetoothServiceInfoBleak:
    return BluetoothServiceInfoBleak(
        name="sensor",
        address=ADDRESS_TEXT,
        rssi=-60,
        manufacturer_data={},
        service_data={UUID: data},
        service_uuids=[],
        source="test",
        device=BLEDevice(ADDRESS_TEXT, "sensor", None),
        advertisement=None,
        connectable=False,
        time=0.0,
        tx_power=None,
    )


def witness(data: bytes, key: bytes | None = None) -> list[object]:
    """Return the values that the witness has, in the order of their keys within the packet's order."""
    decoder = BTHomeBluetoothDeviceData(bindkey=key)
    update = decoder.update(heard(data))
    left_out = {"signal_strength", "packet_id"}
    told: list[object] = [
        value.native_value
        for device_key, value in update.entity_values.items()
        if device_key.key not in left_out
    ]
    told += [value.native_value for value in update.binary_entity_values.values()]
    told += [event.event_type for event in update.events.values()]
    return told


def ours(found: Packet) -> dict[str, object]:
    return {said.point: said.value for said in found.said}


single = st.sampled_from(sorted(code for code, row in BY_ID.items() if row.form not in ABOUT))


@st.composite
def one_object(draw: st.DrawFn) -> tuple[ObjectType, bytes]:
    row = BY_ID[draw(single)]
    if row.width:
        return row, draw(st.binary(min_size=row.width, max_size=row.width))
    extra = 1 if row.form is Form.COMMAND else 0
    raw = draw(st.binary(min_size=extra, max_size=12))
    return row, bytes((len(raw) - extra,)) + raw


def agree(row: ObjectType, mine: object, theirs: object) -> bool:
    """Tell whether both mean the same thing by an object."""
    if isinstance(theirs, datetime):
        return mine == theirs.timestamp()
    if row.form is Form.DIMMER:
        assert isinstance(mine, int)
        return mine == 0 or theirs == ("rotate_left" if mine < 0 else "rotate_right")
    if row.form in {Form.UNSIGNED, Form.SIGNED}:
        assert isinstance(theirs, int | float)
        ours_for_one_of_theirs = row.step / 10**row.decimals / MEAS_TYPES[row.id].factor
        rounding = 0.0501 if row.id == 0x58 else 1e-9  # the witness rounds 0.35 °C to a tenth
        return mine == pytest.approx(theirs * ours_for_one_of_theirs, rel=1e-9, abs=rounding)
    return mine == theirs


@given(one_object(), st.booleans(), st.integers(0, 2**32 - 1))
def test_each_object_means_to_us_what_it_means_to_the_witness(
    one: tuple[ObjectType, bytes], encrypted: bool, counter: int
) -> None:
    row, raw = one
    body = bytes((row.id,)) + raw
    data = seal(body, counter) if encrypted else b"\x40" + body
    found = parse(data)
    if isinstance(found, Sealed):
        found = unseal(found, ADDRESS, KEY)
    theirs = witness(data, KEY if encrypted else None)
    mine = list(ours(found).values())
    if mine and isinstance(mine[0], Fault):
        assert mine[0].reason in {Reason.OUT_OF_RANGE, Reason.GARBLED, Reason.NOT_AVAILABLE}
        return  # the witness believes what its type can hold
    assert len(theirs) == len(mine)
    assert not mine or agree(row, mine[0], theirs[0])


@given(drawn())
def test_both_find_the_same_number_of_sensors_in_a_packet(one: Drawn) -> None:
    """Events and switches apart: the witness keeps those elsewhere."""
    kept = [
        (code, raw)
        for code, raw in one.objects
        if BY_ID[code].form in {Form.UNSIGNED, Form.SIGNED} and code not in SECOND_UNITS
    ]
    if not kept:
        return
    body = Drawn(tuple(kept)).body
    found = parse(b"\x40" + body)
    assert isinstance(found, Packet)
    assert len(witness(b"\x40" + body)) == len(found.said) == len(kept)


def test_the_witness_knows_no_object_that_we_do_not() -> None:
    """And none of another length."""
    assert sorted(MEAS_TYPES) == sorted(BY_ID)
    for code, theirs in MEAS_TYPES.items():
        if BY_ID[code].width:
            assert theirs.data_length == BY_ID[code].width


def test_what_the_witness_refuses_as_a_forgery_we_refuse_too() -> None:
    decoder = BTHomeBluetoothDeviceData(bindkey=KEY)
    decoder.update(heard(seal(bytes.fromhex("0164"), 9, key=bytes(16))))
    assert decoder.decryption_failed
    decoder.update(heard(seal(bytes.fromhex("0164"), 9)))
    assert not decoder.decryption_failed

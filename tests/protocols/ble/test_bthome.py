"""BTHome v2: published examples, every object, and what must never become a value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ble.bthome import Packet, Said, Sealed, parse, unseal
from protocols.ble.objects import ABOUT, BY_ID, EVENTS, OBJECT_TYPES, Form
from protocols.ble.refusal import Refusal, RefusedError
from protocols.errors import LocalProtocolError
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Value
from tests.protocols.ble.sealing import ADDRESS, KEY, Drawn, drawn, seal

EXAMPLE = bytes.fromhex("41a47266c95f730011223378237214")
"""bthome.io/encryption: 25.06 °C and 50.55 %, counter 00 11 22 33 as on the air."""
UNKNOWN = next(code for code in range(0x66, 0xF0) if code not in BY_ID)


def packet(text: str) -> Packet:
    found = parse(bytes.fromhex(text))
    assert isinstance(found, Packet)
    return found


def sealed(data: bytes) -> Sealed:
    found = parse(data)
    assert isinstance(found, Sealed)
    return found


def values(text: str) -> dict[str, Value | Fault]:
    return {one.point: one.value for one in packet(text).said}


def refused(data: bytes | str) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        parse(bytes.fromhex(data) if isinstance(data, str) else data)
    return caught.value.refusal


def bad(reason: Reason) -> Fault:
    return Fault(Quality.BAD, reason)


PUBLISHED: list[tuple[str, str, Value]] = [
    ("518756", "acceleration", 22.151),
    ("0161", "battery_level", 97),
    ("12E204", "co2", 1250),
    ("56E803", "conductivity", 1000),
    ("0960", "count", 96),
    ("3D0960", "count", 24585),
    ("3E2A2C0960", "count", 1611213866),
    ("59EA", "count", -22),
    ("5AEAEA", "count", -5398),
    ("5BEA0234EA", "count", -365690134),
    ("434E34", "current", 13.39),
    ("5D02EA", "current", -5.63),
    ("08CA06", "dew_point", 17.38),
    ("400C00", "distance", 12),
    ("414E00", "distance", 7800),
    ("424E3400", "duration", 13.39),
    ("4D12138A14", "cumulative_active_energy", 344593.17),
    ("0A138A14", "cumulative_active_energy", 1346.067),
    ("4B138A14", "gas_volume", 1346.067),
    ("4C41018A01", "gas_volume", 25821.505),
    ("03BF13", "relative_humidity", 50.55),
    ("2E23", "relative_humidity", 35),
    ("05138A14", "illuminance", 13460.67),
    ("065E1F", "mass", 80.3),
    ("14020C", "moisture", 30.74),
    ("2F23", "moisture", 35),
    ("0D120C", "pm2_5", 3090),
    ("0E021C", "pm10", 7170),
    ("0B021B00", "active_power", 69.14),
    ("04138A01", "air_pressure", 1008.83),
    ("3F020C", "rotation", 307.4),
    ("02CA09", "temperature", 25.06),
    ("451101", "temperature", 27.3),
    ("57EA", "temperature", -22),
    ("58EA", "temperature", -7.7),
    ("133301", "tvoc", 307),
    ("0C020C", "voltage", 3.074),
    ("4A020C", "voltage", 307.4),
    ("0F01", "switch", True),
    ("1100", "opening", False),
    ("1B01", "garage_door_open", True),
    ("2801", "safe", True),
    ("2D01", "window_open", True),
    ("3A01", "button", "press"),
    ("3C0103", "dimmer", -3),
    ("3C020A", "dimmer", 10),
]
"""Examples of bthome.io/format and of components that transcribe it, in the unit of the point: 7.8 m are 7800 mm."""


@pytest.mark.parametrize(("data", "point", "value"), PUBLISHED)
def test_each_published_example_has_its_published_value(data: str, point: str, value: Value) -> None:
    assert values("40" + data) == {point: value}


def test_the_published_packet_is_read() -> None:
    assert packet("4002ca0903bf13") == Packet(
        (Said(PointName("temperature"), 25.06), Said(PointName("relative_humidity"), 50.55))
    )


def test_the_published_encrypted_packet_is_read() -> None:
    opened = unseal(sealed(EXAMPLE), ADDRESS, KEY)
    assert opened == Packet(packet("4002ca0903bf13").said, counter=0x33221100)


def test_a_pound_is_told_in_kilograms() -> None:
    assert values("40073E1D") == {"mass": pytest.approx(74.86 * 0.45359237)}


def test_what_tells_of_packet_and_device_is_no_value() -> None:
    found = packet("44 00 2e 01 64 f0 01 02 f1 00 01 02 04".replace(" ", ""))
    assert found == Packet(
        (Said(PointName("battery_level"), 100),),
        trigger=True,
        packet_id=0x2E,
        device_type=0x0201,
        firmware="4.2.1.0",
    )
    assert packet("40f2000106").firmware == "6.1.0"


def test_several_of_one_point_are_numbered_from_the_second_on() -> None:
    assert values("40 02ca09 02cb09 2e23 2e24 451101".replace(" ", "")) == {
        "temperature": 25.06,
        "temperature_2": 25.07,
        "relative_humidity": 35,
        "relative_humidity_2": 36,
        "temperature_3": 27.3,
    }


def test_a_button_that_was_left_alone_says_nothing_and_keeps_its_number() -> None:
    found = packet("403a003a043c0005")
    assert [(one.point, one.value) for one in found.said] == [("button_2", "long_press")]
    assert found.eventful
    assert not packet("400164").eventful


def test_a_command_is_read_without_what_its_maker_adds() -> None:
    assert values("403b0001") == {"command": "on"}
    assert values("40" + "3b02" + "03" + "aabb" + "3d0960") == {"command": "step_up", "count": 24585}


def test_a_text_is_read_and_an_unreadable_one_is_not() -> None:
    assert values("40530548616c6c6f") == {"text": "Hallo"}
    assert values("405302c328") == {"text": bad(Reason.GARBLED)}
    assert values("4053021b5b") == {"text": bad(Reason.GARBLED)}, (
        "an escape sequence does not reach a terminal"
    )
    assert values("405300") == {"text": bad(Reason.NOT_AVAILABLE)}
    assert values("40540401020304") == {"raw": "01020304"}
    assert values("405400") == {"raw": bad(Reason.NOT_AVAILABLE)}


@pytest.mark.parametrize(
    ("data", "point"),
    [
        ("0165", "battery_level"),
        ("031127", "relative_humidity"),
        ("02eb93", "temperature"),
        ("2d02", "window_open"),
        ("2dff", "window_open"),
        ("3a07", "button"),
        ("3b0009", "command"),
        ("3c0305", "dimmer"),
        ("5ea18c", "direction"),
    ],
)
def test_what_cannot_be_meant_is_no_value(data: str, point: str) -> None:
    assert values("40" + data) == {point: bad(Reason.OUT_OF_RANGE)}


def test_bounds_themselves_can_be_meant() -> None:
    assert values("400164031027") == {"battery_level": 100, "relative_humidity": 100}


def test_an_unknown_object_ends_reading_and_what_came_before_is_good() -> None:
    found = packet(f"4002ca09{UNKNOWN:02x}0164")
    assert [(one.point, one.value) for one in found.said] == [("temperature", 25.06)]
    assert found.unread == 3
    assert packet(f"40{UNKNOWN:02x}00") == Packet((), unread=2)


def test_a_command_whose_length_means_more_ends_reading() -> None:
    assert packet("4001643b2001") == Packet((Said(PointName("battery_level"), 100),), unread=3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", Refusal.LENGTH),
        ("40" + "00" * 252, Refusal.LENGTH),
        ("40", Refusal.EMPTY),
        ("2001", Refusal.VERSION),
        ("e10200", Refusal.VERSION),
        ("420164", Refusal.RESERVED),
        ("480164", Refusal.RESERVED),
        ("500164", Refusal.RESERVED),
        ("4003bf1302ca09", Refusal.ORDER),
        ("40002e002f0164", Refusal.ORDER),
        ("40f00102f00102", Refusal.ORDER),
        ("4002ca", Refusal.TRUNCATED),
        ("40016402", Refusal.TRUNCATED),
        ("4053", Refusal.TRUNCATED),
        ("40530548", Refusal.TRUNCATED),
        ("403b", Refusal.TRUNCATED),
        ("403b00", Refusal.TRUNCATED),
        ("41" + "00" * 7, Refusal.LENGTH),
    ],
)
def test_what_is_not_sound_is_refused_as_a_whole_and_named(data: str, why: Refusal) -> None:
    assert refused(data) is why


def test_the_sealing_of_these_tests_is_the_published_one() -> None:
    assert seal(bytes.fromhex("02ca0903bf13"), 0x33221100) == EXAMPLE


def unsealing_refused(data: bytes, *, key: bytes = KEY, address: bytes = ADDRESS) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        unseal(sealed(data), address, key)
    return caught.value.refusal


@pytest.mark.parametrize("position", range(1, len(EXAMPLE)))
def test_a_changed_byte_anywhere_is_a_forgery(position: int) -> None:
    changed = bytearray(EXAMPLE)
    changed[position] ^= 0x10
    assert unsealing_refused(bytes(changed)) is Refusal.FORGED


def test_another_key_another_sender_and_another_info_byte_are_forgeries() -> None:
    assert unsealing_refused(EXAMPLE, key=bytes(16)) is Refusal.FORGED
    assert unsealing_refused(EXAMPLE, address=bytes(6)) is Refusal.FORGED
    assert unsealing_refused(b"\x45" + EXAMPLE[1:]) is Refusal.FORGED


def test_what_is_encrypted_must_be_sound_too() -> None:
    assert unsealing_refused(seal(b"", 1)) is Refusal.EMPTY
    assert unsealing_refused(seal(bytes.fromhex("03bf1302ca09"), 1)) is Refusal.ORDER
    opened = unseal(sealed(seal(bytes.fromhex("3a01"), 7, info=0x45)), ADDRESS, KEY)
    assert (opened.trigger, opened.counter) == (True, 7)


@pytest.mark.parametrize(("key", "address"), [(bytes(15), ADDRESS), (KEY, bytes(5))])
def test_what_is_no_key_is_our_fault(key: bytes, address: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        unseal(sealed(EXAMPLE), address, key)


def test_a_key_is_in_no_message() -> None:
    with pytest.raises(RefusedError) as caught:
        unseal(sealed(EXAMPLE), ADDRESS, bytes(range(16)))
    told = f"{caught.value!r} {caught.value} {caught.value.__context__!r}"
    assert bytes(range(16)).hex() not in told
    assert repr(bytes(range(16))) not in told
    assert caught.value.__suppress_context__


def test_the_table_is_sound() -> None:
    assert len(BY_ID) == len(OBJECT_TYPES)
    assert [row.id for row in OBJECT_TYPES] == sorted(BY_ID)
    units: dict[str, str] = {}
    for row in OBJECT_TYPES:
        assert units.setdefault(row.name, row.unit) == row.unit, f"{row.name} has one unit"
        assert (row.width == 0) == (row.form in {Form.TEXT, Form.RAW, Form.COMMAND})


@given(drawn())
def test_every_object_is_read_once_and_to_its_end(one: Drawn) -> None:
    found = parse(b"\x40" + one.body)
    assert isinstance(found, Packet)
    assert found.unread == 0
    quiet = sum(1 for code, raw in one.objects if BY_ID[code].form in EVENTS and raw[0] == 0)
    told = sum(1 for code, _ in one.objects if BY_ID[code].form not in ABOUT)
    assert told - quiet <= len(found.said) <= told
    assert len({said.point for said in found.said}) == len(found.said)


@given(drawn(), st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16))
def test_what_was_sealed_is_what_is_opened(one: Drawn, counter: int, key: bytes) -> None:
    opened = unseal(sealed(seal(one.body, counter, key=key)), ADDRESS, key)
    plain = parse(b"\x40" + one.body)
    assert isinstance(plain, Packet)
    assert (opened.said, opened.counter) == (plain.said, counter)


@given(drawn(), st.data())
def test_a_packet_cut_off_within_an_object_is_refused(one: Drawn, data: st.DataObject) -> None:
    ends, at = [], 0
    for _, raw in one.objects:
        at += 1 + len(raw)
        ends.append(at)
    inside = [cut for cut in range(1, at) if cut not in ends]
    cut = data.draw(st.sampled_from(inside))
    assert refused(b"\x40" + one.body[:cut]) is Refusal.TRUNCATED


@given(st.binary(max_size=300))
def test_noise_is_refused_or_read_but_nothing_else_happens(noise: bytes) -> None:
    try:
        found = parse(noise)
        if isinstance(found, Sealed):
            unseal(found, ADDRESS, KEY)
    except RefusedError:
        return
    assert isinstance(found, Packet)


@given(st.binary(min_size=9, max_size=200), st.sampled_from([0x41, 0x45]))
def test_noise_that_looks_encrypted_is_never_believed(noise: bytes, info: int) -> None:
    assert unsealing_refused(bytes((info,)) + noise) is Refusal.FORGED

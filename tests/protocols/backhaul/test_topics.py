"""Topics: one place for each message, the same shard for ever, nothing odd let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.backhaul.topics import (
    SHARDS,
    Down,
    DownTopic,
    PositionTopic,
    Up,
    UpTopic,
    check_position,
    down,
    down_filter,
    is_position,
    parse_down,
    parse_position,
    parse_up,
    position,
    position_filters,
    shard,
    up,
    up_filter,
)
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.geo import Cell, Way, geohash
from protocols.model.device import StreamClass
from protocols.model.ids import ID_PATTERN, CabinetId
from protocols.model.priority import Waypoint

CABINETS = st.from_regex(ID_PATTERN, fullmatch=True).map(CabinetId)
DIJON = CabinetId("dijon-0001")


@pytest.mark.parametrize(
    ("cabinet", "expected"),
    # CRC-32 (ISO-HDLC) of the name, modulo 64, by another implementation: gzip's trailer.
    [("dijon-0001", 27), ("dijon-0002", 33), ("chenove-0001", 10), ("123456789", 0x26)],
)
def test_a_cabinet_s_shard_never_changes(cabinet: str, expected: int) -> None:
    assert shard(CabinetId(cabinet)) == expected


@given(CABINETS)
def test_a_shard_is_one_of_sixty_four(cabinet: CabinetId) -> None:
    assert 0 <= shard(cabinet) < SHARDS == 64


@given(CABINETS, st.sampled_from([kind for kind in Up if kind is not Up.BATCH]))
def test_a_cabinet_s_topic_comes_back_as_it_was_made(cabinet: CabinetId, kind: Up) -> None:
    assert parse_up(up(cabinet, kind)) == UpTopic(cabinet, kind)


@given(CABINETS, st.sampled_from(StreamClass))
def test_a_batch_s_topic_names_its_stream(cabinet: CabinetId, stream: StreamClass) -> None:
    assert parse_up(up(cabinet, Up.BATCH, stream)) == UpTopic(cabinet, Up.BATCH, stream)


@given(CABINETS, st.sampled_from(Down))
def test_a_topic_towards_a_cabinet_comes_back_as_it_was_made(cabinet: CabinetId, kind: Down) -> None:
    assert parse_down(down(cabinet, kind)) == DownTopic(cabinet, kind)


def test_topics_read_as_the_design_says() -> None:
    assert up(DIJON, Up.HELLO) == "luciole/1/up/27/dijon-0001/hello"
    assert up(DIJON, Up.BATCH, StreamClass.EVENTS) == "luciole/1/up/27/dijon-0001/batch/events"
    assert down(DIJON, Down.ACK) == "luciole/1/down/dijon-0001/ack"
    assert (up_filter(), up_filter(7)) == ("luciole/1/up/+/#", "luciole/1/up/7/#")
    assert down_filter(DIJON) == "luciole/1/down/dijon-0001/+"


HELLO = up(DIJON, Up.HELLO)
BATCH = up(DIJON, Up.BATCH, StreamClass.CRITICAL)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "luciole/1/up",
        "other/1/up/27/dijon-0001/hello",
        "luciole/2/up/27/dijon-0001/hello",
        "luciole/1/down/35/dijon-0001/hello",
        "luciole/1/up/36/dijon-0001/hello",
        "luciole/1/up/027/dijon-0001/hello",
        "luciole/1/up/27/DIJON-0001/hello",
        "luciole/1/up/27/dijon-0001\n/hello",
        "luciole/1/up/27//hello",
        f"{HELLO}/",
        f"/{HELLO}",
        f"{HELLO}/events",
        f"{HELLO}/events/more",
        HELLO.replace("hello", "Hello"),
        HELLO.replace("hello", "goodbye"),
        HELLO.replace("hello", "batch"),
        BATCH.replace("critical", "CRITICAL"),
        BATCH.replace("critical", "crıtical"),  # a dotless i, whose capital is an ordinary I
        BATCH.replace("critical", "0"),
        BATCH.replace("critical", ""),
        "x" * 70_000,
    ],
)
def test_a_foreign_or_odd_topic_is_refused(topic: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        parse_up(topic)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "topic",
    [
        "",
        HELLO,
        "luciole/1/down/dijon-0001",
        "luciole/1/down/dijon-0001/ack/more",
        "luciole/1/down/dijon-0001/ACK",
        "luciole/1/down/DIJON/ack",
        "luciole/1/down//ack",
        "luciole/1/down/dijon-0001/" + "x" * 70_000,
    ],
)
def test_a_topic_that_is_not_towards_a_cabinet_is_refused(topic: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        parse_down(topic)
    assert len(str(refusal.value)) < 400


@given(st.text())
def test_whatever_is_accepted_is_what_we_would_have_said(topic: str) -> None:
    try:
        parsed = parse_up(topic)
    except RemoteProtocolError:
        return
    assert up(parsed.cabinet, parsed.kind, parsed.stream) == topic


@pytest.mark.parametrize("cabinet", ["", "+", "#", "a/b", "A", "a\n"])
def test_a_name_that_is_none_never_becomes_a_topic(cabinet: str) -> None:
    with pytest.raises(LocalProtocolError, match="cannot stand in a topic"):
        up(CabinetId(cabinet), Up.HELLO)
    with pytest.raises(LocalProtocolError, match="cannot stand in a topic"):
        down(CabinetId(cabinet), Down.ACK)
    with pytest.raises(LocalProtocolError, match="cannot stand in a topic"):
        down_filter(CabinetId(cabinet))


def test_a_batch_and_only_a_batch_has_a_stream() -> None:
    with pytest.raises(LocalProtocolError):
        up(DIJON, Up.BATCH)
    with pytest.raises(LocalProtocolError):
        up(DIJON, Up.HELLO, StreamClass.EVENTS)


@pytest.mark.parametrize("number", [-1, 64])
def test_there_is_no_subscription_of_a_shard_that_there_is_not(number: int) -> None:
    with pytest.raises(LocalProtocolError):
        up_filter(number)


def test_a_vehicle_s_topic_has_one_level_a_character() -> None:
    topic = position(57.64911, 10.40744, "v-5e1f")
    assert topic == "luciole/1/position/u/4/p/r/u/y/d/v-5e1f"
    assert parse_position(topic) == PositionTopic("u4pruyd", "v-5e1f")
    assert is_position(topic)


@given(st.floats(-90, 90), st.floats(-180, 180), CABINETS)
def test_a_vehicle_s_topic_comes_back_as_it_was_made(
    latitude: float, longitude: float, pseudonym: str
) -> None:
    parsed = parse_position(position(latitude, longitude, pseudonym))
    assert parsed == PositionTopic(geohash(latitude, longitude), pseudonym)


@pytest.mark.parametrize(("latitude", "pseudonym"), [(90.5, "v"), (0, "a/b"), (0, ""), (0, "+"), (0, "#")])
def test_what_cannot_stand_in_a_vehicle_s_topic_is_refused(latitude: float, pseudonym: str) -> None:
    with pytest.raises(LocalProtocolError):
        position(latitude, 0, pseudonym)


@pytest.mark.parametrize(
    "topic",
    [
        "luciole/1/position",
        "luciole/1/position/u/4/p/r/u/y/v",
        "luciole/1/position/u/4/p/r/u/y/d/v/v",
        "luciole/1/position/u/4/p/r/u/y/a/v",
        "luciole/1/position/u/4/p/r/u/y/dd/v",
        "luciole/1/position/u/4/p/r/u/y//v",
        "luciole/1/position/u/4/p/r/u/y/d/V",
        "luciole/2/position/u/4/p/r/u/y/d/v",
        "luciole/1/down/u/4/p/r/u/y/d/v",
    ],
)
def test_what_is_no_vehicle_s_topic_is_refused(topic: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_position(topic)


@given(st.text(max_size=80))
def test_noise_is_no_vehicle_s_topic(topic: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_position(topic)


@given(st.floats(-90, 90), st.floats(-180, 180), CABINETS)
def test_a_position_stands_on_its_own_topic(latitude: float, longitude: float, pseudonym: str) -> None:
    check_position(position(latitude, longitude, pseudonym), latitude, longitude, pseudonym)


@pytest.mark.parametrize(
    ("latitude", "longitude", "pseudonym", "refused"),
    [
        (47.322, 5.0415, "v-2", "position of 'v-2' on the topic of 'v-1'"),
        (47.332, 5.0415, "v-1", "on the topic of"),
        (47.322, 5.0615, "v-1", "on the topic of"),
        (-47.322, 5.0415, "v-1", "on the topic of"),
        (47.322, -5.0415, "v-1", "on the topic of"),
    ],
)
def test_a_position_on_the_topic_of_another_vehicle_or_place_is_refused(
    latitude: float, longitude: float, pseudonym: str, refused: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=refused):
        check_position(position(47.322, 5.0415, "v-1"), latitude, longitude, pseudonym)


HERE = Way((Waypoint(47.3200, 5.0415), Waypoint(47.3220, 5.0415)))
FAR = Way((Waypoint(47.32, 5.04), Waypoint(47.35, 5.08)))


def hears(topic_filter: str, topic: str) -> bool:
    """Match as MQTT 5, 4.7 says: `+` is one level, `#` the rest."""
    wanted, found = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, found = wanted[:-1], found[: len(wanted) - 1]
    return len(wanted) == len(found) and all(w in {"+", f} for w, f in zip(wanted, found, strict=True))


@given(st.floats(0, 1), st.floats(-20, 20))
def test_every_position_on_a_way_is_heard_once(share: float, off_m: float) -> None:
    filters = position_filters([*HERE.bounds(25), *FAR.bounds(25)])
    on_it = position(47.32 + share * 0.03 + off_m / 222_000, 5.04 + share * 0.04 - off_m / 151_000, "v")
    assert sum(hears(one, on_it) for one in filters) == 1


def test_a_short_way_is_heard_in_few_cells() -> None:
    filters = position_filters(HERE.bounds(25))
    assert len(filters) <= 6
    assert all(one.endswith("/+") for one in filters)
    assert not any(hears(one, position(47.35, 5.08, "v")) for one in filters)


def test_for_many_ways_the_cells_become_larger_not_more() -> None:
    areas = FAR.bounds(25)
    fine, coarse = position_filters(areas), position_filters(areas, 8)
    assert 8 < len(fine) <= 128
    assert len(coarse) <= 8
    assert all(one.endswith("/#") for one in coarse)
    assert position_filters([]) == ()


def test_nobody_hears_the_whole_earth() -> None:
    with pytest.raises(LocalProtocolError, match="more than 8"):
        position_filters([Cell(-90, -180, 90, 180)], 8)

"""Where each message goes. One prefix, a version, a direction, then who."""

import zlib
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.geo import GEOHASH_LENGTH, Cell, cell_of, cells_around, geohash, is_geohash
from protocols.model.device import StreamClass
from protocols.model.ids import ID_RULE, CabinetId, is_id

PREFIX = "luciole/1"
SHARDS = 64
"""Ingest workers lease shards; a cabinet is always on the same one, so its order is kept."""
MAX_POSITION_FILTERS = 128
"""Subscriptions of a cabinet to positions: what a broker takes at once, and enough for 3 km of ways."""


class Up(StrEnum):
    """What a cabinet says."""

    HELLO = "hello"
    BATCH = "batch"
    NOW = "now"
    STATE = "state"


class Down(StrEnum):
    """What the centre says."""

    ACK = "ack"
    POLICY = "policy"
    COMMAND = "command"


_STREAMS = {stream.name.lower(): stream for stream in StreamClass}


class UpTopic(msgspec.Struct, frozen=True):
    """A cabinet's topic, taken apart. `stream` is set for batches only."""

    cabinet: CabinetId
    kind: Up
    stream: StreamClass | None = None


class DownTopic(msgspec.Struct, frozen=True):
    """A topic towards one cabinet, taken apart."""

    cabinet: CabinetId
    kind: Down


class PositionTopic(msgspec.Struct, frozen=True):
    """A vehicle's topic, taken apart."""

    geohash: str
    pseudonym: str


def shard(cabinet: CabinetId) -> int:
    """Return the cabinet's shard, 0–63: CRC-32 of its id, the same on every machine and for ever."""
    return zlib.crc32(cabinet.encode()) % SHARDS


def up(cabinet: CabinetId, kind: Up, stream: StreamClass | None = None) -> str:
    """Return the topic of one of a cabinet's messages.

    Raises:
        LocalProtocolError: if the cabinet's id cannot stand in a topic, or a stream is missing or too much.
    """
    where = f"{PREFIX}/up/{shard(_checked(cabinet))}/{cabinet}"
    if (kind is Up.BATCH) != (stream is not None):
        raise LocalProtocolError(f"a batch, and only a batch, has a stream: {kind.value}, {stream!r}")
    tail = "" if stream is None else f"/{stream.name.lower()}"
    return f"{where}/{kind.value}{tail}"


def down(cabinet: CabinetId, kind: Down) -> str:
    """Return the topic of one of the centre's messages to a cabinet.

    Raises:
        LocalProtocolError: if the cabinet's id cannot stand in a topic.
    """
    return f"{PREFIX}/down/{_checked(cabinet)}/{kind.value}"


def up_filter(shard_number: int | None = None) -> str:
    """Return the subscription of an ingest worker: one shard, or all of them.

    Raises:
        LocalProtocolError: if there is no such shard.
    """
    if shard_number is not None and not 0 <= shard_number < SHARDS:
        raise LocalProtocolError(f"there is no shard {shard_number}; they are 0 to {SHARDS - 1}")
    return f"{PREFIX}/up/{'+' if shard_number is None else shard_number}/#"


def down_filter(cabinet: CabinetId) -> str:
    """Return a cabinet's subscription.

    Raises:
        LocalProtocolError: if the cabinet's id cannot stand in a topic.
    """
    return f"{PREFIX}/down/{_checked(cabinet)}/+"


def _checked(cabinet: CabinetId) -> CabinetId:
    if not is_id(cabinet):
        raise LocalProtocolError(f"cabinet {cabinet!r} cannot stand in a topic: expected {ID_RULE}")
    return cabinet


def parse_up(topic: str) -> UpTopic:
    """Take a cabinet's topic apart.

    Raises:
        RemoteProtocolError: if it is none, or stands in a shard that is not the cabinet's.
    """
    parts = topic.split("/")
    if parts[:3] != [*PREFIX.split("/"), "up"] or len(parts) not in {6, 7} or not is_id(parts[4]):
        raise RemoteProtocolError(f"not a topic of a cabinet: {topic[:200]!r}")
    cabinet = CabinetId(parts[4])
    if parts[3] != str(shard(cabinet)):
        raise RemoteProtocolError(f"{cabinet} belongs to shard {shard(cabinet)}, not {parts[3][:20]!r}")
    try:
        kind = Up(parts[5])
        stream = _STREAMS[parts[6]] if len(parts) == 7 else None
    except (ValueError, KeyError) as error:
        raise RemoteProtocolError(f"unknown message {'/'.join(parts[5:])[:100]!r}") from error
    if (kind is Up.BATCH) != (stream is not None):
        raise RemoteProtocolError(f"a batch, and only a batch, has a stream: {topic[:200]!r}")
    return UpTopic(cabinet, kind, stream)


def parse_down(topic: str) -> DownTopic:
    """Take a topic towards a cabinet apart.

    Raises:
        RemoteProtocolError: if it is none.
    """
    parts = topic.split("/")
    if parts[:3] != [*PREFIX.split("/"), "down"] or len(parts) != 5 or not is_id(parts[3]):
        raise RemoteProtocolError(f"not a topic towards a cabinet: {topic[:200]!r}")
    try:
        return DownTopic(CabinetId(parts[3]), Down(parts[4]))
    except ValueError as error:
        raise RemoteProtocolError(f"unknown message {parts[4][:100]!r}") from error


def position(latitude: float, longitude: float, pseudonym: str) -> str:
    """Return the topic of a vehicle's position: its geohash, one level a character, then its pseudonym.

    Raises:
        LocalProtocolError: if there is no such place, or the pseudonym cannot stand in a topic.
    """
    if not is_id(pseudonym):
        raise LocalProtocolError(f"pseudonym {pseudonym!r} cannot stand in a topic: expected {ID_RULE}")
    return f"{PREFIX}/position/{'/'.join(geohash(latitude, longitude))}/{pseudonym}"


def parse_position(topic: str) -> PositionTopic:
    """Take a vehicle's topic apart.

    Raises:
        RemoteProtocolError: if it is none.
    """
    parts = topic.split("/")
    cell = parts[3:-1]
    if (
        parts[:3] != [*PREFIX.split("/"), "position"]
        or [len(one) for one in cell] != [1] * GEOHASH_LENGTH
        or not is_geohash("".join(cell))
        or not is_id(parts[-1])
    ):
        raise RemoteProtocolError(f"not a topic of a vehicle: {topic[:200]!r}")
    return PositionTopic("".join(cell), parts[-1])


def check_position(topic: str, latitude: float, longitude: float, pseudonym: str) -> None:
    """See whether a position stands where it belongs: a broker lets each vehicle speak on its own topic only.

    Raises:
        RemoteProtocolError: if the topic is of another vehicle or place, or of none.
    """
    said = parse_position(topic)
    if said.pseudonym != pseudonym:
        raise RemoteProtocolError(f"a position of {pseudonym!r} on the topic of {said.pseudonym!r}")
    cell = cell_of(said.geohash)
    edge = 1e-6  # whoever computes the cell with other rounding may be on the other side of its edge
    if not (
        cell.south - edge <= latitude <= cell.north + edge
        and cell.west - edge <= longitude <= cell.east + edge
    ):
        raise RemoteProtocolError(
            f"a position at {latitude:.5f}, {longitude:.5f} on the topic of {said.geohash}"
        )


def is_position(topic: str) -> bool:
    """Tell whether a topic claims to be a vehicle's."""
    return topic.startswith(f"{PREFIX}/position/")


def position_filters(areas: Sequence[Cell], most: int = MAX_POSITION_FILTERS) -> tuple[str, ...]:
    """Return the subscriptions that together hear every position within some areas, none of them twice.

    All of them are of one length: the longest of which no more than `most` are needed.

    Raises:
        LocalProtocolError: if even the 32 largest cells are too many.
    """
    for length in range(GEOHASH_LENGTH, 0, -1):
        found: set[str] = set()
        for area in areas:
            cells = cells_around(area, length, most)
            found.update(cells or ())
            if cells is None or len(found) > most:
                break
        else:
            tail = "+" if length == GEOHASH_LENGTH else "#"
            return tuple(f"{PREFIX}/position/{'/'.join(cell)}/{tail}" for cell in sorted(found))
    raise LocalProtocolError(f"more than {most} cells are needed to hear that much of the earth")

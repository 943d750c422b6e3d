"""Places on the ground: geohash cells, distances, and where on a way somebody is. WGS 84, degrees and metres.

A junction's ways are short, so the ground around one is taken as flat: a tangent plane whose metres per degree
are those of the ellipsoid at its origin. Within 3 km of the origin and 70° of latitude a distance is right to
0.2 %, less than a receiver's own error.
"""

import math
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise

import msgspec

from protocols.errors import LocalProtocolError
from protocols.model.priority import Waypoint

_EQUATOR_M = 6_378_137.0
_ECCENTRICITY_2 = 0.006_694_379_990_14
"""WGS 84 (NIMA TR8350.2): semi-major axis, and first eccentricity squared."""

_BASE32 = "0123456789bcdefghjkmnpqrstuvwxyz"
GEOHASH_LENGTH = 7
"""About 153 m by 153 m at the equator, 153 m high and 103 m wide at Dijon."""
MAX_GEOHASH_LENGTH = 12
_PIECE_M = 100.0


# --- geohash (G. Niemeyer, 2008): bits of longitude and latitude in turn, five to a character ---


class Cell(msgspec.Struct, frozen=True):
    """What a geohash names, degrees: from south-west, included, to north-east."""

    south: float
    west: float
    north: float
    east: float


def geohash(latitude: float, longitude: float, length: int = GEOHASH_LENGTH) -> str:
    """Return the geohash of a place.

    Raises:
        LocalProtocolError: if there is no such place or length.
    """
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180 and 1 <= length <= MAX_GEOHASH_LENGTH):
        raise LocalProtocolError(f"no geohash of {length} characters for {latitude}, {longitude}")
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]
    place = (longitude, latitude)
    found = []
    for start in range(0, 5 * length, 5):
        number = 0
        for bit in range(start, start + 5):
            low_high = ranges[bit % 2]
            middle = (low_high[0] + low_high[1]) / 2
            upper = place[bit % 2] >= middle
            low_high[0 if upper else 1] = middle
            number = number << 1 | upper
        found.append(_BASE32[number])
    return "".join(found)


def is_geohash(text: str) -> bool:
    """Tell whether a text can be a geohash."""
    return 1 <= len(text) <= MAX_GEOHASH_LENGTH and all(one in _BASE32 for one in text)


def cell_of(text: str) -> Cell:
    """Return what a geohash names.

    Raises:
        LocalProtocolError: if the text is none.
    """
    if not is_geohash(text):
        raise LocalProtocolError(f"{text!r} is no geohash")
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]
    bits = (_BASE32.index(one) >> shift & 1 for one in text for shift in (4, 3, 2, 1, 0))
    for position, bit in enumerate(bits):
        low_high = ranges[position % 2]
        low_high[0 if bit else 1] = (low_high[0] + low_high[1]) / 2
    (west, east), (south, north) = ranges
    return Cell(south, west, north, east)


def cells_around(area: Cell, length: int, most: int) -> list[str] | None:
    """Return the geohashes of a length that an area touches, or None if they are more than `most`."""
    bits = 5 * length
    width, height = 360.0 / (1 << (bits + 1) // 2), 180.0 / (1 << bits // 2)
    columns = range(math.floor((area.west + 180) / width), math.floor((area.east + 180) / width) + 1)
    highest = round(180 / height) - 1  # the pole itself belongs to the row below it
    south, north = (min(highest, math.floor((side + 90) / height)) for side in (area.south, area.north))
    rows = range(south, north + 1)
    if len(columns) * len(rows) > most:
        return None
    around = round(360 / width)
    return [
        geohash(-90 + (row + 0.5) * height, -180 + (column % around + 0.5) * width, length)
        for row in rows
        for column in columns
    ]


# --- the ground ---


def distance_m(here: Waypoint, there: Waypoint) -> float:
    """Return the distance between two places that are not far apart, on the plane of the first."""
    return math.hypot(*Plane(here).metres(there.latitude, there.longitude))


class Plane:
    """The tangent plane at an origin."""

    __slots__ = ("_east_m", "_north_m", "_origin")

    def __init__(self, origin: Waypoint) -> None:
        latitude = math.radians(origin.latitude)
        bulge = 1 - _ECCENTRICITY_2 * math.sin(latitude) ** 2
        self._origin = origin
        self._north_m = math.radians(1) * _EQUATOR_M * (1 - _ECCENTRICITY_2) / bulge**1.5
        self._east_m = (
            math.radians(1) * _EQUATOR_M * math.cos(latitude) / bulge**0.5
        )  # never 0: cos(π/2) is 6e-17

    def metres(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Return how far east and north of the origin a place is."""
        east = (longitude - self._origin.longitude + 180) % 360 - 180
        return east * self._east_m, (latitude - self._origin.latitude) * self._north_m

    def degrees(self, east_m: float, north_m: float) -> tuple[float, float]:
        """Return the latitude and longitude, maybe beyond 180 degrees, of a place on the plane."""
        return self._origin.latitude + north_m / self._north_m, self._origin.longitude + east_m / self._east_m

    def around(self, margin_m: float) -> tuple[float, float]:
        """Return how many degrees of latitude and of longitude a margin is; at most half of them all."""
        return margin_m / self._north_m, min(180.0, margin_m / self._east_m)


def turned_deg(one: float, other: float) -> float:
    """Return by how much two headings differ, 0 to 180 degrees."""
    return abs((one - other + 180) % 360 - 180)


# --- a way, and where on it somebody is ---


class Missed(Enum):
    """Why a position is not on a way."""

    OFF = "off"
    """It is farther away than the corridor is wide."""
    HEADING = "heading"
    """It is on the ground of the way, and goes elsewhere."""


class Located(msgspec.Struct, frozen=True):
    """Where on a way a position is.

    Attributes:
        along_m: metres from the way's beginning.
        off_m: metres beside it.
    """

    along_m: float
    off_m: float


class _Leg(msgspec.Struct, frozen=True):
    """A straight piece of a way: where it begins, its direction, length, and heading."""

    east_m: float
    north_m: float
    to_east: float
    to_north: float
    length_m: float
    before_m: float
    heading_deg: float


class Way:
    """A path on the ground, made ready so that positions are found on it quickly.

    Attributes:
        length_m: from its first to its last waypoint.
    """

    def __init__(self, path: Sequence[Waypoint]) -> None:
        """Make a path ready.

        Args:
            path: at least two waypoints; one that repeats the one before adds nothing.

        Raises:
            LocalProtocolError: if the path has no length.
        """
        self._plane = Plane(path[len(path) // 2])
        self._legs = tuple(_legs([self._plane.metres(one.latitude, one.longitude) for one in path]))
        if not self._legs:
            raise LocalProtocolError("a path without length")
        self.length_m = self._legs[-1].before_m + self._legs[-1].length_m

    def locate(
        self, position: Waypoint, corridor_m: float, heading_deg: float | None, tolerance_deg: float
    ) -> Located | Missed:
        """Return where on the way a position is, or why it is not.

        Where the way crosses itself, the nearest piece counts that leads where the position is heading.

        Args:
            position: the place.
            corridor_m: how far beside the way it may be.
            heading_deg: where it goes; None if that is not to be judged.
            tolerance_deg: by how much its heading may differ from the way's.
        """
        east_m, north_m = self._plane.metres(position.latitude, position.longitude)
        near = [
            (off_m, along_m, leg)
            for leg in self._legs
            for along_m, off_m in [_project(leg, east_m, north_m)]
            if off_m <= corridor_m
        ]
        if not near:
            return Missed.OFF
        agreeing = [
            (off_m, along_m)
            for off_m, along_m, leg in near
            if heading_deg is None or turned_deg(heading_deg, leg.heading_deg) <= tolerance_deg
        ]
        if not agreeing:
            return Missed.HEADING
        off_m, along_m = min(agreeing)
        return Located(along_m, off_m)

    def bounds(self, margin_m: float) -> list[Cell]:
        """Return small boxes that together hold everything within a margin of the way."""
        north, east = self._plane.around(margin_m)
        return [
            Cell(
                max(-90.0, min(here[0], there[0]) - north),
                min(here[1], there[1]) - east,
                min(90.0, max(here[0], there[0]) + north),
                max(here[1], there[1]) + east,
            )
            for leg in self._legs
            for here, there in self._pieces(leg)
        ]

    def _pieces(self, leg: _Leg) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
        """Yield the ends of short pieces of a leg: the box of a long slanting one would hold a quarter."""
        count = math.ceil(leg.length_m / _PIECE_M)
        steps = [leg.length_m * step / count for step in range(count + 1)]
        places = [
            self._plane.degrees(leg.east_m + step * leg.to_east, leg.north_m + step * leg.to_north)
            for step in steps
        ]
        return pairwise(places)


def _legs(points: Sequence[tuple[float, float]]) -> Iterator[_Leg]:
    before_m = 0.0
    for (east, north), (next_east, next_north) in pairwise(points):
        to_east, to_north = next_east - east, next_north - north
        length_m = math.hypot(to_east, to_north)
        if length_m == 0:
            continue
        heading = math.degrees(math.atan2(to_east, to_north)) % 360
        yield _Leg(east, north, to_east / length_m, to_north / length_m, length_m, before_m, heading)
        before_m += length_m


def _project(leg: _Leg, east_m: float, north_m: float) -> tuple[float, float]:
    """Return how far along the way the nearest point of a leg is, and how far away."""
    east, north = east_m - leg.east_m, north_m - leg.north_m
    along = min(max(east * leg.to_east + north * leg.to_north, 0.0), leg.length_m)
    return leg.before_m + along, math.hypot(east - along * leg.to_east, north - along * leg.to_north)

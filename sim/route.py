"""A bus's way: a polyline on the ground, metres along it, and where that is."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import msgspec

EARTH_M = 6_371_008.8
"""Mean radius (IUGG)."""


class Place(msgspec.Struct, frozen=True):
    """A point of a route: degrees north and east, and the heading there, degrees from north clockwise."""

    latitude: float
    longitude: float
    heading_deg: float


class Route:
    """A polyline, flat around its first point: within a town the error is far below a bus's length.

    Args:
        points: degrees north and east, at least two, no two in a row the same.
    """

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._points = tuple(points)
        lengths = [distance_m(one, other) for one, other in pairwise(points)]
        self._at_m = [sum(lengths[:index]) for index in range(len(points))]

    @property
    def length_m(self) -> float:
        """From the first point to the last."""
        return self._at_m[-1]

    def place(self, along_m: float) -> Place:
        """Return where `along_m` metres of the route is; before and after its ends it goes straight on."""
        index = min(max(bisect_right(self._at_m, along_m) - 1, 0), len(self._points) - 2)
        start, end = self._points[index], self._points[index + 1]
        share = (along_m - self._at_m[index]) / (self._at_m[index + 1] - self._at_m[index])
        return Place(
            start[0] + share * (end[0] - start[0]),
            start[1] + share * (end[1] - start[1]),
            bearing_deg(start, end),
        )


def distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the metres between two points of degrees north and east that are near each other."""
    north_m, east_m = _offset_m(one, other)
    return math.hypot(north_m, east_m)


def bearing_deg(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the direction from one point to another, degrees from north clockwise, 0–360."""
    north_m, east_m = _offset_m(one, other)
    return math.degrees(math.atan2(east_m, north_m)) % 360


def straight(latitude: float, longitude: float, bearing: float, before_m: float, after_m: float) -> Route:
    """Return a straight route that reaches a point after `before_m` and ends `after_m` behind it."""
    return Route([_moved(latitude, longitude, bearing, metres) for metres in (-before_m, after_m)])


def _moved(latitude: float, longitude: float, bearing: float, metres: float) -> tuple[float, float]:
    north = math.degrees(metres * math.cos(math.radians(bearing)) / EARTH_M)
    east = metres * math.sin(math.radians(bearing)) / (EARTH_M * math.cos(math.radians(latitude)))
    return latitude + north, longitude + math.degrees(east)


def _offset_m(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    mean = math.radians((one[0] + other[0]) / 2)
    north_m = math.radians(other[0] - one[0]) * EARTH_M
    return north_m, math.radians(other[1] - one[1]) * EARTH_M * math.cos(mean)

"""Places: geohashes against published ones, the flat ground against published tables and haversine."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.geo import (
    Cell,
    Located,
    Missed,
    Plane,
    Way,
    cell_of,
    cells_around,
    distance_m,
    geohash,
    is_geohash,
    turned_deg,
)
from protocols.model.priority import Waypoint

DIJON = Waypoint(47.3220, 5.0415)
LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (57.64911, 10.40744, "u4pruydqqvj"),  # Wikipedia, "Geohash": Jutland
        (42.605, -5.603, "ezs42"),  # the same page's worked example
        (42.6, -5.6, "ezs42e44yx96"),  # README of the Python package Geohash
        (45.5, 122.6, "y8p4vg48encb"),  # the same, in another quarter of the earth
        (37.8324, 112.5584, "ww8p1r4t8"),  # README of the npm package ngeohash
    ],
)
def test_a_place_has_its_published_geohash(latitude: float, longitude: float, expected: str) -> None:
    assert geohash(latitude, longitude, len(expected)) == expected


def test_the_worked_example_comes_back_as_published() -> None:
    """Wikipedia, "Geohash": ezs42 is 42.605 ± 0.022, -5.603 ± 0.022."""
    cell = cell_of("ezs42")
    assert (cell.south + cell.north) / 2 == pytest.approx(42.605, abs=0.001)
    assert (cell.west + cell.east) / 2 == pytest.approx(-5.603, abs=0.001)
    assert (cell.north - cell.south) / 2 == pytest.approx(0.022, abs=0.0005)


@given(LATITUDES, LONGITUDES, st.integers(1, 12))
def test_a_place_is_in_the_cell_of_its_geohash(latitude: float, longitude: float, length: int) -> None:
    text = geohash(latitude, longitude, length)
    cell = cell_of(text)
    assert len(text) == length
    assert is_geohash(text)
    assert cell.south <= latitude <= cell.north
    assert cell.west <= longitude <= cell.east
    assert geohash(latitude, longitude, 12).startswith(text)


@pytest.mark.parametrize(
    ("latitude", "longitude", "length"),
    [(90.1, 0, 7), (0, 180.1, 7), (0, 0, 0), (0, 0, 13), (math.nan, 0, 7), (0, math.inf, 7)],
)
def test_where_nothing_is_there_is_no_geohash(latitude: float, longitude: float, length: int) -> None:
    with pytest.raises(LocalProtocolError):
        geohash(latitude, longitude, length)


@pytest.mark.parametrize("text", ["", "a", "u4pruydqqvj00", "U4", "é"])
def test_what_is_no_geohash_names_no_cell(text: str) -> None:
    assert not is_geohash(text)
    with pytest.raises(LocalProtocolError):
        cell_of(text)


@given(LATITUDES, LONGITUDES, st.tuples(st.floats(0, 0.01), st.floats(0, 0.01)), st.integers(1, 7), st.data())
def test_every_place_of_an_area_is_in_one_of_its_cells(
    latitude: float, longitude: float, size: tuple[float, float], length: int, data: st.DataObject
) -> None:
    area = Cell(latitude, longitude, min(90, latitude + size[0]), longitude + size[1])
    cells = cells_around(area, length, 1000)
    assert cells is not None
    inside = data.draw(st.floats(area.south, area.north)), data.draw(st.floats(area.west, area.east))
    east = (inside[1] + 180) % 360 - 180
    edges = 1e-9  # a place on the very edge of a cell belongs to one of the two
    assume(all(abs(inside[0] - side) > edges for c in cells for side in (cell_of(c).south, cell_of(c).north)))
    assert geohash(inside[0], east, length) in cells


def test_more_cells_than_allowed_are_none() -> None:
    assert cells_around(Cell(47, 5, 48, 6), 7, 64) is None
    assert cells_around(Cell(47, 5, 48, 6), 3, 64) is not None


@pytest.mark.parametrize(
    ("latitude", "north_km", "east_km"),
    # Wikipedia, "Geographic coordinate system": length of a degree on the WGS 84 ellipsoid.
    [
        (0, 110.574, 111.320),
        (15, 110.649, 107.550),
        (30, 110.852, 96.486),
        (45, 111.132, 78.847),
        (60, 111.412, 55.800),
        (75, 111.618, 28.902),
    ],
)
def test_a_degree_is_as_long_as_published(latitude: float, north_km: float, east_km: float) -> None:
    east, north = Plane(Waypoint(latitude, 0)).metres(latitude + 1, 1)
    assert north / 1000 == pytest.approx(north_km, abs=0.001)
    assert east / 1000 == pytest.approx(east_km, abs=0.001)


def haversine_m(a: Waypoint, b: Waypoint) -> float:
    """Return the great-circle distance on the mean sphere (IUGG R1)."""
    one, other = math.radians(a.latitude), math.radians(b.latitude)
    half = math.sin((other - one) / 2) ** 2
    half += math.cos(one) * math.cos(other) * math.sin(math.radians(b.longitude - a.longitude) / 2) ** 2
    return 2 * 6_371_008.8 * math.asin(math.sqrt(half))


@given(st.floats(-70, 70), LONGITUDES, st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_a_distance_is_that_of_haversine_within_the_sphere_s_own_error(
    latitude: float, longitude: float, east_m: float, north_m: float
) -> None:
    """The mean sphere differs from the ellipsoid by up to 0.56 %; the plane may add 0.15 %."""
    east = longitude + east_m / (111_320 * math.cos(math.radians(latitude)))
    here, there = Waypoint(latitude, longitude), Waypoint(latitude + north_m / 111_000, east)
    assert distance_m(here, there) == pytest.approx(haversine_m(here, there), rel=0.0071, abs=0.01)


def test_a_distance_across_the_date_line_is_short() -> None:
    assert distance_m(Waypoint(0, 179.9995), Waypoint(0, -179.9995)) == pytest.approx(111.32, abs=0.01)


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(0, 0, 0), (350, 10, 20), (10, 350, 20), (90, 270, 180), (359.5, 0, 0.5)]
)
def test_headings_are_compared_across_north(one: float, other: float, expected: float) -> None:
    assert turned_deg(one, other) == pytest.approx(expected)


def place(east_m: float, north_m: float) -> Waypoint:
    """Return the place so far from Dijon's centre, by the published length of a degree at its latitude."""
    return Waypoint(DIJON.latitude + north_m / 111_176.7, DIJON.longitude + east_m / 75_600.5)


NORTH = Way((place(0, 0), place(0, 100), place(0, 300)))
CORNER = Way((place(0, 0), place(0, 200), place(200, 200)))


def test_a_way_is_as_long_as_its_legs() -> None:
    assert pytest.approx(300, abs=0.1) == NORTH.length_m
    assert pytest.approx(400, abs=0.1) == CORNER.length_m


@pytest.mark.parametrize(("along_m", "off_m"), [(0, 0), (50, 5), (100, -5), (250, 20), (300, 0)])
def test_a_position_beside_a_way_is_found_on_it(along_m: float, off_m: float) -> None:
    found = NORTH.locate(place(off_m, along_m), 25, 0, 45)
    assert isinstance(found, Located)
    assert found.along_m == pytest.approx(along_m, abs=0.1)
    assert found.off_m == pytest.approx(abs(off_m), abs=0.1)


@given(st.floats(0, 400), st.floats(-20, 20))
def test_a_position_is_as_far_along_a_corner_as_it_has_driven(driven_m: float, off_m: float) -> None:
    assume(abs(driven_m - 200) > 25)
    here = place(off_m, driven_m) if driven_m < 200 else place(driven_m - 200, 200 + off_m)
    found = CORNER.locate(here, 25, 0 if driven_m < 200 else 90, 45)
    assert isinstance(found, Located)
    assert found.along_m == pytest.approx(driven_m, abs=0.2)


@pytest.mark.parametrize("where", [(26, 100), (-26, 100), (0, -26), (0, 326), (3000, 0)])
def test_a_position_outside_the_corridor_is_off(where: tuple[float, float]) -> None:
    assert NORTH.locate(place(*where), 25, 0, 45) is Missed.OFF


def test_a_vehicle_that_goes_the_other_way_is_not_on_the_way() -> None:
    assert NORTH.locate(place(0, 50), 25, 180, 45) is Missed.HEADING
    assert NORTH.locate(place(0, 50), 25, 46, 45) is Missed.HEADING
    assert isinstance(NORTH.locate(place(0, 50), 25, 315, 45.5), Located)
    assert isinstance(NORTH.locate(place(0, 50), 25, None, 45), Located)


def test_where_a_way_comes_back_to_itself_the_heading_tells_which_part_is_meant() -> None:
    loop = Way((place(0, 0), place(0, 200), place(15, 200), place(15, 0)))
    there = loop.locate(place(7, 100), 25, 0, 45)
    back = loop.locate(place(7, 100), 25, 180, 45)
    assert isinstance(there, Located)
    assert isinstance(back, Located)
    assert there.along_m == pytest.approx(100, abs=0.1)
    assert back.along_m == pytest.approx(315, abs=0.1)


def test_a_waypoint_that_stands_twice_adds_nothing() -> None:
    assert pytest.approx(100, abs=0.1) == Way((place(0, 0), place(0, 0), place(0, 100))).length_m
    with pytest.raises(LocalProtocolError, match="without length"):
        Way((DIJON, DIJON))


@given(st.floats(0, 400), st.floats(-100, 100), st.floats(0, 360))
def test_what_is_on_a_way_is_within_its_bounds(along_m: float, off_m: float, heading: float) -> None:
    here = place(off_m, along_m) if along_m < 200 else place(along_m - 200, 200 + off_m)
    if isinstance(CORNER.locate(here, 50, heading, 180), Located):
        assert any(
            box.south <= here.latitude <= box.north and box.west <= here.longitude <= box.east
            for box in CORNER.bounds(50.01)
        )

"""A vehicle's request for a green: as a signal controller takes and answers it, and the rules by which one is made.

The states are those of RSMP's traffic-light list (SXL 1.2.1, M0022 and S0033), for controllers of every make:

    received ─┬─ queued ── activated ── completed | stale
              │     └───── timeout
              ├─ activated
              └─ rejected | cooldown
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from protocols.model.ids import ID_META, DeviceId

MAX_LEVEL = 14
MAX_ETA_S = 255


class VehicleType(StrEnum):
    """What asks for a green (SXL 1.2.1, M0022, `vehicleType`)."""

    PEDESTRIAN = "pedestrian"
    BICYCLE = "bicycle"
    MOTORCYCLE = "motorcycle"
    CAR = "car"
    BUS = "bus"
    LIGHT_TRUCK = "lightTruck"
    HEAVY_TRUCK = "heavyTruck"
    TRAM = "tram"
    EMERGENCY = "emergency"
    SAFETY_CAR = "safetyCar"
    SPECIAL_TRANSPORT = "specialTransport"
    OTHER = "other"


class RequestState(StrEnum):
    """What a controller says of a request. The words are on the wire: append only."""

    RECEIVED = "received"
    QUEUED = "queued"
    ACTIVATED = "activated"
    COMPLETED = "completed"
    """It was cancelled as expected: the vehicle has passed."""
    TIMEOUT = "timeout"
    """It was queued for too long."""
    REJECTED = "rejected"
    COOLDOWN = "cooldown"
    """Refused, because a similar request has just been completed."""
    STALE = "stale"
    """It was never cancelled."""


_S = RequestState
NEXT: Mapping[RequestState, frozenset[RequestState]] = {
    _S.RECEIVED: frozenset({_S.QUEUED, _S.ACTIVATED, _S.REJECTED, _S.COOLDOWN}),
    _S.QUEUED: frozenset({_S.ACTIVATED, _S.TIMEOUT}),
    _S.ACTIVATED: frozenset({_S.COMPLETED, _S.STALE}),
    _S.COMPLETED: frozenset(),
    _S.TIMEOUT: frozenset(),
    _S.REJECTED: frozenset(),
    _S.COOLDOWN: frozenset(),
    _S.STALE: frozenset(),
}
"""What may follow what, as SXL 1.2.1 lists it."""
ENDED = frozenset(state for state, following in NEXT.items() if not following)


class PriorityRequest(msgspec.Struct, frozen=True):
    """What is asked of a controller.

    Attributes:
        id: unique on the controller; the same for update and cancel.
        signal_group: the group that is to be green, by the id that the controller gives it.
        level: 0 to 14, 14 the most urgent.
        eta_s: seconds until the vehicle is at the stop line; None if nobody knows.
        vehicle_type: what comes.
    """

    id: Annotated[str, ID_META]
    signal_group: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    level: Annotated[int, msgspec.Meta(ge=0, le=MAX_LEVEL)]
    eta_s: Annotated[int, msgspec.Meta(ge=0, le=MAX_ETA_S)] | None = None
    vehicle_type: VehicleType = VehicleType.BUS


class RequestStatus(msgspec.Struct, frozen=True):
    """What a controller says of one request.

    Attributes:
        id: of the request.
        state: where it is.
        at_ms: UTC milliseconds of the controller's own clock when it came there.
        extension_s: seconds by which a green was prolonged for it; None until it is over, or if not told.
        reduction_s: seconds by which a red was shortened for it; the same.
    """

    id: str
    state: RequestState
    at_ms: int
    extension_s: int | None = None
    reduction_s: int | None = None


# --- rules: what the centre wants of a cabinet's junctions ---

Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]
Degrees = Annotated[float, msgspec.Meta(ge=0, lt=360)]
Name = Annotated[str, ID_META]
Level = Annotated[int, msgspec.Meta(ge=0, le=MAX_LEVEL)]


class Waypoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place, WGS 84, degrees north and east."""

    latitude: Latitude
    longitude: Longitude


class Approach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way through a junction, and where on it a vehicle is heard of.

    Attributes:
        id: unique within the policy.
        junction: the device whose controller is asked.
        signal_group: the group that shows green to this way, by the controller's own id.
        path: the way, in the direction of travel, from before the check-in to beyond the check-out.
        stop_line_m: where on the path the stop line is, metres from its beginning.
        check_in_m: a vehicle is asked for once it is so near to the stop line.
        check_out_m: it has passed once it is so far beyond the stop line.
        corridor_m: a position farther from the path than this is not on it.
        heading_tolerance_deg: nor is one whose heading differs more than this from the path's.
        approach_speed_m_s: what the arrival is reckoned with until the vehicle's own speed is known.
        check_in_detector: the cabinet's detector that a vehicle passes on its way in, as "device" or, where
            the device has several points, "device/point"; "" for none.
        check_out_detector: and the one behind the stop line.
        detector_m: how far before the stop line the check-in detector lies.
    """

    id: Name
    junction: Annotated[DeviceId, ID_META]
    signal_group: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    path: Annotated[tuple[Waypoint, ...], msgspec.Meta(min_length=2, max_length=64)]
    stop_line_m: Annotated[float, msgspec.Meta(gt=0, le=2000)]
    check_in_m: Annotated[float, msgspec.Meta(ge=20, le=800)] = 200.0
    check_out_m: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10.0
    corridor_m: Annotated[float, msgspec.Meta(ge=2, le=100)] = 25.0
    heading_tolerance_deg: Annotated[float, msgspec.Meta(ge=5, le=90)] = 45.0
    approach_speed_m_s: Annotated[float, msgspec.Meta(ge=1, le=30)] = 8.0
    check_in_detector: Annotated[str, msgspec.Meta(max_length=127)] = ""
    check_out_detector: Annotated[str, msgspec.Meta(max_length=127)] = ""
    detector_m: Annotated[float, msgspec.Meta(ge=0, le=800)] = 0.0


class PriorityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may be asked for on an approach, how urgently, and how often.

    Attributes:
        id: unique within the policy.
        approach: on which approach.
        routes: only these; none given means all.
        directions: only these; none given means all.
        vehicle_types: only these.
        by_detector: whether a vehicle of which only the detector knows, and so no route, is asked for.
        level: of the request, 0–14.
        green_extension: whether a green that would end may be prolonged.
        early_green: whether a red may be shortened.
        max_extension_s: a green that was there is not held longer than this for one vehicle; one that came
            early, not longer than this after the moment at which the vehicle was expected.
        cooldown_s: so long after a granted request no other is made for this approach's signal group.
        grants_per_hour: no more than this for this approach's signal group.
        time_to_live_s: a request that is older is taken back, whatever has become of the vehicle.
        shadow: decide and log, and ask nothing of the controller.
    """

    id: Name
    approach: Name
    routes: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=32)], ...] = ()
    directions: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=8)], ...] = ()
    vehicle_types: Annotated[tuple[VehicleType, ...], msgspec.Meta(min_length=1)] = (VehicleType.BUS,)
    by_detector: bool = False
    level: Level = 7
    green_extension: bool = True
    early_green: bool = True
    max_extension_s: Annotated[int, msgspec.Meta(ge=0, le=60)] = 15
    cooldown_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 90
    grants_per_hour: Annotated[int, msgspec.Meta(ge=1, le=240)] = 40
    time_to_live_s: Annotated[int, msgspec.Meta(ge=5, le=255)] = 120
    shadow: bool = False


class PriorityPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a cabinet needs to know to ask its controllers for priority without the centre.

    Attributes:
        approaches: the ways through its junctions.
        rules: the first that fits a vehicle holds.
        lease_until_ms: UTC milliseconds after which nothing is asked for any more; what is under way is taken back.
        stale_position_s: a vehicle of which nothing was heard for so long is no longer believed to come.
    """

    approaches: tuple[Approach, ...]
    rules: tuple[PriorityRule, ...]
    lease_until_ms: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    stale_position_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 5.0

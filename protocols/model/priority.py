"""A vehicle's request for a green, as a signal controller takes and answers it.

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

from protocols.model.ids import ID_META

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

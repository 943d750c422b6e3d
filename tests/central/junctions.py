"""A junction's cabinet, and what it tells of a bus that asks for a green."""

from protocols.backhaul.messages import PriorityEvent, Source
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import CabinetId, DeviceId, LineId, PointName
from protocols.model.priority import Approach, PriorityRule, RequestState, Waypoint
from tests.central.cabinet_double import START_MS, CabinetDouble

CAB = CabinetId("cab-1")
JUNCTION = DeviceId("cab-1-junction")
TIME_PLAN = PointName("time_plan")
WEST = Approach(
    id="west",
    junction=JUNCTION,
    signal_group="A1",
    path=(Waypoint(47.3220, 5.0380), Waypoint(47.3221, 5.0420)),
    stop_line_m=280.0,
)
TRUNK = PriorityRule(id="trunk-lines", approach="west", routes=("L3", "L5"))


def junction(name: str = JUNCTION) -> Device:
    return Device(
        id=DeviceId(name),
        kind=Kind.JUNCTION,
        line=LineId("rsmp-1"),
        address="KK+AG0503=001TC000",
        stream=StreamClass.CRITICAL,
        points=(
            Point(TIME_PLAN, writable=True, minimum=1, maximum=255),
            Point(PointName("signal_groups")),
        ),
    )


def junction_cabinet(name: str = "cab-1") -> CabinetDouble:
    cabinet = CabinetDouble(name, lamps=1)
    cabinet.inventory += (junction(f"{name}-junction"),)
    return cabinet


def step(
    state: RequestState | None = RequestState.RECEIVED, after_s: float = 0, **changes: object
) -> PriorityEvent:
    """Return what a cabinet tells of a request; `after_s` counts from the story's beginning."""
    told: dict[str, object] = {
        "request": "r-1",
        "junction": JUNCTION,
        "rule": "trunk-lines",
        "approach": "west",
        "signal_group": "A1",
        "vehicle": "v-83a1",
        "source": Source.POSITION,
        "level": 7,
        "state": state,
        "reason": "",
        "at_ms": START_MS + round(1000 * after_s),
    }
    return PriorityEvent(**told | changes)  # type: ignore[arg-type]  # named above


def passage(request: str, after_s: float = 0, **changes: object) -> list[PriorityEvent]:
    """Return the steps of a bus that got its green: 9 s longer, 3 s earlier."""
    states = (RequestState.RECEIVED, RequestState.QUEUED, RequestState.ACTIVATED, RequestState.COMPLETED)
    given = {"extension_s": 9, "reduction_s": 3}
    return [
        step(
            state,
            after_s + 4 * n,
            request=request,
            **(given if state is RequestState.COMPLETED else {}) | changes,
        )
        for n, state in enumerate(states)
    ]

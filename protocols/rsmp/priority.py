"""Requests for priority: the model to and from M0022 and S0033 (SXL 1.2.1)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.model.priority import PriorityRequest, RequestState, RequestStatus, VehicleType
from protocols.rsmp.messages import Value, milliseconds, printable, stamp
from protocols.rsmp.sxl import wrong, wrong_set
from protocols.rsmp.tlc import SXLS

COMMAND: Final = "M0022"
STATUS: Final = "S0033"
REFERENCES: Final = ("signalGroupId", "inputId", "connectionId", "approachId", "laneInId")
"""What a new request refers to: exactly one of these; laneOutId only beside laneInId."""
_M0022: Final = SXLS["1.2.1"].commands[COMMAND]
_S0033: Final = SXLS["1.2.1"].statuses[STATUS].arguments[0]


class Order(StrEnum):
    """What is to be done with a request: `type`."""

    NEW = "new"
    UPDATE = "update"
    CANCEL = "cancel"


class PriorityOrder(msgspec.Struct, frozen=True):
    """M0022 as a controller takes it.

    Attributes:
        order: what is to be done.
        id: of the request.
        reference: name of the argument that says which movement, one of REFERENCES; "" in update and cancel.
        referred: its value.
        lane_out: of a reference to an ingoing lane, the outgoing one; None if not given.
        priority_id: which of the controller's priorities; None if not given.
        level: 0 to 14; None if not given.
        eta_s: None if not given.
        vehicle_type: None if not given.
    """

    order: Order
    id: str
    reference: str = ""
    referred: str = ""
    lane_out: int | None = None
    priority_id: int | None = None
    level: int | None = None
    eta_s: int | None = None
    vehicle_type: VehicleType | None = None


def new_arguments(request: PriorityRequest) -> dict[str, str]:
    """Return the arguments of M0022 that put a request."""
    return {
        "requestId": request.id,
        "signalGroupId": request.signal_group,
        "type": Order.NEW.value,
        "level": str(request.level),
        **({} if request.eta_s is None else {"eta": str(request.eta_s)}),
        "vehicleType": request.vehicle_type.value,
    }


def update_arguments(request: PriorityRequest) -> dict[str, str]:
    """Return the arguments that change level and arrival; group and vehicle stay as they were put."""
    return {
        "requestId": request.id,
        "type": Order.UPDATE.value,
        "level": str(request.level),
        **({} if request.eta_s is None else {"eta": str(request.eta_s)}),
    }


def cancel_arguments(request_id: str) -> dict[str, str]:
    """Return the arguments that take a request back."""
    return {"requestId": request_id, "type": Order.CANCEL.value}


def order_of(arguments: Mapping[str, str]) -> PriorityOrder:
    """Return what the arguments of an M0022 ask for.

    Raises:
        RemoteProtocolError: if they break the list's rules or ranges.
    """
    fault = wrong_set(_M0022.arguments, arguments)
    if fault is not None:
        raise RemoteProtocolError(f"M0022: {fault}")
    order = Order(arguments["type"])
    reference = _reference(order, arguments)
    vehicle = arguments.get("vehicleType")
    if vehicle is not None and order is not Order.NEW:
        raise RemoteProtocolError("M0022: the vehicle type cannot be changed")
    return PriorityOrder(
        order=order,
        id=arguments["requestId"],
        reference=reference,
        referred=arguments.get(reference, ""),
        lane_out=_number(arguments, "laneOutId"),
        priority_id=_number(arguments, "priorityId"),
        level=_number(arguments, "level"),
        eta_s=_number(arguments, "eta"),
        vehicle_type=None if vehicle is None else VehicleType(vehicle),
    )


def _reference(order: Order, arguments: Mapping[str, str]) -> str:
    given = [name for name in (*REFERENCES, "laneOutId") if name in arguments]
    if order is not Order.NEW:
        if given:
            raise RemoteProtocolError(f"M0022: {given[0]} in {order}; only new refers to a movement")
        return ""
    if len([name for name in given if name != "laneOutId"]) != 1:
        raise RemoteProtocolError(f"M0022: new needs exactly one of {', '.join(REFERENCES)}")
    if "laneOutId" in given and given[0] != "laneInId":
        raise RemoteProtocolError("M0022: laneOutId without laneInId")
    return given[0]


def _number(arguments: Mapping[str, str], name: str) -> int | None:
    return int(arguments[name]) if name in arguments else None


def told(requests: tuple[RequestStatus, ...]) -> list[dict[str, str]]:
    """Return the value of S0033's `status`.

    Raises:
        LocalProtocolError: if an id stands twice, or seconds are not within 0 to 255 or before completion.
    """
    value = [_entry(one) for one in requests]
    if len({one.id for one in requests}) != len(requests):
        raise LocalProtocolError("S0033: each request stands once")
    fault = wrong(_S0033, value)
    if fault is not None:
        raise LocalProtocolError(f"S0033: {fault}")
    return value


def _entry(status: RequestStatus) -> dict[str, str]:
    entry = {"r": status.id, "t": stamp(status.at_ms), "s": status.state.value}
    gained = {"e": status.extension_s, "d": status.reduction_s}
    for name, seconds in gained.items():
        if seconds is not None:
            if status.state is not RequestState.COMPLETED:
                raise LocalProtocolError(
                    f"S0033: {name} is told when a request is completed, not {status.state}"
                )
            entry[name] = str(seconds)
    return entry


def requests_of(value: Value) -> tuple[RequestStatus, ...]:
    """Return the requests that the value of S0033's `status` tells of, in its order.

    Raises:
        RemoteProtocolError: if it is no such value, or an id stands twice.
    """
    fault = wrong(_S0033, value)
    if fault is not None or not isinstance(value, list):
        raise RemoteProtocolError(f"S0033: {fault}")
    found = tuple(_status(entry) for entry in value)
    if len({one.id for one in found}) != len(found):
        twice = next(one.id for one in found if sum(other.id == one.id for other in found) > 1)
        raise RemoteProtocolError(f"S0033: request {printable(twice)} stands twice")
    return found


def _status(entry: Mapping[str, str]) -> RequestStatus:
    return RequestStatus(
        id=entry["r"],
        state=RequestState(entry["s"]),
        at_ms=milliseconds(entry["t"]),
        extension_s=_number(entry, "e"),
        reduction_s=_number(entry, "d"),
    )

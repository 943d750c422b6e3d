"""How the command line shows the junctions."""

from collections.abc import Iterable

import msgspec

from edge.answers import PriorityAnswer
from edge.show import as_json_line, local_positions, out, plain, table_of, when
from protocols.backhaul.messages import PriorityEvent
from protocols.model.priority import RequestState
from protocols.rules.priority.view import ApproachView, RequestView

_LIGHT = {True: "[green]green[/]", False: "[red]not green[/]", None: "unknown"}
_SHOWN = 10


def everything(answer: PriorityAnswer, *, as_json: bool) -> None:
    """Show approaches, vehicles, requests, and what came of the last ones."""
    if as_json:
        events = {key: [_named(one) for one in getattr(answer, key)] for key in ("last", "left")}
        as_json_line({**msgspec.structs.asdict(answer), **events})
        return
    if answer.lease_until_ms is None:
        out.print("priority  no rules are in force: nothing is asked for")
    else:
        lease = f"lease until {when(answer.lease_until_ms)}"
        out.print(f"priority  {lease}" + (", [yellow]nothing is asked for[/]" if answer.lapsed else ""))
    if not answer.running:
        _events("left open, to be taken back by the next agent", answer.left)
        return
    _approaches(answer.approaches)
    _requests(answer.requests)
    _events("last", answer.last[-_SHOWN:])
    _counts(answer)


def outcome(event: PriorityEvent, *, as_json: bool) -> None:
    """Show what became of a technician's request."""
    if as_json:
        as_json_line(_named(event))
        return
    state = event.state.value if event.state else "the controller has not answered"
    state = "shadow, nothing was asked" if event.shadow else state
    out.print(
        f"{event.approach} {event.request}: {state}" + (f": {plain(event.reason)}" if event.reason else "")
    )


def is_granted(event: PriorityEvent) -> bool:
    """Tell whether a request was granted, or was only to be thought through."""
    return event.shadow or event.state in {RequestState.ACTIVATED, RequestState.COMPLETED}


def _named(event: PriorityEvent) -> dict[str, object]:
    """Return an event with its fields by name: on the wire it is an array."""
    return msgspec.structs.asdict(event)


def _approaches(approaches: Iterable[ApproachView]) -> None:
    table = table_of("approach", "junction", "group", "light", "granted/h", "vehicles", "remarks")
    for one in approaches:
        vehicles = [
            f"{plain(vehicle.vehicle or vehicle.source.value)} {vehicle.to_stop_line_m:.0f} m {vehicle.stage}"
            for vehicle in one.vehicles
        ]
        remarks = [
            text
            for text, holds in (
                ("shadow", one.shadow),
                ("no rule", not one.rules),
                ("the controller cannot be reached", not one.reachable),
                ("the limits file allows no request", not one.allowed),
            )
            if holds
        ]
        light, grants = _LIGHT[one.green], str(one.grants_last_hour)
        texts = ("  ".join(vehicles), ", ".join(remarks))
        table.add_row(one.approach, one.junction, one.signal_group, light, grants, *texts)
    out.print(table)


def _requests(requests: Iterable[RequestView]) -> None:
    listed = tuple(requests)
    if not listed:
        out.print("requests  none are open")
        return
    table = table_of("request", "approach", "vehicle", "phase", "controller", "age", "why")
    for one in listed:
        state = one.state.value if one.state else "nothing yet"
        again = f"{one.reason} (cancelled {one.cancels} times)" if one.cancels else one.reason
        again = plain(again)
        table.add_row(one.request, one.approach, one.vehicle, one.phase, state, f"{one.age_s:.0f} s", again)
    out.print(table)


def _events(title: str, events: Iterable[PriorityEvent]) -> None:
    listed = tuple(events)
    if not listed:
        return
    out.print(title)
    table = table_of("request", "when", "approach", "vehicle", "controller", "why, and what it gave")
    for one in listed:
        state = "shadow" if one.shadow else one.state.value if one.state else "–"
        gains = ((one.extension_s, "s more green"), (one.reduction_s, "s less red"))
        given = [f"{gain} {what}" for gain, what in gains if gain]
        vehicle = one.vehicle or one.source.value
        why = plain("; ".join(filter(None, (one.reason, *given))))
        table.add_row(one.request, when(one.at_ms), one.approach, plain(vehicle), state, why)
    out.print(table)


def _counts(answer: PriorityAnswer) -> None:
    counted = {name: count for name, count in msgspec.structs.asdict(answer.counts).items() if count}
    out.print(
        "counted   " + (", ".join(f"{name} {count}" for name, count in counted.items()) or "nothing yet")
    )
    for junction, count in answer.failing.items():
        out.print(f"          [yellow]{junction}: {count} requests in a row were of no use[/]")
    local_positions(answer.local)

"""Whether a policy makes sense in itself and for the devices it is for. Every fault is named."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from protocols.errors import LocalProtocolError
from protocols.geo import Way
from protocols.model.device import Device, Kind
from protocols.model.lighting import Calendar, ControlProgram, Lamp, LightingPolicy
from protocols.model.policy import Policy, PolicyKind
from protocols.model.priority import Approach, PriorityPolicy, PriorityRule
from protocols.rules.priority.detector import detector_point


def misplaced_content(policy: Policy) -> list[str]:
    """Return what of a policy's content its kind does not have or lacks; none if it fits."""
    faults = []
    for kind, content in ((PolicyKind.LIGHTING, policy.lighting), (PolicyKind.PRIORITY, policy.priority)):
        if kind is policy.kind and content is None:
            faults.append(f"{kind.value}: missing, and the policy is of this kind")
        elif kind is not policy.kind and content is not None:
            faults.append(f"{kind.value}: not in a policy of kind {policy.kind.value}")
    return faults


MAX_PATH_M = 5_000.0
"""Of one approach: check-in is at most 800 m before a stop line, and the ground is flat no farther."""
MAX_APPROACHES, MAX_RULES = 64, 256
"""Of one cabinet: each position is looked for on every approach, and a junction has about a dozen ways."""


def priority_faults(policy: PriorityPolicy, devices: Sequence[Device]) -> list[str]:
    """Return every fault of a priority policy, each with its place; none if it is sound.

    Args:
        policy: what is wanted.
        devices: the cabinet's, junctions and detectors among them.
    """
    return [
        *_too_many("approaches", len(policy.approaches), MAX_APPROACHES),
        *_too_many("rules", len(policy.rules), MAX_RULES),
        *_repeated("approaches", (approach.id for approach in policy.approaches)),
        *_repeated("rules", (rule.id for rule in policy.rules)),
        *(fault for approach in policy.approaches for fault in _approach_faults(approach, devices)),
        *(fault for rule in policy.rules for fault in _rule_faults(rule, policy)),
    ]


def _too_many(where: str, count: int, most: int) -> Iterator[str]:
    if count > most:
        yield f"{where}: {count} of them, at most {most} are gone by"


def _approach_faults(approach: Approach, devices: Sequence[Device]) -> Iterator[str]:
    where = f"approaches.{approach.id}"
    junction = next((device for device in devices if device.id == approach.junction), None)
    if junction is None:
        yield f"{where}.junction: this cabinet has no device {approach.junction!r}"
    elif junction.kind is not Kind.JUNCTION:
        yield f"{where}.junction: {approach.junction} is a {junction.kind.value}"
    yield from _path_faults(approach, where)
    for key, name in (
        ("check_in_detector", approach.check_in_detector),
        ("check_out_detector", approach.check_out_detector),
    ):
        if name and detector_point(name, devices) is None:
            yield f"{where}.{key}: no device of this cabinet has a point for {name!r}"
    if approach.check_in_detector and approach.check_in_detector == approach.check_out_detector:
        yield f"{where}.check_out_detector: {approach.check_in_detector!r} cannot be both before and behind"


def _path_faults(approach: Approach, where: str) -> Iterator[str]:
    try:
        way = Way(approach.path)
    except LocalProtocolError:
        yield f"{where}.path: all its waypoints are the same place"
        return
    if way.length_m > MAX_PATH_M:
        yield f"{where}.path: {way.length_m / 1000:.1f} km long, at most {MAX_PATH_M / 1000:g} km are gone by"
    checked_in_m = approach.stop_line_m - approach.check_in_m
    checked_out_m = approach.stop_line_m + approach.check_out_m
    if approach.stop_line_m > way.length_m:
        yield f"{where}.stop_line_m: {approach.stop_line_m:g} m, the path has {way.length_m:.0f} m"
    elif checked_out_m > way.length_m:
        yield f"{where}.check_out_m: {checked_out_m:g} m from the beginning, the path has {way.length_m:.0f} m"
    if checked_in_m < 0:
        yield f"{where}.check_in_m: {-checked_in_m:g} m before the path begins"


def _rule_faults(rule: PriorityRule, policy: PriorityPolicy) -> Iterator[str]:
    where = f"rules.{rule.id}"
    approach = next((one for one in policy.approaches if one.id == rule.approach), None)
    if approach is None:
        yield f"{where}.approach: there is no approach {rule.approach!r}"
    elif rule.by_detector and not approach.check_in_detector:
        yield f"{where}.by_detector: approach {approach.id} has no check_in_detector"
    if not (rule.green_extension or rule.early_green):
        yield f"{where}: neither green_extension nor early_green, so it would never ask for anything"


def lighting_faults(policy: LightingPolicy, lamps: Sequence[Lamp]) -> list[str]:
    """Return every fault of a lighting policy, each with its place; none if it is sound."""
    return [
        *_place_faults(policy),
        *_repeated("programs", (program.id for program in policy.programs)),
        *_repeated("calendars", (calendar.id for calendar in policy.calendars)),
        *(fault for program in policy.programs for fault in _program_faults(program)),
        *(fault for calendar in policy.calendars for fault in _calendar_faults(policy, calendar)),
        *_assignment_faults(policy, lamps),
    ]


def _place_faults(policy: LightingPolicy) -> Iterator[str]:
    try:
        ZoneInfo(policy.place.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield f"place.timezone: {policy.place.timezone!r} is no IANA time zone such as Europe/Paris"


def _program_faults(program: ControlProgram) -> Iterator[str]:
    where = f"programs.{program.id}"
    if not program.active_periods:
        yield f"{where}.active_periods: empty, so the lamp would never burn; expected at least one"
    for period in program.active_periods:
        if getattr(period, "begin", "") == getattr(period, "end", None):
            yield f"{where}.active_periods: begins and ends at {getattr(period, 'begin', '')}"
    times = [control.time for control in program.fixed_time_controls]
    from_noon = [(time < "12:00", time) for time in times]
    if len(set(times)) < len(times):
        yield f"{where}.fixed_time_controls: a time stands twice"
    elif from_noon != sorted(from_noon) and times != sorted(times):
        yield f"{where}.fixed_time_controls: not ascending, neither from midnight nor from noon: {times}"
    astro = [(control.event.value, control.offset_min) for control in program.astro_clock_controls]
    yield from _repeated(
        f"{where}.astro_clock_controls", (f"{event} {offset:+d} min" for event, offset in astro)
    )


def _calendar_faults(policy: LightingPolicy, calendar: Calendar) -> Iterator[str]:
    where = f"calendars.{calendar.id}"
    known = {program.id for program in policy.programs}
    if calendar.day_offset_h not in {0, 12}:
        yield f"{where}.day_offset_h: {calendar.day_offset_h}, expected 0 or 12"
    if calendar.default_program not in known:
        yield f"{where}.default_program: there is no program {calendar.default_program!r}"
    for position, rule in enumerate(calendar.rules):
        if rule.program not in known:
            yield f"{where}.rules[{position}].program: there is no program {rule.program!r}"
        for key, text in (("from_date", rule.from_date), ("to_date", rule.to_date)):
            if text is not None and not _is_date(text):
                yield f"{where}.rules[{position}].{key}: there is no day {text}"
        if rule.from_date and rule.to_date and rule.to_date < rule.from_date:
            yield f"{where}.rules[{position}]: ends on {rule.to_date}, before it begins on {rule.from_date}"


def _assignment_faults(policy: LightingPolicy, lamps: Sequence[Lamp]) -> Iterator[str]:
    calendars = {calendar.id for calendar in policy.calendars}
    devices = {lamp.id for lamp in lamps}
    groups = {group for lamp in lamps for group in lamp.groups}
    for position, assignment in enumerate(policy.assignments):
        where = f"assignments[{position}]"
        if assignment.calendar not in calendars:
            yield f"{where}.calendar: there is no calendar {assignment.calendar!r}"
        for device in assignment.devices:
            if device not in devices:
                yield f"{where}.devices: this cabinet has no lamp {device!r}"
        for group in assignment.groups:
            if group not in groups:
                yield f"{where}.groups: no lamp of this cabinet is in a group {group!r}"
    yield from _repeated("assignments.devices", (d for a in policy.assignments for d in a.devices))
    yield from _repeated("assignments.groups", (g for a in policy.assignments for g in a.groups))
    for lamp in lamps:
        by_group = [a.calendar for a in policy.assignments if not set(lamp.groups).isdisjoint(a.groups)]
        named = any(lamp.id in a.devices for a in policy.assignments)
        if len(set(by_group)) > 1 and not named:
            yield f"assignments: the groups of {lamp.id} name several calendars: {', '.join(by_group)}"


def _repeated(where: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{where}: {name!r} stands {count} times"


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True

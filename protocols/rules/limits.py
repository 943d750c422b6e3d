"""What only somebody at the cabinet can change: bounds by line and hardware address."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from protocols.model.device import Device
from protocols.model.lighting import Calendar, ControlProgram, Lamp, LightingPolicy
from protocols.model.policy import LampLimit, Limits, SignalLimit
from protocols.model.priority import Approach, PriorityPolicy, PriorityRule
from protocols.rules.lighting import calendar_of

_RANGE = re.compile(r"([0-9]{1,3})(?:\s*-\s*([0-9]{1,3}))?")
_MAX_ADDRESS = 255


def addresses(text: str) -> frozenset[str] | None:
    """Return the hardware addresses, 0 to 255, that "0-3,7" names; None for "*", which names all.

    Raises:
        ValueError: if the text is none of these.
    """
    if text.strip() == "*":
        return None
    found: set[str] = set()
    for part in text.split(","):
        numbers = _RANGE.fullmatch(part.strip())
        low, high = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        if not low <= high <= _MAX_ADDRESS:
            raise ValueError(f"{part.strip()!r} is not a range of addresses such as 0-23")
        found.update(str(n) for n in range(low, high + 1))
    return frozenset(found)


def limits_of(limits: Limits, lamp: Lamp) -> list[LampLimit]:
    """Return every limit that names a lamp."""
    return [limit for limit in limits.lamp if limit.line == lamp.line and _names(limit, lamp.address)]


def level_faults(limits: Limits, lamp: Lamp, level: float) -> list[str]:
    """Return why a lamp must not be set to a level; none if it may."""
    faults = []
    for limit in limits_of(limits, lamp):
        where = f"{lamp.id} ({lamp.line}/{lamp.address})"
        if level == 0 and not limit.switch_off:
            faults.append(f"{where}: the limits file does not allow to switch it off")
        elif 0 < level < limit.minimum_level:
            faults.append(f"{where}: {level:g} % is below the limit of {limit.minimum_level} %")
        elif level > limit.maximum_level:
            faults.append(f"{where}: {level:g} % is above the limit of {limit.maximum_level} %")
    return faults


def nearest_allowed(limits: Limits, lamp: Lamp, level: int) -> int:
    """Return the level nearest to a wanted one that a lamp's limits allow while it burns; 0 stays 0.

    What was accepted once may break a limit that somebody has set at the cabinet since. Where limits
    contradict each other the higher level wins: light is the safe side.
    """
    if level == 0:
        return 0
    named = limits_of(limits, lamp)
    highest = min((limit.maximum_level for limit in named), default=level)
    lowest = max((limit.minimum_level for limit in named), default=level)
    return max(min(level, highest), lowest) if named else level


def policy_faults(limits: Limits, policy: LightingPolicy, lamps: Sequence[Lamp]) -> list[str]:
    """Return every level of a policy that some lamp's limits forbid. The policy must be sound in itself."""
    faults: dict[str, None] = {}
    for lamp in lamps:
        calendar = calendar_of(policy, lamp)
        levels = [("default", policy.default_level)] if calendar is None else _levels(policy, calendar)
        for where, level in levels:
            faults.update(dict.fromkeys(f"{where}: {fault}" for fault in level_faults(limits, lamp, level)))
    return list(faults)


def signal_limits_of(limits: Limits, junction: Device, signal_group: str) -> list[SignalLimit]:
    """Return every limit that names a signal group."""
    return [
        limit
        for limit in limits.signal
        if limit.line == junction.line
        and limit.address in {"*", junction.address}
        and limit.signal_group in {"*", signal_group}
    ]


def requests_allowed(named: Sequence[SignalLimit]) -> bool:
    """Tell whether the limits that name a signal group allow any request for it."""
    return all(limit.priority and limit.max_grants_per_hour > 0 for limit in named)


def bounded_rule(rule: PriorityRule, named: Sequence[SignalLimit]) -> PriorityRule:
    """Return a rule as it is gone by: each bound stands in the rule and in the limits, and the stricter holds.

    What was accepted once may break a limit that somebody has set at the cabinet since.
    """
    return msgspec.structs.replace(
        rule,
        level=min([rule.level, *(limit.max_level for limit in named)]),
        max_extension_s=min([rule.max_extension_s, *(limit.max_extension_s for limit in named)]),
        cooldown_s=max([rule.cooldown_s, *(limit.min_cooldown_s for limit in named)]),
        grants_per_hour=min([rule.grants_per_hour, *(limit.max_grants_per_hour for limit in named)]),
        time_to_live_s=min([rule.time_to_live_s, *(limit.max_time_to_live_s for limit in named)]),
    )


def priority_limit_faults(limits: Limits, policy: PriorityPolicy, devices: Sequence[Device]) -> list[str]:
    """Return everything in a policy that the limits of its signal groups forbid. It must be sound in itself."""
    by_id = {device.id: device for device in devices}
    approaches = {approach.id: approach for approach in policy.approaches}
    return [
        f"rules.{rule.id}.{fault}"
        for rule in policy.rules
        for approach in [approaches[rule.approach]]
        for fault in _rule_faults(rule, approach, by_id[approach.junction], limits)
    ]


def _rule_faults(rule: PriorityRule, approach: Approach, junction: Device, limits: Limits) -> Iterator[str]:
    where = f"{junction.line}/{junction.address}/{approach.signal_group}"
    for limit in signal_limits_of(limits, junction, approach.signal_group):
        if not limit.priority and not rule.shadow:
            yield f"approach: the limits file allows no request for {where}"
        for name, value, most in (
            ("level", rule.level, limit.max_level),
            ("max_extension_s", rule.max_extension_s, limit.max_extension_s),
            ("grants_per_hour", rule.grants_per_hour, limit.max_grants_per_hour),
            ("time_to_live_s", rule.time_to_live_s, limit.max_time_to_live_s),
        ):
            if value > most:
                yield f"{name}: {value} is above the limit of {most} for {where}"
        if rule.cooldown_s < limit.min_cooldown_s:
            yield f"cooldown_s: {rule.cooldown_s} is below the limit of {limit.min_cooldown_s} for {where}"


def _names(limit: LampLimit, address: str) -> bool:
    named = addresses(limit.addresses)
    return named is None or address in named


def _levels(policy: LightingPolicy, calendar: Calendar) -> Iterator[tuple[str, int]]:
    wanted = {calendar.default_program, *(rule.program for rule in calendar.rules)}
    for program in policy.programs:
        if program.id in wanted:
            yield from _program_levels(program)


def _program_levels(program: ControlProgram) -> Iterator[tuple[str, int]]:
    for period in program.active_periods:
        yield f"program {program.id}, active period", period.level
    for fixed in program.fixed_time_controls:
        yield f"program {program.id}, {fixed.time}", fixed.level
    for astro in program.astro_clock_controls:
        yield f"program {program.id}, {astro.event.value} {astro.offset_min:+d} min", astro.level

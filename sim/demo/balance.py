"""What the evening comes to, counted from the simulated hardware and the two databases after all has stopped.

*Taken* is what the outboxes ever committed, by their own durable count. *Committed* is the rows in the centre's
database. Beside that, each Modbus register counted its own reads, each lamp its own answers, each radio sensor its
own uplinks and the signal controller its own grants, independently of the product: what the hardware gave must be
at the centre, and nothing more than that.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from sim.demo.files import RADIO
from sim.demo.setting import LAMPS, VEHICLES, StreetFiles, lamp_id, sensor_id
from sim.lamp import DimmingCurve, light_share
from sim.report import Counters, StreetState

READ_BY = {
    # Which register of which table stands for a reading of which point (device suffix, table, address, point).
    ("meter", "input_registers", "52", "active_power"),
    ("meter", "input_registers", "72", "cumulative_active_energy"),
    ("meter", "input_registers", "0", "voltage_l1"),
    ("io", "discrete_inputs", "0", "cabinet_door_open"),
    ("io", "coils", "0", "contactor"),
    ("lux", "input_registers", "0", "illuminance"),
}


LINES = {
    "dali-1": "dali",
    "meter-line": "modbus-tcp",
    "rs485-1": "modbus-rtu",
    "tlc-1": "rsmp",
    "plc-1": "opcua",
    "air-1": "lorawan",
}
"""What is spoken on which line of the streets."""
PROTOCOLS = len(LINES)
TALKATIVE = ("tlc-1", "plc-1")
"""Lines whose devices tell of changes whenever they like."""


class Evidence(msgspec.Struct, frozen=True):
    """What the hardware of one street says.

    Attributes:
        street: which.
        state: its last state.
        counters: its last counters.
        restarted: whether the hardware was begun again, so that its counters are of a part of the evening.
    """

    street: StreetFiles
    state: StreetState
    counters: Counters
    restarted: bool


class Balance(msgspec.Struct, frozen=True):
    """The last line of the demonstration.

    Attributes:
        readings_taken: committed to the outboxes, ever.
        readings_committed: rows at the centre.
        lost: taken or given by the hardware, and not at the centre.
        duplicated: at the centre more than once.
        lamps: in the streets.
        dimming_steps_applied: level changes that the lamps themselves have seen.
        lamps_at_commanded_level: lamps whose own level is what the centre was told they were commanded to.
        alarms: that the centre has recorded.
        priority_requests: that the signal controller has received.
        priority_granted: of them, those that it says it has activated and completed.
        green_seconds_gained: of green prolonged and red shortened, as the controller says.
        lorawan_uplinks: genuine uplinks whose readings are at the centre.
        forged_accepted: radio frames at the centre that no sensor has sent, or that are there twice.
        protocols: the kinds of line of which the centre has good readings.
        unsealed_at_kill: readings that the hardware gave to a cabinet whose agent was killed and which are
            not at the centre, where the agent has reported a crash gap; not compared with the gap's times.
        ok: whether all that should be is.
        why: what should be and is not.
    """

    readings_taken: int
    readings_committed: int
    lost: int
    duplicated: int
    lamps: int
    dimming_steps_applied: int
    lamps_at_commanded_level: int
    alarms: int
    priority_requests: int
    priority_granted: int
    green_seconds_gained: int
    lorawan_uplinks: int
    forged_accepted: int
    protocols: list[str]
    unsealed_at_kill: int
    ok: bool
    why: list[str]


class Greens(msgspec.Struct, frozen=True):
    """What became of the buses' requests, by one book: the controller's own, or the centre's.

    Attributes:
        requests: received.
        granted: activated and completed.
        gained_s: seconds of green prolonged and red shortened.
    """

    requests: int
    granted: int
    gained_s: int


def balance(evidence: Sequence[Evidence], central: Path, missed: Sequence[str]) -> Balance:
    """Count. `missed` names what of the story did not come true."""
    with closing(sqlite3.connect(f"file:{central}?mode=ro", uri=True)) as db:
        committed = int(db.execute("SELECT count(*) FROM reading").fetchone()[0])
        crashed = {row[0] for row in db.execute("SELECT DISTINCT cabinet FROM gap WHERE cause = 'crash'")}
        alarms = int(db.execute("SELECT count(*) FROM alarm").fetchone()[0])
        hardware = [_against_hardware(db, one) for one in evidence]
        repeated = _repeated(db)
        at_level = sum(_at_commanded_level(db, one) for one in evidence)
        told = _greens_at_the_centre(db)
        uplinks, forged = _uplinks(db, evidence)
        protocols = _protocols(db)
    taken = sum(_taken(one.street.outbox) for one in evidence)
    unsealed = sum(
        missing for (missing, _), one in zip(hardware, evidence, strict=True) if one.street.cabinet in crashed
    )
    lost = max(0, taken - committed) + sum(
        missing
        for (missing, _), one in zip(hardware, evidence, strict=True)
        if one.street.cabinet not in crashed
    )
    duplicated = max(repeated, committed - taken, sum(surplus for _, surplus in hardware))
    steps = sum(sum(line.level_changes.values()) for one in evidence for line in one.counters.lines.values())
    lamps = LAMPS * len(evidence)
    greens = _greens_by_the_controllers(evidence)
    checks = {
        "nothing was taken": taken > 0,
        "readings are lost": lost == 0,
        "readings are there twice": duplicated == 0,
        "somebody's forgery was believed": forged == 0,
        "lamps are not at the level that they were commanded to": at_level == lamps,
        "no alarm was recorded": alarms > 0,
        f"the controllers tell {greens}, the centre {told}": told == greens
        or any(one.restarted for one in evidence),
        "a bus did not get its green": greens.granted >= len(VEHICLES),
        "no radio sensor was heard": uplinks > 0,
        f"of {PROTOCOLS} kinds of line only these speak: {protocols}": len(protocols) == PROTOCOLS,
    }
    why = [f"did not come true: {one}" for one in missed] + [
        text for text, holds in checks.items() if not holds
    ]
    return Balance(
        readings_taken=taken,
        readings_committed=committed,
        lost=lost,
        duplicated=duplicated,
        lamps=lamps,
        dimming_steps_applied=steps,
        lamps_at_commanded_level=at_level,
        alarms=alarms,
        priority_requests=greens.requests,
        priority_granted=greens.granted,
        green_seconds_gained=greens.gained_s,
        lorawan_uplinks=uplinks,
        forged_accepted=forged,
        protocols=protocols,
        unsealed_at_kill=unsealed,
        ok=not why,
        why=why,
    )


def _greens_by_the_controllers(evidence: Sequence[Evidence]) -> Greens:
    """Add up the controllers' own books."""
    books = [junction for one in evidence for junction in one.counters.junctions.values()]
    return Greens(
        sum(book.requests for book in books),
        sum(book.granted for book in books),
        sum(book.green_seconds_gained for book in books),
    )


def _greens_at_the_centre(db: sqlite3.Connection) -> Greens:
    """Return what the cabinets have told the centre of the same."""
    row = db.execute(
        "SELECT count(*), sum(state = 'completed'), sum(coalesce(extension_s, 0) + coalesce(reduction_s, 0))"
        " FROM priority_request WHERE state IS NOT NULL"
    ).fetchone()
    return Greens(*(int(number or 0) for number in row))


def _uplinks(db: sqlite3.Connection, evidence: Sequence[Evidence]) -> tuple[int, int]:
    """Return how many uplinks are at the centre, and how many of them no sensor has sent.

    A sensor counts its frames from 0, and each once: a counter that it has not reached is a forger's, one that is
    there twice a forger's or a recording.
    """
    found = forged = 0
    for one in evidence:
        for sensor in one.street.sensors:
            counters = _good_values(db, sensor_id(one.street, sensor), "frame_counter")
            found += len(counters)
            if not one.restarted:
                reached = one.state.radio[RADIO].sensors[sensor.name].counter_up
                genuine = {counter for counter in counters if counter < reached}
                forged += len(counters) - len(genuine)
    return found, forged


def _good_values(db: sqlite3.Connection, device: str, point: str) -> list[float]:
    rows = db.execute(
        "SELECT value FROM reading JOIN series ON series.id = series_id"
        " WHERE device = ? AND point = ? AND quality = 0",
        (device, point),
    )
    return [row[0] for row in rows]


def _protocols(db: sqlite3.Connection) -> list[str]:
    """Return the kinds of line whose devices have good readings at the centre."""
    rows = db.execute(
        "SELECT DISTINCT line FROM device JOIN series ON series.device = device.id"
        " JOIN latest ON latest.series_id = series.id WHERE latest.quality = 0"
    )
    return sorted({LINES[row[0]] for row in rows})


def _taken(outbox: Path) -> int:
    with closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT sum(taken) FROM stream").fetchone()[0])


def _against_hardware(db: sqlite3.Connection, one: Evidence) -> tuple[int, int]:
    """Return how many answers of a street's hardware are not at the centre, and how many rows are too many."""
    missing = surplus = 0
    for device, point, given, exact in _given(one):
        good, all_rows = _rows(db, device, point)
        missing += max(0, given - all_rows)
        if exact and not one.restarted:
            surplus += max(0, good - given)
    return missing, surplus


def _given(one: Evidence) -> list[tuple[str, str, int, bool]]:
    """Return (device, point, answers given, whether nothing but polling asks for it)."""
    cabinet = one.street.cabinet
    counted = [
        (
            sensor_id(one.street, sensor),
            "frame_counter",
            one.counters.radio[RADIO].sensors[sensor.name].uplinks,
            True,
        )
        for sensor in one.street.sensors
    ]
    names = {"meter": "meter", "io": "cabinet", "lux": "lux"}
    for device, table, address, point in sorted(READ_BY):
        unit = _unit(one.counters.modbus, names[device])
        counted.append((f"{cabinet}-{device}", point, unit.get(table, {}).get(address, 0), True))
    return counted


def _unit(units: Mapping[str, dict[str, dict[str, int]]], name: str) -> dict[str, dict[str, int]]:
    return next((tables for unit, tables in units.items() if unit.split("/")[-1].startswith(name)), {})


def _rows(db: sqlite3.Connection, device: str, point: str) -> tuple[int, int]:
    row = db.execute(
        "SELECT coalesce(sum(quality = 0), 0), count(*) FROM reading JOIN series ON series.id = series_id"
        " WHERE device = ? AND point = ?",
        (device, point),
    ).fetchone()
    return int(row[0]), int(row[1])


def _repeated(db: sqlite3.Connection) -> int:
    """Return how many rows are beyond the first of their (point, moment): nobody reads twice in a millisecond.

    A controller or a station that speaks by itself may tell the same again in one breath; what it told twice
    and what the product doubled can only be told apart by the outboxes' own count.
    """
    marks = ", ".join("?" * len(TALKATIVE))
    row = db.execute(
        "SELECT coalesce(sum(n - 1), 0) FROM"  # noqa: S608  marks of ours
        " (SELECT count(*) AS n FROM reading JOIN series ON series.id = series_id"
        f" JOIN device ON device.id = series.device WHERE line NOT IN ({marks})"
        " GROUP BY series_id, utc_ms HAVING n > 1)",
        TALKATIVE,
    ).fetchone()
    return int(row[0])


def _at_commanded_level(db: sqlite3.Connection, one: Evidence) -> int:
    """Count the lamps whose own arc power level is what was last reported as commanded."""
    rows = db.execute(
        "SELECT device, value FROM latest JOIN series ON series.id = series_id WHERE point = 'commanded_level'"
    )
    commanded = {str(device): int(value) for device, value in rows}
    gear = next(iter(one.state.lines.values())).gear
    found: Counter[bool] = Counter()
    for address in range(LAMPS):
        wanted = commanded.get(lamp_id(one.street, address))
        found[wanted is not None and gear[str(address)].level == arc_power_level(wanted)] += 1
    return found[True]


def arc_power_level(percent: int) -> int:
    """Return the arc power level whose light is nearest to a percentage (logarithmic curve), 0–254."""
    if percent == 0:
        return 0
    return min(
        range(1, 255), key=lambda level: abs(light_share(level, DimmingCurve.LOGARITHMIC) - percent / 100)
    )
